import Autograd
import CKernels
import Checkpoints
import Foundation
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore

/// Stage 1: every replaced operator regresses its output onto that of the operator it replaces.
///
/// Both see the same input activations: equation 2 in section 3 of the paper.
/// Streaming: one teacher pass per batch feeds all replacements at once, each with an optimizer,
/// schedule and gradient clipping of its own, so no feature files are needed.
package final class ActivationDistillation {
  package let graft: Graft
  private let settings: Stage1Settings
  private let dataset: LatentDataset
  private let heldOut: LatentDataset
  private let diffusion: GaussianDiffusion
  private let schedule: LearningRateSchedule
  private let optimizers: [SlotID: AdamW]
  private var random: RandomStream
  /// Number of steps taken.
  package private(set) var step = 0

  /// Losses by slot, in the slot's own objective.
  package typealias Losses = [SlotID: Double]

  /// Rows per teacher pass: bounds the activations that are alive at once.
  private static let microBatch = 4
  /// Share of labels replaced by the null class, which guided sampling needs.
  private static let labelDropout = 0.1

  /// Sets up stage 1 of a graft.
  ///
  /// - Parameters:
  ///   - graft: Teacher and replacements; the replacements are trained in place.
  ///   - dataset: Normalised latents that the samples are drawn from.
  ///   - heldOut: Other latents, for the held-out loss.
  /// - Throws: `SamplingError` if the diffusion process cannot be made.
  package init(graft: Graft, dataset: LatentDataset, heldOut: LatentDataset) throws {
    self.graft = graft
    self.dataset = dataset
    self.heldOut = heldOut
    settings = graft.plan.stage1
    diffusion = try GaussianDiffusion(spacing: "")
    schedule = LearningRateSchedule(
      base: settings.learningRate, warmupSteps: settings.warmupSteps,
      decay: .multiStep(
        milestones: settings.milestones.map {
          Int(($0 * Double(graft.plan.stage1.steps)).rounded())
        },
        gamma: settings.gamma))
    var optimizers: [SlotID: AdamW] = [:]
    for id in graft.slots {
      // An operator without parameters has nothing to train; its loss is measured all the same.
      guard let parameters = graft.replacement(id)?.parameters, !parameters.isEmpty else {
        continue
      }
      optimizers[id] = AdamW(parameters, weightDecay: Float(graft.plan.stage1.weightDecay))
    }
    self.optimizers = optimizers
    random = RandomStream(seed: graft.plan.seed, name: "activation distillation")
  }

  /// Takes one optimizer step of every replacement that has parameters and returns the losses of all
  /// before it.
  package func trainStep() -> Losses {
    let batch = dataset.batch(
      settings.batchSize, random: &random,
      nullClass: graft.teacher.config.numClasses, labelDropout: Self.labelDropout)
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    let losses = parts.accumulate(into: trainable) { range, makeTape in
      let share = Double(range.count) / Double(batch.steps.count)
      return lossesOfSlots(batch, range) { student, objective, input, target in
        let tape = makeTape()
        let output = student(Value(constant: input), on: tape)
        let (loss, gradient) = objective.lossAndGradient(output.tensor, target)
        ck_scale_f32(gradient.pointer, Float(share), gradient.count)
        tape.backward(output, gradient)
        return loss * share
      }
    }
    let rate = Float(schedule.rate(step: step))
    for id in optimizers.keys.sorted() {
      optimizers[id]?.step(rate: rate, clipNorm: Float(settings.clipNorm))
    }
    step += 1
    return Self.sum(losses)
  }

  /// The losses of all replacements on the held-out samples, always the same ones.
  package func heldOutLosses() -> Losses {
    var random = RandomStream(seed: graft.plan.seed, name: "held out")
    let batch = heldOut.batch(
      settings.heldOutSamples, random: &random,
      nullClass: graft.teacher.config.numClasses, labelDropout: Self.labelDropout)
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    return Self.sum(
      parts.map { range in
        let share = Double(range.count) / Double(batch.steps.count)
        return lossesOfSlots(batch, range) { student, objective, input, target in
          let output = student(Value(constant: input), on: Tape(recording: false))
          return objective.loss(output.tensor, target) * share
        }
      })
  }

  private static func sum(_ parts: [Losses]) -> Losses {
    parts.reduce(into: [:]) { total, part in total.merge(part, uniquingKeysWith: +) }
  }

  /// All parameters of all replacements.
  private var trainable: [Parameter] {
    optimizers.keys.sorted().flatMap { optimizers[$0]?.parameters ?? [] }
  }

  /// Runs the teacher over some rows and asks `body` for the loss of each replacement, given the
  /// original operator's input and output.
  private func lossesOfSlots(
    _ batch: DiffusionBatch, _ range: Range<Int>,
    _ body: @escaping (any GraftOperator, RegressionObjective, Tensor, Tensor) -> Double
  ) -> Losses {
    let steps = Array(batch.steps[range])
    let noisy = diffusion.noisy(
      batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps)
    var losses: Losses = [:]
    _ = graft.teacher(
      Value(constant: noisy),
      DiT.Conditioning(
        timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range])),
      on: Tape(recording: false),
      observeBlock: { [graft, settings] block, activations in
        func visit(_ slot: Slot, _ input: Tensor, _ target: Tensor) {
          let id = SlotID(block: block, slot: slot)
          guard let student = graft.replacement(id) else { return }
          losses[id] = body(student, settings.objective(for: id), input, target)
        }
        visit(.attention, activations.attentionInput, activations.attentionOutput)
        visit(.mlp, activations.mlpInput, activations.mlpOutput)
      })
    return losses
  }

  // MARK: - Checkpoints

  /// Writes parameters, optimizer moments, random state and step; atomic.
  package func saveCheckpoint(to path: String) throws {
    var items: [SafetensorsWriter.Item] = []
    for id in optimizers.keys.sorted() {
      guard let optimizer = optimizers[id] else { continue }
      for (index, parameter) in optimizer.parameters.enumerated() {
        func add(_ prefix: String, _ tensor: Tensor) {
          items.append(
            .init(name: prefix + parameter.name, shape: tensor.shape, floats: tensor.values))
        }
        add("", parameter.value)
        add("first.", optimizer.first[index])
        add("second.", optimizer.second[index])
      }
    }
    try SafetensorsWriter.write(
      items,
      metadata: [
        "espalier_file": "stage 1 checkpoint", "step": String(step), "random": String(random.state),
        "data": dataset.identity,
        DiTFile.planKey: String(decoding: try graft.plan.json(), as: UTF8.self),
      ], to: path)
  }

  /// Continues from a checkpoint of the same plan.
  ///
  /// - Throws: `CheckpointError` if the file is no checkpoint of this plan.
  package func resume(from path: String) throws {
    let file = try SafetensorsFile(path: path)
    guard let saved = file.metadata["step"].flatMap(Int.init),
      let state = file.metadata["random"].flatMap(UInt64.init)
    else {
      throw CheckpointError(
        "\(path): no step and random state in the metadata; expected a stage 1 checkpoint")
    }
    guard file.metadata[DiTFile.planKey] == String(decoding: try graft.plan.json(), as: UTF8.self)
    else {
      throw CheckpointError(
        "\(path): was written for another plan; start a run of the changed plan instead")
    }
    guard file.metadata["data"] == dataset.identity else {
      throw CheckpointError(
        "\(path): the training data have changed since it was written; restore them, or start a new"
          + " run")
    }
    for (_, optimizer) in optimizers {
      optimizer.steps = saved
      for (index, parameter) in optimizer.parameters.enumerated() {
        func read(_ prefix: String, into tensor: Tensor) throws {
          tensor.assign(
            try FileWeights(file, prefix: prefix).tensor(
              parameter.name, tensor.shape, .zeros))
        }
        try read("", into: parameter.value)
        try read("first.", into: optimizer.first[index])
        try read("second.", into: optimizer.second[index])
      }
    }
    step = saved
    random = RandomStream(state: state)
  }
}

extension Stage1Settings {
  /// The regression objective of a slot.
  package func objective(for id: SlotID) -> RegressionObjective {
    switch loss(for: id) {
    case .l1: .l1
    case .l2: .l2
    case .huber: .huber(delta: Float(huberDelta))
    }
  }
}
