import Autograd
import CKernels
import Datasets
import Nn
import Operators
import Plans
import Sampling
import TensorCore
import Training

/// Stage 1: every site of a plan regresses its output onto what the teacher puts out there.
///
/// A replaced operator regresses onto the operator that it replaces (equation 2 in section 3 of the
/// paper), two parallel blocks and their merge onto the output of the teacher's second block (section
/// 6); either sees the teacher's input. Each site has an optimizer, schedule and gradient clipping of
/// its own. Streaming: one teacher pass per batch feeds all sites at once, so no feature files are
/// needed. Cached: an `ActivationCache` feeds them, in a new order every epoch.
package final class ActivationDistillation {
  package let graft: Graft
  let settings: Stage1Settings
  let dataset: LatentDataset
  let heldOut: LatentDataset
  private let cache: ActivationCache?
  private let pass: TeacherPass
  /// What each site with parameters is trained by.
  let trainers: [GraftSite: SiteTrainer]
  private let objectives: [GraftSite: SiteObjective]
  /// The samples of the current epoch in their order.
  private var order: (epoch: Int, rows: [Int]) = (-1, [])
  /// What the last step learnt from: a batch, or rows of the cache.
  private var lastBatch: DiffusionBatch?
  private var lastRows: ArraySlice<Int> = []
  /// Number of steps taken.
  package internal(set) var step = 0

  /// Losses by site, in the site's own objective.
  package typealias Losses = [GraftSite: Double]

  /// Rows per teacher pass: bounds the activations that are alive at once.
  static let microBatch = 4

  /// Sets up stage 1 of a graft.
  ///
  /// - Parameters:
  ///   - graft: Teacher and graft; the plan's sites are trained in place.
  ///   - dataset: Normalised latents that the samples are drawn from.
  ///   - heldOut: Other latents, for the held-out loss.
  ///   - cache: The recorded activations of the cached mode.
  /// - Throws: `SamplingError` if the diffusion process cannot be made.
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
      diffusion: try GaussianDiffusion(spacing: "")
    )
    var trainers: [GraftSite: SiteTrainer] = [:]
    var objectives: [GraftSite: SiteObjective] = [:]
    for site in graft.plan.sites {
      objectives[site] = SiteObjective(settings, site)
      let parameters = graft.parameters(of: site)
      // An operator without parameters has nothing to train; its loss is measured all the same.
      if parameters.isEmpty { continue }
      trainers[site] = SiteTrainer(parameters, settings.settings(for: site))
    }
    self.trainers = trainers
    self.objectives = objectives
  }

  /// Takes one optimizer step of every site that has parameters and returns the losses of all before
  /// it.
  package func trainStep() -> Losses {
    let (rows, show) = nextSamples()
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
    // A step whose gradient is not finite was not taken.
    for site in trainers.keys.sorted() where trainers[site]?.step(step) == false {
      sums[site] = .nan
    }
    step += 1
    return sums
  }

  /// The learning rates of the last step, or of the first before it is taken, by site.
  package var learningRates: [GraftSite: Double] {
    trainers.mapValues { $0.rate(max(0, step - 1)) }
  }

  /// The losses of all sites on the held-out samples, always the same ones.
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

  /// A held-out sample, always the same one.
  private var witness: DiffusionBatch {
    draw(1, from: heldOut, "witness")
  }

  /// Whether the sites give a finite loss and gradient on a held-out sample.
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

  /// What is wrong with the samples of the last step or those of `isSound`, with what to do about it;
  /// nil if nothing is.
  package func faultInData() -> String? {
    lastBatch.flatMap { dataset.fault(in: $0) } ?? cache?.fault(in: lastRows)
      ?? heldOut.fault(in: witness, of: "held-out")
  }

  /// Measures the held-out losses, lowers rates that wait for a plateau, and keeps the best weights.
  package func validate() -> Losses {
    let losses = heldOutLosses()
    for (site, trainer) in trainers { trainer.observe(losses[site] ?? .infinity) }
    return losses
  }

  /// Puts the weights with the lowest held-out losses in place, where they are kept.
  ///
  /// - Returns: Those losses, by site.
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
      0..<count, seed: graft.plan.seed, name: name, nullClass: graft.teacher.config.nullClass,
      labelDropout: settings.labelDropout)
  }

  /// Hands out the activations of some of a step's samples.
  private typealias Show = (Range<Int>, @escaping (SiteActivations) -> Void) -> Void

  /// The samples of the next step: how many, and where their activations come from.
  private func nextSamples() -> (Int, Show) {
    guard let cache else {
      let batch = draw(settings.batchSize, from: dataset, "stage1/\(step)")
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

  /// Asks `body` for the loss of each site on some samples.
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
  /// What the plan's part of the model makes at a site of the teacher's input there, (samples, tokens,
  /// dim).
  func output(at seen: SiteActivations, on tape: Tape) -> Value {
    let input = Value(constant: seen.input)
    switch seen.site {
    case .slot(let id):
      guard let replacement = replacement(id) else {
        preconditionFailure("\(id) is no site of the plan")
      }
      return replacement(input, on: tape)
    case .pair(let pair):
      return model.output(of: pair, input, Value(constant: seen.side), on: tape)
    }
  }
}

/// Trains one site: optimizer, schedule, and what has been best so far.
final class SiteTrainer {
  let optimizer: AdamW
  private let settings: Stage1Settings
  private let schedule: LearningRateSchedule
  /// The reduction of a rate that waits for plateaus.
  var plateau = PlateauReduction()
  /// The lowest held-out loss, and the parameters that had it.
  var best: (loss: Double, values: [Tensor])?

  /// Makes a trainer of parameters by the settings of their site.
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

  /// Takes an optimizer step, unless the site has had all of its steps.
  ///
  /// - Returns: Whether the gradient was finite.
  func step(_ step: Int) -> Bool {
    guard step < settings.totalSteps else {
      for parameter in optimizer.parameters { parameter.clearGradient() }
      return true
    }
    return optimizer.step(rate: Float(rate(step)), clipNorm: Float(settings.clipNorm)).isFinite
  }

  /// Takes a held-out loss into account.
  func observe(_ loss: Double) {
    if settings.decay == .plateau { plateau.observe(loss, gamma: settings.gamma) }
    guard settings.keepsBest, loss < best?.loss ?? .infinity else { return }
    best = (loss, optimizer.parameters.map { $0.value.copied() })
  }

  /// Puts the best parameters in place and gives their loss; nil if none were kept.
  func restoreBest() -> Double? {
    guard let best else { return nil }
    for (parameter, value) in zip(optimizer.parameters, best.values) {
      parameter.assign(value)
    }
    return best.loss
  }
}
