import Autograd
import CKernels
import Checkpoints
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore

/// Stage 1: every replaced operator regresses its output onto that of the operator it replaces.
///
/// Both see the same input activations: equation 2 in section 3 of the paper. Each replacement has an
/// optimizer, schedule and gradient clipping of its own. Streaming: one teacher pass per batch feeds
/// all replacements at once, so no feature files are needed. Cached: an `ActivationCache` feeds them,
/// in a new order every epoch.
package final class ActivationDistillation {
  package let graft: Graft
  let settings: Stage1Settings
  let dataset: LatentDataset
  private let heldOut: LatentDataset
  private let cache: ActivationCache?
  private let pass: TeacherPass
  /// What each replacement with parameters is trained by.
  let trainers: [SlotID: SlotTrainer]
  private let objectives: [SlotID: SlotObjective]
  var random: RandomStream
  /// The samples of the current epoch in their order.
  private var order: (epoch: Int, rows: [Int]) = (-1, [])
  /// Number of steps taken.
  package internal(set) var step = 0

  /// Losses by slot, in the slot's own objective.
  package typealias Losses = [SlotID: Double]

  /// Rows per teacher pass: bounds the activations that are alive at once.
  static let microBatch = 4
  /// Share of labels replaced by the null class, which guided sampling needs.
  static let labelDropout = 0.1

  /// Sets up stage 1 of a graft.
  ///
  /// - Parameters:
  ///   - graft: Teacher and replacements; the replacements are trained in place.
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
      teacher: graft.teacher, slots: Set(graft.slots), diffusion: try GaussianDiffusion(spacing: "")
    )
    var trainers: [SlotID: SlotTrainer] = [:]
    var objectives: [SlotID: SlotObjective] = [:]
    for id in graft.slots {
      objectives[id] = SlotObjective(settings, id)
      // An operator without parameters has nothing to train; its loss is measured all the same.
      guard let parameters = graft.replacement(id)?.parameters, !parameters.isEmpty else {
        continue
      }
      trainers[id] = SlotTrainer(parameters, settings.settings(for: id))
    }
    self.trainers = trainers
    self.objectives = objectives
    random = RandomStream(seed: graft.plan.seed, name: "activation distillation")
  }

  /// Takes one optimizer step of every replacement that has parameters and returns the losses of all
  /// before it.
  package func trainStep() -> Losses {
    let (rows, show) = nextSamples()
    let parts = MicroBatches(rows: rows, size: Self.microBatch)
    let losses = parts.accumulate(into: trainable) { range, makeTape in
      let share = Double(range.count) / Double(rows)
      return lossesOfSlots(range, show) { student, objective, seen in
        let tape = makeTape()
        let output = student(Value(constant: seen.input), on: tape)
        let (loss, gradient) = objective.lossAndGradient(output.tensor, seen)
        ck_scale_f32(gradient.pointer, Float(share), gradient.count)
        tape.backward(output, gradient)
        return loss * share
      }
    }
    for id in trainers.keys.sorted() { trainers[id]?.step(step) }
    step += 1
    return Self.sum(losses)
  }

  /// The losses of all replacements on the held-out samples, always the same ones.
  package func heldOutLosses() -> Losses {
    var random = RandomStream(seed: graft.plan.seed, name: "held out")
    let batch = draw(settings.heldOutSamples, from: heldOut, &random)
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    return Self.sum(
      parts.map { range in
        let share = Double(range.count) / Double(batch.steps.count)
        return lossesOfSlots(range, { pass(batch, $0, $1) }) { student, objective, seen in
          let output = student(Value(constant: seen.input), on: Tape(recording: false))
          return objective.loss(output.tensor, seen) * share
        }
      })
  }

  /// Measures the held-out losses, lowers rates that wait for a plateau, and keeps the best weights.
  package func validate() -> Losses {
    let losses = heldOutLosses()
    for (id, trainer) in trainers { trainer.observe(losses[id] ?? .infinity) }
    return losses
  }

  /// Puts the weights with the lowest held-out losses into the replacements, where they are kept.
  ///
  /// - Returns: Those losses, by slot.
  package func restoreBest() -> Losses { trainers.compactMapValues { $0.restoreBest() } }

  private static func sum(_ parts: [Losses]) -> Losses {
    parts.reduce(into: [:]) { total, part in total.merge(part, uniquingKeysWith: +) }
  }

  /// All parameters of all replacements.
  private var trainable: [Parameter] {
    trainers.keys.sorted().flatMap { trainers[$0]?.optimizer.parameters ?? [] }
  }

  private func draw(
    _ count: Int, from dataset: LatentDataset, _ random: inout RandomStream
  ) -> DiffusionBatch {
    dataset.batch(
      count, random: &random, nullClass: graft.teacher.config.numClasses,
      labelDropout: Self.labelDropout)
  }

  /// Hands out the activations of some of a step's samples.
  private typealias Show = (Range<Int>, @escaping (SlotActivations) -> Void) -> Void

  /// The samples of the next step: how many, and where their activations come from.
  private func nextSamples() -> (Int, Show) {
    guard let cache else {
      let batch = draw(settings.batchSize, from: dataset, &random)
      return (batch.steps.count, { [pass] in pass(batch, $0, $1) })
    }
    let epoch = step / settings.stepsPerEpoch
    if order.epoch != epoch { order = (epoch, Self.order(cache.samples, epoch, graft.plan.seed)) }
    let first = step % settings.stepsPerEpoch * settings.batchSize
    let rows = order.rows[first..<min(first + settings.batchSize, cache.samples)]
    return (
      rows.count,
      { cache(rows[(first + $0.lowerBound)..<(first + $0.upperBound)], $1) }
    )
  }

  /// The order of an epoch's samples, which depends on nothing but seed and epoch.
  private static func order(_ count: Int, _ epoch: Int, _ seed: UInt64) -> [Int] {
    var random = RandomStream(seed: seed, name: "epoch \(epoch)")
    var rows = Array(0..<count)
    for place in stride(from: count - 1, to: 0, by: -1) {
      rows.swapAt(place, random.integer(below: place + 1))
    }
    return rows
  }

  /// Asks `body` for the loss of each replacement on some samples.
  private func lossesOfSlots(
    _ range: Range<Int>, _ show: Show,
    _ body: @escaping (any GraftOperator, SlotObjective, SlotActivations) -> Double
  ) -> Losses {
    var losses: Losses = [:]
    show(range) { [graft, objectives] seen in
      guard let student = graft.replacement(seen.id), let objective = objectives[seen.id] else {
        return
      }
      losses[seen.id] = body(student, objective, seen)
    }
    return losses
  }
}

/// Trains one replacement: optimizer, schedule, and what has been best so far.
final class SlotTrainer {
  let optimizer: AdamW
  private let settings: Stage1Settings
  private let schedule: LearningRateSchedule
  /// The reduction of a rate that waits for plateaus.
  var plateau = PlateauReduction()
  /// The lowest held-out loss, and the parameters that had it.
  var best: (loss: Double, values: [Tensor])?

  /// Makes a trainer of parameters by the settings of their slot.
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
    let rate = schedule.rate(step: step)
    guard settings.decay == .plateau, plateau.factor < 1 else { return rate }
    return max(settings.minimumRate, rate * plateau.factor)
  }

  /// Takes an optimizer step.
  func step(_ step: Int) {
    optimizer.step(rate: Float(rate(step)), clipNorm: Float(settings.clipNorm))
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
      parameter.value.assign(value)
    }
    return best.loss
  }
}
