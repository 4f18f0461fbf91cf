import Foundation
import Plans
import Runs
import Text

/// Row of a comparison: the graft of a run, or a teacher.
package struct ComparisonRow: Encodable, Equatable, Sendable {
  /// Path of the run; nil for a teacher.
  package let run: String?
  /// Name of the run.
  package let name: String
  /// Unique label: the name, followed by the end of the run's id if names repeat.
  package fileprivate(set) var label: String
  /// Short description of the plan.
  package let plan: String
  /// Stage of grafting; nil for a teacher.
  package let stage: Int?
  /// State of the run.
  package let state: String
  /// Held-out loss at the first and at the last measurement.
  package let heldOutFirst, heldOutLast: Double?
  /// Fraction of images that the judge assigns to their class.
  package let agreement: Double?
  /// Squared Fréchet distance in the judge's features.
  package let frechetDistance: Double?
  /// Drawing settings of the images of both metrics.
  package let judgedOn: DrawingSettings?
  /// Number of parameters of the model.
  package let parameters: Int
  /// FLOPs of a forward pass of one image: of the operators' cores, of everything else, and in
  /// total.
  package let coreFlops, projectionFlops, flops: Double
  /// Forward pass time of one image in milliseconds.
  package let forwardMilliseconds: Double?
  /// Forward pass time relative to the teacher.
  package let forwardRatio: Double?
  /// Whether no other row dominates this one.
  package fileprivate(set) var isOnParetoFront = false
  /// Digest of the model; only grafts of one model are compared.
  fileprivate let model: String

  private enum CodingKeys: CodingKey {
    case run, name, plan, stage, state, heldOutFirst, heldOutLast, agreement, frechetDistance
    case judgedOn
    case parameters, coreFlops, projectionFlops, flops, forwardMilliseconds, forwardRatio,
      isOnParetoFront
  }

  /// Whether another row dominates this one: at least as good in quality and cost, better in one.
  ///
  /// Quality is the Fréchet distance if both rows have one with equal drawing settings, otherwise
  /// the last held-out loss of runs of one stage. Cost is the measured time relative to the teacher
  /// if both rows have one, otherwise the FLOPs. Rows without a common metric do not dominate each
  /// other.
  fileprivate func isDominated(by other: ComparisonRow) -> Bool {
    guard model == other.model else { return false }
    let quality: (Double, Double)
    if let own = frechetDistance, let others = other.frechetDistance, judgedOn == other.judgedOn {
      quality = (own, others)
    } else if let own = heldOutLast, let others = other.heldOutLast, stage == other.stage {
      quality = (own, others)
    } else {
      return false
    }
    let cost: (Double, Double)
    if let own = forwardRatio, let others = other.forwardRatio {
      cost = (own, others)
    } else {
      cost = (flops, other.flops)
    }
    guard quality.1 <= quality.0 || quality.0.isNaN, cost.1 <= cost.0 else { return false }
    return quality.1 < quality.0 || quality.0.isNaN && !quality.1.isNaN || cost.1 < cost.0
  }

  /// Whether a quality metric is known.
  fileprivate var hasQuality: Bool {
    [frechetDistance, heldOutLast].contains { $0.map { !$0.isNaN } ?? false }
  }
}

/// Comparison of runs and their teachers with the Pareto front.
package struct Comparison: Sendable {
  /// The teachers, then the runs in the order given.
  package let rows: [ComparisonRow]

  /// Compares runs.
  package init(_ runs: [(facts: RunFacts, measurements: Measurements?)]) {
    var teachers: [String: ComparisonRow] = [:]
    var order: [String] = []
    for (facts, measurements) in runs {
      let model = facts.plan.model.contentHash
      if teachers[model] == nil { order.append(model) }
      // The first judged run has the most complete measurements of the teacher.
      if teachers[model] == nil || teachers[model]?.agreement == nil && measurements != nil {
        teachers[model] = ComparisonRow(teacherOf: facts, measurements)
      }
    }
    var rows = order.compactMap { teachers[$0] }
    rows += runs.map { ComparisonRow($0.facts, $0.measurements) }
    let byName = Dictionary(grouping: runs) { $0.facts.request.name }
    for (index, (facts, _)) in zip(order.count..., runs) {
      let namesakes = Set((byName[facts.request.name] ?? []).map { $0.facts.run })
      if namesakes.count > 1 { rows[index].label += " \(facts.run.shortID)" }
    }
    for index in rows.indices {
      rows[index].isOnParetoFront =
        rows[index].hasQuality && !rows.contains { rows[index].isDominated(by: $0) }
    }
    self.rows = rows
  }

  /// Drawing settings of agreement and Fréchet distance, as text; nil if there are none.
  package var note: String? {
    let drawn = rows.compactMap(\.judgedOn)
    guard let first = drawn.first else { return nil }
    guard drawn.allSatisfy({ $0 == first }) else {
      return "The lines were judged on different numbers of images or steps, and such Fréchet"
        + " distances do not compare; measure them with the same --samples and --steps."
    }
    return "Judged on \(first.samples) images of each model, \(first.steps) DDIM steps, guidance"
      + " \(Figures.short(Double(first.guidance)))."
  }

  /// Headings of `cells`.
  package static let headings = [
    "run", "plan", "stage", "held-out loss", "agreement", "Fréchet distance", "parameters",
    "FLOPs", "forward", "of teacher", "front",
  ]

  /// Numeric, right-aligned columns.
  package static let numeric = Set(2...9)

  /// Cells of a row, with a dash for unknown values.
  package static func cells(_ row: ComparisonRow) -> [String] {
    let heldOut: String? = row.heldOutLast.map { last in
      row.heldOutFirst.map { "\(Figures.short($0)) → " }.map { $0 + Figures.short(last) }
        ?? Figures.short(last)
    }
    return [
      row.label, row.plan, row.stage.map(String.init) ?? "–", heldOut ?? "–",
      row.agreement.map(Figures.percent) ?? "–", row.frechetDistance.map(Figures.short) ?? "–",
      Figures.metric(Double(row.parameters)), Figures.metric(row.flops),
      row.forwardMilliseconds.map { Figures.short($0) + " ms" } ?? "–",
      row.forwardRatio.map { "× " + String(format: "%.3f", $0) } ?? "–",
      row.isOnParetoFront ? "●" : "",
    ]
  }

  /// The table with aligned columns.
  package var text: String {
    TextWidth.table([Self.headings] + rows.map(Self.cells), numeric: Self.numeric)
      .joined(separator: "\n") + (note.map { "\n\n\($0)" } ?? "")
  }

  /// The table in Markdown.
  package var markdown: String {
    func line(_ cells: [String]) -> String { "| \(cells.joined(separator: " | ")) |" }
    let rule = Self.headings.indices.map { Self.numeric.contains($0) ? "---:" : "---" }
    return
      ([line(Self.headings), line(rule)]
      + rows.map { row in
        line(Self.cells(row).map { $0.printable.replacing("|", with: "\\|") })
      }).joined(separator: "\n") + (note.map { "\n\n\($0)" } ?? "")
  }
}

extension ComparisonRow {
  /// Makes the row of a run.
  fileprivate init(_ facts: RunFacts, _ measurements: Measurements?) {
    let cost = facts.plan.cost().edited
    self.init(
      run: facts.run.path, name: facts.request.name, label: facts.request.name,
      plan: facts.plan.summary, stage: facts.stage,
      state: facts.summary.stateText, heldOutFirst: facts.summary.meanHeldOut?.first.value,
      heldOutLast: facts.summary.meanHeldOut?.last.value,
      agreement: measurements?.judged?.graft.agreement,
      frechetDistance: measurements?.judged?.graft.frechetDistance,
      judgedOn: measurements?.judgedOn, parameters: cost.parameters, coreFlops: cost.coreFlops,
      projectionFlops: cost.projectionFlops, flops: cost.flops,
      forwardMilliseconds: measurements?.speed?.graftMilliseconds,
      forwardRatio: measurements?.speed?.ratio, model: facts.plan.model.contentHash)
  }

  /// Makes the row of a run's teacher.
  fileprivate init(teacherOf facts: RunFacts, _ measurements: Measurements?) {
    let cost = facts.plan.cost().original
    let path = facts.plan.model.path
    let name = path.split(separator: "/").last.map(String.init) ?? path
    self.init(
      run: nil, name: name, label: name,
      plan: "teacher", stage: nil, state: "pretrained", heldOutFirst: nil, heldOutLast: nil,
      agreement: measurements?.judged?.teacher.agreement,
      frechetDistance: measurements?.judged?.teacher.frechetDistance,
      judgedOn: measurements?.judgedOn, parameters: cost.parameters, coreFlops: cost.coreFlops,
      projectionFlops: cost.projectionFlops, flops: cost.flops,
      forwardMilliseconds: measurements?.speed?.teacherMilliseconds,
      forwardRatio: measurements?.speed == nil ? nil : 1, model: facts.plan.model.contentHash)
  }
}
