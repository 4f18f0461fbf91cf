import Plans
import Runs
import Search

/// What the library of the model's operators and finished searches say.
package struct LibraryState: Equatable, Sendable {
  /// Errors and savings of operators; nil until they are read.
  package var costs: ReplacementCosts?
  /// Searches of this model that are done, the newest first.
  package var searches: [FinishedSearch] = []

  /// Nothing read yet.
  package init() {}
}

/// A search that is done.
package struct FinishedSearch: Equatable, Sendable {
  /// A plan that was evaluated whole.
  package struct Row: Equatable, Sendable {
    /// How it was found: `search`, or the name of a baseline.
    package let origin: String
    /// What it changes; nil if its plan cannot be read.
    package let changes: GraftPlan.Changes?
    /// Error of the guided prediction with all changes at once, relative to the teacher.
    package let error: Double
    /// The same after a short stage 2.
    package let recovered: Double?
    /// Measured fraction of the teacher's time, and the fraction of what the budget counts.
    package let timeFraction: Double?, fraction: Double

    /// Makes a row.
    package init(
      origin: String, changes: GraftPlan.Changes?, error: Double, recovered: Double?,
      timeFraction: Double?, fraction: Double
    ) {
      (self.origin, self.changes, self.error) = (origin, changes, error)
      (self.recovered, self.timeFraction, self.fraction) = (recovered, timeFraction, fraction)
    }
  }

  /// Identifier and name of its run.
  package let id: String, name: String
  /// What its budgets count.
  package let measure: Measure
  /// The evaluated plans of all budgets.
  package let rows: [Row]

  /// Makes a search.
  package init(id: String, name: String, measure: Measure, rows: [Row]) {
    (self.id, self.name, self.measure, self.rows) = (id, name, measure, rows)
  }
}

extension AppState {
  /// Why nothing is known of costs, as a sentence; nil if something is, or the library is being read.
  var reasonAgainstCosts: String? {
    guard let costs = library.costs, costs.candidates.isEmpty else { return nil }
    if let build = runs.records.first(where: {
      $0.kind == .library && $0.modelHash == model.contentHash && $0.isAlive
    }) {
      let place = build.total > 0 ? ", \(build.progressText)" : ""
      return switch build.state {
      case .running: "the library is being built\(place)"
      case .queued: "the library is to be built: its run waits in the queue"
      default: "the library is being built, \(build.stateText)\(place)"
      }
    }
    if costs.elsewhere > 0 {
      return "the library's operators were timed on another machine: b times them here"
    }
    return costs.count > 0
      ? "the library's operators are not scored and timed yet: b does what is missing"
      : "no operator is in the model's library: b builds it (espalier library build)"
  }

  /// The teacher's amount of a measure; nil for a time that was not measured.
  func teacherAmount(_ measure: Measure) -> Double? {
    GraftPlan(named: plan.name, model: model).cost().original.amount(of: measure)
      ?? library.costs?.teacherSeconds
  }

  /// Weights that runs and the library hold for a plan.
  func weights(of plan: GraftPlan, runs: [RunSummary]) -> PlanWeights {
    PlanWeights(of: plan, runs: runs).adding(library: librarySites(of: plan))
  }

  /// The sites of a plan whose operator the library holds, with the steps of its training.
  func librarySites(of plan: GraftPlan) -> [GraftSite: Int] {
    let known = library.costs?.trained(for: plan) ?? [:]
    let sites = known.filter { plan.site(of: $0.key) == .slot($0.key) }
    return Dictionary(uniqueKeysWithValues: sites.map { (.slot($0.key), $0.value) })
  }
}
