import Autograd
import CKernels
import Datasets
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import Training

/// Stage 1: regression of the output of every site onto that of the teacher.
///
/// The target of a replaced operator is the output of the operator that it replaces (equation 2 in
/// section 3 of the paper); that of two parallel blocks and their merge is the output of the
/// teacher's second block (section 6). The input is the teacher's. Each site has its own optimizer,
/// schedule and gradient clipping. In streaming mode one teacher pass per batch serves all sites,
/// without feature files. In cached mode activations come from an `ActivationCache`, reshuffled
/// every epoch.
package final class ActivationDistillation {
  package let graft: Graft
  let settings: Stage1Settings
  let dataset: LatentDataset
  let heldOut: LatentDataset
  private let cache: ActivationCache?
  private let pass: TeacherPass
  /// Trainer of each site with parameters.
  let trainers: [GraftSite: SiteTrainer]
  private let objectives: [GraftSite: SiteObjective]
  /// Sample order of the current epoch.
  private var order: (epoch: Int, rows: [Int]) = (-1, [])
  /// Samples of the last step: a batch, or rows of the cache.
  private var lastBatch: DiffusionBatch?
  private var lastRows: ArraySlice<Int> = []
  /// Number of steps taken.
  package internal(set) var step = 0
  /// Number of samples of the last step.
  package private(set) var samplesInStep = 0
  /// Norm of the gradient of all sites in the last step, before clipping.
  package private(set) var gradientNorm = 0.0

  /// Losses by site, in the site's own objective.
  package typealias Losses = [GraftSite: Double]

  /// Rows per teacher pass, which bounds the memory of activations.
  static let microBatch = 4

  /// Sets up stage 1 of a graft.
  ///
  /// - Parameters:
  ///   - graft: Teacher and graft; the plan's sites are trained in place.
  ///   - dataset: Normalised latents, the source of the samples.
  ///   - heldOut: Other latents, for the held-out loss.
  ///   - cache: The recorded activations of the cached mode.
  /// - Throws: `SamplingError` for an invalid diffusion process.
  package init(
    graft: Graft, dataset: LatentDataset, heldOut: LatentDataset, cache: ActivationCache? = nil
  ) throws {
    let settings = graft.plan.stage1
    precondition((settings.mode == .cached) == (cache != nil), "stage 1: mode without its cache")
    self.graft = graft
    self.settings = settings
    self.dataset = dataset
    self.heldOut = heldOut
    self.cache = cache
    pass = TeacherPass(
      teacher: graft.teacher, sites: Set(graft.plan.sites),
      process: try TrainingProcess(of: graft.plan.model.shape.family)
    )
    var trainers: [GraftSite: SiteTrainer] = [:]
    var objectives: [GraftSite: SiteObjective] = [:]
    for site in graft.plan.sites {
      objectives[site] = SiteObjective(settings, site)
      let parameters = graft.parameters(of: site)
      // The loss of an operator without parameters is measured but not trained.
      if parameters.isEmpty { continue }
      trainers[site] = SiteTrainer(parameters, settings.settings(for: site))
    }
    self.trainers = trainers
    self.objectives = objectives
  }

  /// Takes one optimizer step of every site with parameters; returns the losses of all sites before
  /// it.
  package func trainStep() -> Losses {
    let (rows, show) = nextSamples()
    samplesInStep = rows
    let parts = MicroBatches(rows: rows, size: Self.microBatch)
    let losses = parts.accumulate(into: trainable) { range, makeTape in
      let share = Double(range.count) / Double(rows)
      return lossesOfSites(range, show) { [graft] objective, seen in
        let tape = makeTape()
        let output = graft.output(at: seen, on: tape)
        let (loss, gradient) = objective.lossAndGradient(output.tensor, seen)
        ck_scale_f32(gradient.pointer, Float(share), gradient.count)
        tape.backward(output, gradient)
        return loss * share
      }
    }
    var sums = Self.sum(losses)
    var squares = 0.0
    for site in trainers.keys.sorted() {
      let norm = trainers[site]?.step(step) ?? 0
      squares += norm * norm
      // A step with a non-finite gradient was skipped.
      if !norm.isFinite { sums[site] = .nan }
    }
    gradientNorm = squares.squareRoot()
    step += 1
    return sums
  }

  /// Learning rates by site of the last step, or of the first before any step.
  package var learningRates: [GraftSite: Double] {
    trainers.mapValues { $0.rate(max(0, step - 1)) }
  }

  /// Losses of all sites on the fixed held-out samples.
  package func heldOutLosses() -> Losses {
    let batch = draw(settings.heldOutSamples, from: heldOut, "held-out")
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    return Self.sum(
      parts.map { range in
        let share = Double(range.count) / Double(batch.steps.count)
        return lossesOfSites(range, { pass(batch, $0, $1) }) { [graft] objective, seen in
          let output = graft.output(at: seen, on: Tape(recording: false))
          return objective.loss(output.tensor, seen) * share
        }
      })
  }

  /// A fixed held-out sample.
  private var witness: DiffusionBatch {
    draw(1, from: heldOut, "witness")
  }

  /// Whether loss and gradient of all sites are finite on a held-out sample.
  package func isSound() -> Bool {
    let batch = witness
    let losses = lossesOfSites(0..<batch.steps.count, { pass(batch, $0, $1) }) { objective, seen in
      let tape = Tape()
      let output = self.graft.output(at: seen, on: tape)
      let (loss, gradient) = objective.lossAndGradient(output.tensor, seen)
      tape.backward(output, gradient)
      return loss
    }
    defer { for parameter in trainable { parameter.clearGradient() } }
    return losses.values.allSatisfy(\.isFinite) && trainable.allSatisfy(\.hasFiniteGradient)
  }

  /// Returns a sentence about non-finite samples of the last step or of `isSound`; nil if there are
  /// none.
  package func faultInData() -> String? {
    lastBatch.flatMap { dataset.fault(in: $0) } ?? cache?.fault(in: lastRows)
      ?? heldOut.fault(in: witness, of: "held-out")
  }

  /// Measures the held-out losses, reduces learning rates on a plateau, and keeps the best weights.
  package func validate() -> Losses {
    let losses = heldOutLosses()
    for (site, trainer) in trainers { trainer.observe(losses[site] ?? .infinity) }
    return losses
  }

  /// Fits the output layers of the sites whose settings ask for it in closed form; a site whose held-out
  /// loss does not fall keeps its trained layer.
  ///
  /// - Parameter progress: Called during the teacher pass; may throw to stop.
  /// - Returns: The sites that were asked for, and those that took the fitted layer.
  /// - Throws: `PlanError` for a fit without a solution, `FileError` for bad data, errors of `progress`.
  package func ridgeFinish(
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws -> (tried: [GraftSite], improved: [GraftSite]) {
    let fit = RidgeFit(graft)
    let sites = graft.plan.sites.filter {
      settings.settings(for: $0).ridgeFinish && fit.canFit($0)
    }
    guard !sites.isEmpty else { return ([], []) }
    let before = heldOutLosses()
    let kept = sites.map { graft.parameters(of: $0).map { ($0, $0.value.copied()) } }
    try fit(
      sites,
      on: TeacherActivations(
        teacher: graft.teacher, dataset: dataset, samples: settings.ridgeSamples,
        seed: graft.plan.seed, labelDropout: settings.labelDropout), progress: progress)
    let after = heldOutLosses()
    let improved = sites.filter { after[$0] ?? .infinity < before[$0] ?? .infinity }
    for (site, values) in zip(sites, kept) where !improved.contains(site) {
      for (parameter, value) in values { parameter.assign(value) }
    }
    return (sites, improved)
  }

  /// Fits output layers from front to back on the graft's own activations (`StudentForcedSweep`) where the
  /// settings ask for it; if that does not bring the graft's output on held-out samples closer to the teacher's,
  /// all layers stay as they were.
  ///
  /// - Parameter progress: Called with the number of the site, the number of sites, and the numbers of samples
  ///   done and of all; may throw to stop.
  /// - Returns: The number of sites, and the relative error of the output before and after; nil without sites.
  /// - Throws: `PlanError` for a fit without a solution, errors of `progress`.
  package func sweep(
    progress: (Int, Int, Int, Int) throws -> Void = { _, _, _, _ in }
  ) throws -> (sites: Int, before: Double, after: Double)? {
    let fit = RidgeFit(graft)
    let sites = graft.plan.sites.filter { settings.settings(for: $0).sweeps && fit.canFit($0) }
    guard !sites.isEmpty else { return nil }
    let measured = draw(settings.heldOutSamples, from: heldOut, "held-out")
    let before = try StudentForcedSweep.outputError(of: graft, on: measured)
    let kept = sites.flatMap { graft.parameters(of: $0).map { ($0, $0.value.copied()) } }
    let sweep = try StudentForcedSweep(
      graft, on: draw(settings.ridgeSamples, from: dataset, "sweep"))
    try sweep(sites) { try progress($0, sites.count, $1, $2) }
    let after = try StudentForcedSweep.outputError(of: graft, on: measured)
    if !(after < before) { for (parameter, value) in kept { parameter.assign(value) } }
    return (sites.count, before, after)
  }

  /// Restores the weights with the lowest held-out loss of each site that keeps them.
  ///
  /// - Returns: Those losses by site.
  package func restoreBest() -> Losses { trainers.compactMapValues { $0.restoreBest() } }

  private static func sum(_ parts: [Losses]) -> Losses {
    parts.reduce(into: [:]) { total, part in total.merge(part, uniquingKeysWith: +) }
  }

  /// All parameters of all sites.
  private var trainable: [Parameter] {
    trainers.keys.sorted().flatMap { trainers[$0]?.optimizer.parameters ?? [] }
  }

  private func draw(
    _ count: Int, from dataset: LatentDataset, _ name: String
  ) -> DiffusionBatch {
    dataset.batch(
      0..<count, seed: graft.plan.seed, name: name, nullClass: graft.teacher.shape.nullClass,
      labelDropout: settings.labelDropout)
  }

  /// Passes the activations of a range of a step's samples to a closure.
  private typealias Show = (Range<Int>, @escaping (SiteActivations) -> Void) -> Void

  /// Number of samples of the next step, and the source of their activations.
  private func nextSamples() -> (Int, Show) {
    guard let cache else {
      let batch = dataset.batch(
        settings.batchSize, seed: graft.plan.seed, stage: "stage1", step: step,
        nullClass: graft.teacher.shape.nullClass, labelDropout: settings.labelDropout)
      lastBatch = batch
      return (batch.steps.count, { [pass] in pass(batch, $0, $1) })
    }
    let epoch = step / settings.stepsPerEpoch
    if order.epoch != epoch {
      let random = RandomStream(seed: graft.plan.seed, "stage1/epoch/\(epoch)")
      order = (epoch, random.permutation(cache.samples))
    }
    let first = step % settings.stepsPerEpoch * settings.batchSize
    let rows = order.rows[first..<min(first + settings.batchSize, cache.samples)]
    lastRows = rows
    return (
      rows.count,
      { cache(rows[(first + $0.lowerBound)..<(first + $0.upperBound)], $1) }
    )
  }

  /// Computes the loss of each site on some samples by `body`.
  private func lossesOfSites(
    _ range: Range<Int>, _ show: Show,
    _ body: @escaping (SiteObjective, SiteActivations) -> Double
  ) -> Losses {
    var losses: Losses = [:]
    show(range) { [objectives] seen in
      guard let objective = objectives[seen.site] else { return }
      losses[seen.site] = body(objective, seen)
    }
    return losses
  }
}

extension Graft {
  /// Applies the replacement at a site to the teacher's input (samples, tokens, dim).
  func output(at seen: SiteActivations, on tape: Tape) -> Value {
    let input = Value(constant: seen.input)
    switch seen.site {
    case .slot(let id):
      guard let replacement = replacement(id) else {
        preconditionFailure("\(id) is no site of the plan")
      }
      guard let mixer = replacement as? any SequenceMixer, id.slot == .attention else {
        return replacement(input, on: tape)
      }
      return mixer(input, grid: model.grid, on: tape)
    case .pair(let pair):
      return model.output(of: pair, input, Value(constant: seen.side), on: tape)
    }
  }
}

/// Optimizer, schedule and best weights of one site.
final class SiteTrainer {
  let optimizer: AdamW
  private let settings: Stage1Settings
  private let schedule: LearningRateSchedule
  /// Learning-rate reduction on plateaus.
  var plateau = PlateauReduction()
  /// Lowest held-out loss and its parameters.
  var best: (loss: Double, values: [Tensor])?

  /// Makes a trainer of the parameters of a site.
  init(_ parameters: [Parameter], _ settings: Stage1Settings) {
    self.settings = settings
    optimizer = AdamW(parameters, weightDecay: Float(settings.weightDecay))
    let total = settings.totalSteps
    let decay: LearningRateSchedule.Decay =
      switch settings.decay {
      case .multiStep:
        .multiStep(
          milestones: settings.milestones.map { Int(($0 * Double(total)).rounded()) },
          gamma: settings.gamma)
      case .exponential: .exponential(totalSteps: total, minimum: settings.minimumRate)
      case .plateau: .constant
      }
    schedule = LearningRateSchedule(
      base: settings.learningRate, warmupSteps: settings.warmupSteps, decay: decay)
  }

  /// The learning rate of a step.
  func rate(_ step: Int) -> Double {
    guard step < settings.totalSteps else { return 0 }
    let rate = schedule.rate(step: step)
    guard settings.decay == .plateau, plateau.factor < 1 else { return rate }
    return max(settings.minimumRate, rate * plateau.factor)
  }

  /// Takes an optimizer step unless the site has completed all of its steps.
  ///
  /// - Returns: The gradient's norm before clipping; 0 for a site that has completed its steps.
  func step(_ step: Int) -> Double {
    guard step < settings.totalSteps else {
      for parameter in optimizer.parameters { parameter.clearGradient() }
      return 0
    }
    return optimizer.step(rate: Float(rate(step)), clipNorm: Float(settings.clipNorm))
  }

  /// Records a held-out loss.
  func observe(_ loss: Double) {
    if settings.decay == .plateau { plateau.observe(loss, gamma: settings.gamma) }
    guard settings.keepsBest, loss < best?.loss ?? .infinity else { return }
    best = (loss, optimizer.parameters.map { $0.value.copied() })
  }

  /// Restores the best parameters and returns their loss; nil if none were kept.
  func restoreBest() -> Double? {
    guard let best else { return nil }
    for (parameter, value) in zip(optimizer.parameters, best.values) {
      parameter.assign(value)
    }
    return best.loss
  }
}
