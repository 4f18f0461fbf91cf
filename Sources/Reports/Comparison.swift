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
  /// What ranks it.
  fileprivate let ranked: RankedModel

  private enum CodingKeys: CodingKey {
    case run, name, plan, stage, state, heldOutFirst, heldOutLast, agreement, frechetDistance
    case judgedOn
    case parameters, coreFlops, projectionFlops, flops, forwardMilliseconds, forwardRatio,
      isOnParetoFront
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
    for (index, isOnFront) in rows.map(\.ranked).isOnParetoFront.enumerated() {
      rows[index].isOnParetoFront = isOnFront
    }
    self.rows = rows
  }

  /// Drawing settings of agreement and Fréchet distance, and what does not compare; nil if there is
  /// nothing to say.
  package var note: String? {
    let notes = [judgingNote, lossNote, timeNote].compactMap(\.self)
    return notes.isEmpty ? nil : notes.joined(separator: " ")
  }

  private var judgingNote: String? {
    let drawn = rows.compactMap(\.judgedOn)
    guard let first = drawn.first else { return nil }
    guard drawn.allSatisfy({ $0 == first }) else {
      return "The lines were judged on different numbers of images or steps, and such Fréchet"
        + " distances do not compare; measure them with the same --samples and --steps."
    }
    return "Judged on \(first.samples) images of each model, \(first.steps) sampler steps, guidance"
      + " \(Figures.short(Double(first.guidance)))."
  }

  private var timeNote: String? {
    guard rows.count(where: { $0.run != nil && $0.forwardMilliseconds != nil }) > 1 else {
      return nil
    }
    return
      "Milliseconds were measured at several times and do not compare; the ratios do, which were measured in"
      + " turns with the teacher."
  }

  private var lossNote: String? {
    let bases = rows.filter { $0.heldOutLast != nil }.compactMap(\.ranked.basis)
    return bases.reasonAgainstComparing.map { "\($0.prefix(1).uppercased())\($0.dropFirst())." }
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
      forwardRatio: measurements?.speed?.ratio,
      ranked: RankedModel(
        modelHash: facts.plan.model.contentHash,
        basis: LossBasis(facts.plan, facts.request.job.kind),
        heldOut: facts.summary.meanHeldOut?.last.value,
        distance: measurements?.judged(\.graft.frechetDistance),
        forwardRatio: measurements?.speed?.ratio,
        flops: cost.flops))
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
      forwardRatio: measurements?.speed == nil ? nil : 1,
      ranked: RankedModel(
        modelHash: facts.plan.model.contentHash,
        distance: measurements?.judged(\.teacher.frechetDistance),
        forwardRatio: measurements?.speed == nil ? nil : 1, flops: cost.flops))
  }
}

extension Measurements {
  /// A Fréchet distance with the settings of its images.
  fileprivate func judged(_ distance: (JudgedPair) -> Double) -> JudgedDistance? {
    guard let judged, let judgedOn else { return nil }
    return JudgedDistance(distance(judged), settings: "\(judgedOn)")
  }
}
