import Plans
import Runs
import Search

/// The search for the best plans, over the whole screen.
package struct SearchPane: Equatable, Sendable {
  /// What the budget counts.
  package var measure = Measure.time
  /// The budget as a fraction of the teacher's amount.
  package var budget = 0.8
  /// Restrictions on plans.
  package var constraints = ParetoSolver.Constraints()
  /// The best plans for all budgets; nil until they are found for the first time.
  package var front: [ParetoSolver.Solution]?
  /// Whether other restrictions than those of `front` are being solved.
  package var isSolving = true
  /// Position in the order of solutions asked for; a later one always wins.
  package var generation = 0
  /// Whether the plot has the grid's place.
  package var isLarge = false
  /// The point of the plot that is shown in the place of the budget's plan.
  package var point: Int?
  /// Operators that the plan had in slots when they were locked to the teacher's.
  var shownOperators: [SlotID: OperatorSpec] = [:]
  /// Whether the mouse holds the budget.
  package var isHeld = false

  /// Starts without a front.
  package init() {}
}

/// A plan on the plot of a search.
package struct SearchPoint: Equatable, Sendable {
  /// The character on the plot.
  package let mark: Character
  /// What it is, in a few words.
  package let title: String
  /// What it changes; nil if that is not known.
  package let changes: GraftPlan.Changes?
  /// Fraction of the teacher's amount, and whether the time was measured of the whole plan.
  package let fraction: Double
  /// Error of the guided prediction relative to the teacher: measured with all changes, or the sum of single ones.
  package let error: Double
  /// Whether the error was measured with all changes at once.
  package let isMeasured: Bool
  /// The error after a short stage 2.
  package var recovered: Double?
}

extension AppState {
  /// The search that is open.
  package var searchPane: SearchPane? {
    overlays.lazy.compactMap { if case .search(let pane) = $0 { pane } else { nil } }.first
  }

  /// What a set of changes loses and leaves of the teacher's amount; nil if the library does not know all of them.
  func estimate(
    _ changes: GraftPlan.Changes, _ measure: Measure
  ) -> (error: Double, fraction: Double)? {
    guard let costs = library.costs, let total = teacherAmount(measure), changes.parallel.isEmpty
    else { return nil }
    var (error, saving) = (0.0, 0.0)
    for (slot, spec) in changes.edits {
      guard let candidate = costs.candidate(spec.normalized(for: model.shape), in: slot) else {
        return nil
      }
      error += candidate.loss
      saving += candidate.saving[measure]
    }
    return (error, 1 - saving / total)
  }

  /// The plan with the smallest sum of errors that meets the budget; nil if none does.
  package func solution(for pane: SearchPane) -> ParetoSolver.Solution? {
    guard let total = teacherAmount(pane.measure) else { return nil }
    let saving = (1 - pane.budget) * total
    return pane.front?.first { $0.saving[pane.measure] >= saving - 1e-9 * total }
  }

  /// The fractions that the front reaches; nil without a front.
  package func budgets(of pane: SearchPane) -> ClosedRange<Double>? {
    guard let total = teacherAmount(pane.measure), let last = pane.front?.last else { return nil }
    let least = 1 - last.saving[pane.measure] / total
    return min(1, max(0.001, least))...1
  }

  /// What the search shows in the grid: the chosen point, or the best plan for the budget.
  package func proposal(of pane: SearchPane) -> GraftPlan? {
    var next = plan
    if let point = pane.point {
      let points = points(of: pane)
      guard points.indices.contains(point), let changes = points[point].changes else { return nil }
      (next.edits, next.parallel) = (changes.edits, changes.parallel)
      return next
    }
    guard let solution = solution(for: pane) else { return nil }
    (next.edits, next.parallel) = ([:], [:])
    for change in solution.changes { change.apply(to: &next) }
    return next
  }

  /// The plans beside the front: the one that is edited, baselines of the same saving as the budget's, those of
  /// finished searches, and those of trainings.
  package func points(of pane: SearchPane) -> [SearchPoint] {
    var points: [SearchPoint] = []
    func add(_ mark: Character, _ title: String, _ changes: GraftPlan.Changes) {
      guard let estimate = estimate(changes, pane.measure) else { return }
      points.append(
        SearchPoint(
          mark: mark, title: title, changes: changes, fraction: estimate.fraction,
          error: estimate.error, isMeasured: false))
    }
    add("@", "the plan as it is", plan.changes)
    for (baseline, changes) in baselines(of: pane) { add(baseline.mark, baseline.name, changes) }
    for search in library.searches where search.measure == pane.measure {
      for row in search.rows {
        let mark = Baseline.allCases.first { row.origin.hasPrefix($0.name) }?.mark
        points.append(
          SearchPoint(
            mark: mark.map { Character($0.uppercased()) }
              ?? (row.origin.hasPrefix("search") ? "S" : "C"),
            title: "\(row.origin), \(search.name)", changes: row.changes,
            fraction: pane.measure == .time ? row.timeFraction ?? row.fraction : row.fraction,
            error: row.error, isMeasured: true, recovered: row.recovered))
      }
    }
    let trained = runs.records.lazy.filter {
      $0.isTraining && $0.state == .done && $0.modelHash == model.contentHash
    }
    for record in trained.prefix(Self.trainingLimit) {
      if let changes = record.changes { add("t", runs.title(record), changes) }
    }
    return points
  }

  /// Most trainings on the plot.
  private static let trainingLimit = 12

  /// Simple choices of blocks that save as much as the budget asks for, with the operator that is most frequent in the
  /// attention slots of the best plan.
  private func baselines(of pane: SearchPane) -> [(Baseline, GraftPlan.Changes)] {
    guard let costs = library.costs, let total = teacherAmount(pane.measure),
      let best = solution(for: pane), !best.changes.isEmpty
    else { return [] }
    var counts: [OperatorSpec: Int] = [:]
    for case .slot(let id, let spec) in best.changes where id.slot == .attention {
      counts[spec, default: 0] += 1
    }
    let specs =
      counts.sorted { ($0.value, $1.key.name) > ($1.value, $0.key.name) }.map(\.key)
      + costs.operators(of: .attention)
    let locality = teacher.map { known in known.blocks.indices.map { known.share(block: $0) ?? 0 } }
    return Baseline.allCases.compactMap { baseline in
      guard baseline != .random, locality != nil || !baseline.needsLocality else { return nil }
      let order = baseline.order(depth: depth, locality: locality ?? [])
      let changes = specs.lazy.compactMap { spec in
        Baseline.changes(
          costs.candidates, slot: .attention, spec: spec, order: order, measure: pane.measure,
          saving: (1 - pane.budget) * total)
      }.first
      guard let changes else { return nil }
      var other = GraftPlan(named: "", model: model)
      for change in changes { change.apply(to: &other) }
      return (baseline, other.changes)
    }
  }

  /// The state as it would be with the plan that the search shows.
  func showing(_ pane: SearchPane) -> AppState {
    guard let proposal = proposal(of: pane) else { return self }
    var shown = self
    shown.document.edit("proposal") { $0 = proposal }
    return shown
  }

  /// The plan that previews sample: the one that a search shows, or the one that is edited.
  var sampledPlan: GraftPlan { searchPane.flatMap { proposal(of: $0) } ?? plan }
}

extension Baseline {
  /// The character on the plot; its capital is a measurement of the whole plan.
  var mark: Character {
    switch self {
    case .interleaved: "i"
    case .last: "l"
    case .leastLocal: "w"
    case .mostLocal: "n"
    case .random: "r"
    }
  }

  /// Whether its order follows the teacher's locality.
  var needsLocality: Bool { self == .leastLocal || self == .mostLocal }
}
