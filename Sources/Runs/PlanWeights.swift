import Files
import Plans

/// Weights that runs hold for the replaced slots of a plan.
///
/// A run counts at a site (a replaced slot or a pair of parallel blocks) if it trained the same
/// model by content and the plan recorded in its directory has the same operator with the same
/// settings there. Its name, its age and whether it is running do not make it count.
///
/// Among runs that count, one that holds weights of more sites comes first, then one of stage 2,
/// then one that is done, then one with more steps, then the later one; further runs only add
/// sites that the ones before them lack.
package struct PlanWeights: Equatable, Sendable {
  /// Run with the sites whose weights it provides.
  package struct Source: Equatable, Sendable {
    /// Identifier of the run.
    package let id: String
    /// Display name of the run.
    package let name: String
    /// Job of the run.
    package let kind: Job.Kind
    /// State of the run.
    package let state: RunState
    /// Step of its newest checkpoint; 0 if it has none yet.
    package let step: Int
    /// Sites that it provides, in order.
    package let sites: [GraftSite]

    /// Makes a source.
    package init(
      id: String, name: String, kind: Job.Kind, state: RunState, step: Int, sites: [GraftSite]
    ) {
      (self.id, self.name, self.kind, self.state) = (id, name, kind, state)
      (self.step, self.sites) = (step, sites)
    }
  }

  /// Run that provides nothing, with the reason.
  package struct Exclusion: Equatable, Sendable {
    /// Identifier of the run.
    package let id: String
    /// Reason, as the rest of a sentence about the run.
    package let reason: String
  }

  /// Changes of the plan.
  package let changes: GraftPlan.Changes
  /// Sites of the plan in order.
  package let sites: [GraftSite]
  /// What provides weights, the run that takes precedence first.
  package let sources: [Source]
  /// Trainings that provide no weights.
  package let exclusions: [Exclusion]
  private let depth: Int

  /// Finds the weights of a plan.
  ///
  /// - Parameters:
  ///   - plan: The plan.
  ///   - runs: Summaries with the changes of their recorded plans, see `RunStore.init`.
  ///   - chosen: Identifiers of the only runs to take weights from, the one that takes precedence
  ///     last, as for `--from`; nil for all runs.
  ///   - expecting: Whether runs that have not ended count before their first checkpoint, because
  ///     the weights are loaded after their end.
  package init(
    of plan: GraftPlan, runs: [RunSummary], from chosen: [String]? = nil, expecting: Bool = false
  ) {
    (changes, sites, depth) = (plan.changes, plan.sites, plan.model.shape.depth)
    var candidates: [Source] = []
    var exclusions: [Exclusion] = []
    for run in runs where run.isTraining && (chosen?.contains(run.id) ?? true) {
      let found = Self.sites(of: plan, in: run, expecting: expecting)
      switch found {
      case .success(let shared):
        candidates.append(
          Source(
            id: run.id, name: run.name, kind: run.kind ?? .distill, state: run.state,
            step: run.checkpoint?.step ?? 0, sites: shared))
      case .failure(let reason): exclusions.append(Exclusion(id: run.id, reason: reason.message))
      }
    }
    self.exclusions = exclusions
    sources = Self.choose(candidates, in: chosen)
  }

  /// Combines sources, the one that takes precedence last.
  package init(of plan: GraftPlan, named sources: [Source]) {
    (changes, sites, depth) = (plan.changes, plan.sites, plan.model.shape.depth)
    exclusions = []
    self.sources = Self.choose(sources, in: sources.map(\.id))
  }

  /// Weights that a request recorded.
  package init(of plan: GraftPlan, recorded origins: [WeightOrigin]) {
    self.init(
      of: plan,
      named: origins.map {
        Source(
          id: $0.run, name: $0.run, kind: .distill, state: $0.step == 0 ? .running : .done,
          step: $0.step, sites: $0.sites)
      })
  }

  /// These weights, and at sites that no run provides those of the model's library of operators.
  ///
  /// - Parameter sites: Sites whose operator the library holds, with the steps of its training.
  /// - Returns: The weights of runs and library.
  package func adding(library sites: [GraftSite: Int]) -> PlanWeights {
    let open = fresh.filter { sites[$0] != nil }
    guard !open.isEmpty else { return self }
    return PlanWeights(
      self,
      adding: Source(
        id: Self.library, name: Self.library, kind: .library, state: .done,
        step: open.compactMap { sites[$0] }.min() ?? 0, sites: open))
  }

  private init(_ weights: PlanWeights, adding source: Source) {
    (changes, sites, depth) = (weights.changes, weights.sites, weights.depth)
    (exclusions, sources) = (weights.exclusions, weights.sources + [source])
  }

  /// Identifier of the library among the sources.
  package static let library = "library"

  /// The sites whose weights the library provides.
  package var librarySites: [GraftSite] {
    sources.first { $0.kind == .library }?.sites ?? []
  }

  /// Runs that provide weights, the one that takes precedence first.
  package var runSources: [Source] { sources.filter { $0.kind != .library } }

  /// No weights of an empty plan.
  package init() {
    (changes, sites, sources, exclusions, depth) = (GraftPlan.Changes(), [], [], [], 0)
  }

  /// Sites of a plan that a run holds weights of, or the reason why there are none.
  private static func sites(
    of plan: GraftPlan, in run: RunSummary, expecting: Bool
  ) -> Result<[GraftSite], FileError> {
    guard run.modelHash == plan.model.contentHash else {
      return .failure(FileError("trained another model"))
    }
    guard let trained = run.changes else {
      return .failure(FileError(run.damage == nil ? "has no readable plan" : "is damaged"))
    }
    let shared = plan.sites.filter { plan.changes.agree(with: trained, at: $0) }
    guard !shared.isEmpty else {
      guard let site = plan.sites.first(where: { trained.sites.contains($0) }) else {
        return .failure(FileError("trained none of the replaced slots"))
      }
      return .failure(FileError("trained other operators, first in \(site)"))
    }
    guard run.checkpoint?.step ?? 0 > 0 || expecting && run.isAlive else {
      return .failure(
        FileError(run.isAlive ? "has no checkpoint yet" : "ended without a checkpoint"))
    }
    return .success(shared)
  }

  /// Takes runs as long as they add sites.
  private static func choose(_ candidates: [Source], in chosen: [String]?) -> [Source] {
    var rest = candidates.sorted { isBefore($0, $1) }
    if let chosen {
      rest = chosen.reversed().compactMap { id in candidates.first { $0.id == id } }
    }
    var sources: [Source] = []
    var taken: Set<GraftSite> = []
    while true {
      let gains = rest.map { source in source.sites.filter { !taken.contains($0) } }
      let next =
        chosen == nil
        ? gains.indices.max { (gains[$0].count, $1) < (gains[$1].count, $0) }
        : gains.firstIndex { !$0.isEmpty }
      guard let next, !gains[next].isEmpty else { return sources }
      let source = rest.remove(at: next)
      sources.append(
        Source(
          id: source.id, name: source.name, kind: source.kind, state: source.state,
          step: source.step, sites: gains[next]))
      taken.formUnion(gains[next])
    }
  }

  private static func isBefore(_ one: Source, _ other: Source) -> Bool {
    func rank(_ source: Source) -> (Int, Int, Int, String) {
      (source.kind == .finetune ? 1 : 0, source.state == .done ? 1 : 0, source.step, source.id)
    }
    return rank(one) > rank(other)
  }

  // MARK: - Questions to it

  /// Sites that start with fresh weights, in order.
  package var fresh: [GraftSite] { sites.filter { source(of: $0) == nil } }

  /// The run that provides the weights of a site; nil for a site that starts fresh.
  package func source(of site: GraftSite) -> Source? {
    sources.first { $0.sites.contains(site) }
  }

  /// Number of sites with weights.
  package var count: Int { sources.reduce(0) { $0 + $1.sites.count } }

  /// Whether weights come from more than one run, or from a run for some sites only.
  package var isMixture: Bool { sources.count + (fresh.isEmpty ? 0 : 1) > 1 }

  /// Identifiers of the runs in the order in which their weights are loaded: later ones override
  /// earlier ones.
  package var runs: [String] { runSources.reversed().map(\.id) }

  /// What a request records of its weights.
  package var origins: [WeightOrigin] {
    sources.reversed().map { WeightOrigin(run: $0.id, step: $0.step, sites: $0.sites) }
  }

  // MARK: - Sentences

  /// Number of replaced slots with weights and their origin: `14 of 16 replaced slots have weights,
  /// from hyena-odd, step 800`.
  ///
  /// - Parameter title: Name of the run with an identifier.
  /// - Returns: The sentence without its full stop.
  package func summary(title: (String) -> String = { $0 }) -> String {
    let noun = changes.parallel.isEmpty ? "replaced slots" : "replaced slots and pairs"
    let count = "\(count) of \(sites.count) \(noun) have weights"
    func origin(_ source: Source) -> String { Self.origin(source, title) }
    switch sources.count {
    case 0: return count
    case 1: return "\(count), from \(origin(sources[0]))"
    default:
      return "\(count): "
        + sources.map { "\($0.sites.count) from \(origin($0))" }.joined(separator: "; ")
    }
  }

  private static func origin(_ source: Source, _ title: (String) -> String) -> String {
    let when = source.state.isEnded ? "" : ", at its end"
    return title(source.id) + (source.step == 0 ? when : ", step \(source.step)")
  }

  /// `summary` in the fewest words: `14/16 from hyena-odd, step 800`; of several sources their number.
  ///
  /// - Parameter title: Name of the run with an identifier.
  /// - Returns: The text.
  package func shortSummary(title: (String) -> String = { $0 }) -> String {
    let count = "\(count)/\(sites.count)"
    return switch sources.count {
    case 0: "\(count) have weights"
    case 1: "\(count) from \(Self.origin(sources[0], title))"
    default: "\(count) from \(sources.count) runs"
    }
  }

  /// The sites that start fresh: `fresh: 3.mlp, 27.attention`; nil if there are none.
  package var freshText: String? {
    fresh.isEmpty ? nil : "fresh: \(Self.list(fresh, depth: depth))"
  }

  /// `summary` and the sites that start fresh.
  package func sentence(title: (String) -> String = { $0 }) -> String {
    [summary(title: title), freshText].compactMap(\.self).joined(separator: "; ")
  }

  /// Sites by name, or by blocks if there are many: `attention of 1-13, 2+3`.
  package static func list(_ sites: [GraftSite], depth: Int) -> String {
    guard sites.count > 4 else { return sites.map(\.description).joined(separator: ", ") }
    var parts: [String] = []
    for slot in Slot.allCases {
      let blocks = sites.compactMap { site in
        if case .slot(let id) = site, id.slot == slot { id.block } else { nil }
      }
      guard !blocks.isEmpty else { continue }
      parts.append("\(slot.rawValue) of \(LayerSelection.text(blocks, depth: depth))")
    }
    return
      (parts
      + sites.compactMap { if case .pair(let pair) = $0 { pair.description } else { nil } })
      .joined(separator: ", ")
  }
}

/// Run that provided the initial weights of some sites, as recorded in a request.
package struct WeightOrigin: Codable, Equatable, Sendable {
  /// Identifier of the run.
  package let run: String
  /// Step of its newest checkpoint when the request was made; 0 for a run that had none.
  package let step: Int
  /// The sites.
  package let sites: [GraftSite]

  /// Makes an origin.
  package init(run: String, step: Int, sites: [GraftSite]) {
    (self.run, self.step, self.sites) = (run, step, sites)
  }
}
