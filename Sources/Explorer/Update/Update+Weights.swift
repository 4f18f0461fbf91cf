import Plans
import Runs

extension AppState {
  /// Weights for a training as its form has them: those of the run chosen, of all matching runs, or none.
  func weights(for form: Form) -> PlanWeights {
    let choice = form.text(RunOptions.weights) ?? RunOptions.matching
    let chosen: [String]? =
      switch choice {
      case RunOptions.matching: nil
      case RunOptions.fresh: []
      default: runs.records.filter { $0.isTraining && runs.title($0) == choice }.map(\.id)
      }
    let found = PlanWeights(
      of: plan, runs: runs.records, from: chosen, expecting: RunOptions(form).isQueued)
    return chosen == nil ? found.adding(library: librarySites(of: plan)) : found
  }

  /// Titles of the runs that hold weights of the plan, or will when they are done.
  var weightSources: [String] {
    runs.records.filter { record in
      !PlanWeights(of: plan, runs: [record], expecting: true).sources.isEmpty
    }.map { runs.title($0) }
  }

  /// Asks once about each mixture of weights; says whether work can start.
  mutating func agrees(to weights: PlanWeights, asks: Bool = true) -> Bool {
    guard weights.isMixture, acceptedMixture != Self.origins(of: weights) else { return true }
    if asks { overlays.append(.confirm(.mixture(weights))) }
    return false
  }

  /// Starts what waited for the answer to a question about a mixture.
  mutating func accept(_ mixture: PlanWeights) -> [Effect] {
    acceptedMixture = Self.origins(of: mixture)
    if case .form(let form) = overlay { return accept(form) }
    return perform(.preview, argument: nil, count: nil)
  }

  /// The run of each site; empty for a fresh one.
  private static func origins(of weights: PlanWeights) -> [GraftSite: String] {
    Dictionary(uniqueKeysWithValues: weights.sites.map { ($0, weights.source(of: $0)?.id ?? "") })
  }

  /// What the plan has weights of, for headers, forms and lists.
  package var weightsText: String? {
    if missingTeacher != nil { return "a graft without its teacher" }
    return plan.isEmpty ? nil : weights.summary { runs.title(of: $0) }
  }

  /// Whether a run provides weights of the plan, in a sentence; nil for what is no training.
  package func weightsText(of record: RunSummary) -> String? {
    guard record.isTraining, !plan.isEmpty, missingTeacher == nil else { return nil }
    let own = PlanWeights(of: plan, runs: [record])
    if let reason = own.exclusions.first?.reason {
      return "no weights for \(document.title): it \(reason)"
    }
    guard own.count > 0 else { return nil }
    return
      "\(own.count) of \(own.sites.count) replaced slots of \(document.title) have weights here,"
      + " step \(own.sources[0].step)"
  }
}
