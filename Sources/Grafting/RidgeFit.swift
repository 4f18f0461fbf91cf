import Autograd
import Models
import Operators
import Plans
import TensorCore

/// Fits the output layers of a graft's operators and projections to the teacher in closed form.
///
/// The features H before the last layer and the teacher's output Y at all samples give ridge regression,
/// (H^T H + λ I) W^T = H^T Y with a bias (`NormalEquations`). Where the loss of a slot is gate-scaled, the
/// rows of a sample are weighted by the mean square of its gate; the exact weights, one for each channel,
/// would need a Gram matrix for each channel. The sums of all sites grow in one pass of the teacher.
package struct RidgeFit {
  private let graft: Graft
  /// Whether all slots are weighted by their gates, whatever their loss.
  private let weighsByGate: Bool

  /// Bytes that the sums of the sites fitted in one pass may take.
  private static let budget = 6 << 30

  /// Prepares fits of a graft, which change its operators in place; `weighsByGate` weights the rows of all
  /// slots by their gates, whatever their loss.
  package init(_ graft: Graft, weighsByGate: Bool = false) {
    (self.graft, self.weighsByGate) = (graft, weighsByGate)
  }

  /// Builds a graft of a plan and fits all that ends in a linear layer, from transferred weights where there
  /// is a place for them: the plan's operators without any training.
  ///
  /// - Parameters:
  ///   - plan: A valid plan for this teacher; one edited slot with activations in memory takes milliseconds.
  ///   - teacher: The pretrained model.
  ///   - activations: Activations of that teacher.
  ///   - precision: Precision of the products in large linear layers.
  ///   - progress: As for a fit.
  /// - Returns: The graft, and what each fit leaves unexplained.
  /// - Throws: `PlanError` for an operator that cannot be built or fitted, and errors of `progress`.
  package static func graft(
    of plan: GraftPlan, teacher: any DiffusionTransformer, on activations: TeacherActivations,
    precision: Precision = .float32, progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws -> (graft: Graft, unexplained: Unexplained) {
    let graft = try Graft(fresh: plan.fitted(), teacher: teacher)
    graft.use(precision)
    let fit = RidgeFit(graft)
    let targets = fit.initialTargets(graft.plan.sites)
    return (graft, try fit(targets, on: activations, progress: progress))
  }

  /// Shares of the teacher's variance that the fits leave unexplained, by site.
  package typealias Unexplained = [GraftSite: Double]

  /// Slots and pairs below some sites of the plan whose initialisation is a fit; slots of parallel blocks
  /// are listed beside their pair.
  package func initialTargets(_ sites: [GraftSite]) -> [GraftSite] {
    sites.flatMap { site -> [GraftSite] in
      guard case .pair(let pair) = site else { return [site] }
      return pair.slots.map(GraftSite.slot) + [site]
    }
    .filter { graft.plan.stage1.initialization(of: $0).isFitted && canFit($0) }
  }

  /// Whether a slot or a pair has an output layer.
  package func canFit(_ site: GraftSite) -> Bool { layer(of: site) != nil }

  private func layer(of site: GraftSite) -> OutputLayer? {
    switch site {
    case .slot(let id): (graft.replacement(id) as? any LinearOutput)?.outputLayer
    case .pair(let pair): graft.model.merges[pair]?.outputLayer
    }
  }

  /// Fits output layers and assigns their weights.
  ///
  /// - Parameters:
  ///   - targets: Slots and pairs with an output layer.
  ///   - activations: The teacher's activations.
  ///   - progress: Called during teacher passes with the numbers of samples done and of all; may throw to
  ///     stop, and nothing has changed then in the sites of that pass.
  /// - Returns: What each fit leaves unexplained.
  /// - Throws: `PlanError` for a fit without a solution, and errors of `progress`.
  @discardableResult
  package func callAsFunction(
    _ targets: [GraftSite], on activations: some ActivationSource,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws -> Unexplained {
    var result: Unexplained = [:]
    for sites in passes(targets) {
      result.merge(try fit(sites, activations, progress)) { $1 }
    }
    return result
  }

  /// Divides sites between passes of bounded memory; a pair comes after the slots of its blocks, which
  /// change its features.
  private func passes(_ targets: [GraftSite]) -> [[GraftSite]] {
    var passes: [[GraftSite]] = []
    var bytes = 0
    for site in targets.sorted(by: { Self.rank($0) < Self.rank($1) }) {
      let size = NormalEquations.bytes(
        inputs: layer(of: site)?.weight?.shape[1] ?? 0, outputs: graft.model.shape.hiddenSize)
      let waits = passes.last?.contains { Self.rank($0).0 < Self.rank(site).0 } ?? true
      if waits || bytes + size > Self.budget {
        passes.append([])
        bytes = 0
      }
      passes[passes.count - 1].append(site)
      bytes += size
    }
    return passes
  }

  private static func rank(_ site: GraftSite) -> (Int, GraftSite) {
    if case .pair = site { return (1, site) }
    return (0, site)
  }

  /// The sums of one site.
  private struct Sums {
    let site: GraftSite
    let layer: OutputLayer
    let equations: NormalEquations
  }

  private func fit(
    _ sites: [GraftSite], _ activations: some ActivationSource,
    _ progress: (Int, Int) throws -> Void
  ) throws -> Unexplained {
    let dim = graft.model.shape.hiddenSize
    let sums = sites.compactMap { site in
      layer(of: site).map {
        Sums(
          site: site, layer: $0,
          equations: NormalEquations(inputs: $0.weight?.shape[1] ?? 0, outputs: dim))
      }
    }
    let bySite = Dictionary(uniqueKeysWithValues: sums.map { ($0.site, $0) })
    try activations(Set(bySite.keys), progress: progress) { seen in
      guard let sums = bySite[seen.site] else { return }
      let features = sums.layer.weight == nil ? nil : self.features(seen)
      sums.equations.add(features, seen.target, weights: rowWeights(seen))
    }
    var solutions = [NormalEquations.Solution?](repeating: nil, count: sums.count)
    solutions.withUnsafeMutableBufferPointer { solutions in
      Parallel.tasks(sums.count) { index in
        let settings = graft.plan.stage1.settings(for: sums[index].site)
        solutions[index] = sums[index].equations.solve(
          lambda: settings.ridgeLambda, hasBias: sums[index].layer.bias != nil)
      }
    }
    var unexplained: Unexplained = [:]
    for (sums, solution) in zip(sums, solutions) {
      guard let solution else {
        throw PlanError(
          key: "stage1.ridge_lambda",
          "the fit of \(sums.site.phrase) has no solution; its features are not finite, or"
            + " \(graft.plan.stage1.settings(for: sums.site).ridgeLambda) is too small for them: raise it,"
            + " or let the operator start from \"own\" weights")
      }
      if let weight = solution.weight { sums.layer.weight?.assign(weight) }
      if let bias = solution.bias { sums.layer.bias?.assign(bias) }
      unexplained[sums.site] = solution.unexplained
    }
    return unexplained
  }

  /// What the last layer of a site reads (samples, tokens, features).
  private func features(_ seen: SiteActivations) -> Tensor? {
    let (tape, input) = (Tape(recording: false), Value(constant: seen.input))
    switch seen.site {
    case .slot(let id):
      return (graft.replacement(id) as? any LinearOutput)?
        .features(input, grid: graft.model.grid, on: tape).tensor
    case .pair(let pair):
      return graft.model.mergeFeatures(of: pair, input, Value(constant: seen.side), on: tape).tensor
    }
  }

  /// The weight of each row: the mean square of its sample's gate if the loss is gate-scaled; nil for 1.
  private func rowWeights(_ seen: SiteActivations) -> [Double]? {
    guard case .slot = seen.site,
      weighsByGate || SiteObjective(graft.plan.stage1, seen.site).isGateScaled
    else { return nil }
    let (rows, dim) = (seen.side.shape[0], seen.side.shape[1])
    return (0..<rows).flatMap { row in
      let squares = (0..<dim).reduce(0.0) { sum, channel in
        let gate = Double(seen.side[row * dim + channel])
        return sum + gate * gate
      }
      return repeatElement(squares / Double(dim), count: seen.target.shape[1])
    }
  }
}
