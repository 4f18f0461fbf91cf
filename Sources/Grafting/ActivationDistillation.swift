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

/// Stage 1: every site of a plan regresses its output onto what the teacher puts out there.
///
/// A replaced operator regresses onto the operator that it replaces (equation 2 in section 3 of the
/// paper), two parallel blocks and their merge onto the output of the teacher's second block (section
/// 6); either sees the teacher's input. Streaming: one teacher pass per batch feeds all sites at once,
/// each with an optimizer, schedule and gradient clipping of its own, so no feature files are needed.
package final class ActivationDistillation {
  package let graft: Graft
  private let settings: Stage1Settings
  private let dataset: LatentDataset
  private let heldOut: LatentDataset
  private let diffusion: GaussianDiffusion
  private let schedule: LearningRateSchedule
  private let optimizers: [GraftSite: AdamW]
  private var random: RandomStream
  /// Number of steps taken.
  package private(set) var step = 0

  /// Losses by site, in the site's own objective.
  package typealias Losses = [GraftSite: Double]

  /// Rows per teacher pass: bounds the activations that are alive at once.
  private static let microBatch = 4
  /// Share of labels replaced by the null class, which guided sampling needs.
  private static let labelDropout = 0.1

  /// Sets up stage 1 of a graft.
  ///
  /// - Parameters:
  ///   - graft: Teacher and graft; the plan's sites are trained in place.
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
    var optimizers: [GraftSite: AdamW] = [:]
    for site in graft.plan.sites {
      let parameters = graft.parameters(of: site)
      // An operator without parameters has nothing to train; its loss is measured all the same.
      if parameters.isEmpty { continue }
      optimizers[site] = AdamW(parameters, weightDecay: Float(graft.plan.stage1.weightDecay))
    }
    self.optimizers = optimizers
    random = RandomStream(seed: graft.plan.seed, name: "activation distillation")
  }

  /// Takes one optimizer step of every site that has parameters and returns the losses of all before
  /// it.
  package func trainStep() -> Losses {
    let batch = dataset.batch(
      settings.batchSize, random: &random,
      nullClass: graft.teacher.config.numClasses, labelDropout: Self.labelDropout)
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    let losses = parts.accumulate(into: trainable) { range, makeTape in
      let share = Double(range.count) / Double(batch.steps.count)
      return lossesOfSites(batch, range) { student, objective, target in
        let tape = makeTape()
        let output = student(tape)
        let (loss, gradient) = objective.lossAndGradient(output.tensor, target)
        ck_scale_f32(gradient.pointer, Float(share), gradient.count)
        tape.backward(output, gradient)
        return loss * share
      }
    }
    let rate = Float(schedule.rate(step: step))
    for site in optimizers.keys.sorted() {
      optimizers[site]?.step(rate: rate, clipNorm: Float(settings.clipNorm))
    }
    step += 1
    return Self.sum(losses)
  }

  /// The losses of all sites on the held-out samples, always the same ones.
  package func heldOutLosses() -> Losses {
    var random = RandomStream(seed: graft.plan.seed, name: "held out")
    let batch = heldOut.batch(
      settings.heldOutSamples, random: &random,
      nullClass: graft.teacher.config.numClasses, labelDropout: Self.labelDropout)
    let parts = MicroBatches(rows: batch.steps.count, size: Self.microBatch)
    return Self.sum(
      parts.map { range in
        let share = Double(range.count) / Double(batch.steps.count)
        return lossesOfSites(batch, range) { student, objective, target in
          objective.loss(student(Tape(recording: false)).tensor, target) * share
        }
      })
  }

  private static func sum(_ parts: [Losses]) -> Losses {
    parts.reduce(into: [:]) { total, part in total.merge(part, uniquingKeysWith: +) }
  }

  /// All parameters of all sites.
  private var trainable: [Parameter] {
    optimizers.keys.sorted().flatMap { optimizers[$0]?.parameters ?? [] }
  }

  /// What is trained at a site, from the teacher's input there to its own output, on a tape.
  private typealias Student = (Tape) -> Value

  /// Runs the teacher over some rows and asks `body` for the loss of each site, given what is trained
  /// there and the teacher's output.
  private func lossesOfSites(
    _ batch: DiffusionBatch, _ range: Range<Int>,
    _ body: @escaping (Student, RegressionObjective, _ target: Tensor) -> Double
  ) -> Losses {
    let (teacher, model, plan) = (graft.teacher, graft.model, graft.plan)
    let steps = Array(batch.steps[range])
    let noisy = diffusion.noisy(
      batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps)
    let conditioning = DiT.Conditioning(
      timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range]))
    let condition =
      plan.parallel.isEmpty ? nil : teacher.condition(conditioning, on: Tape(recording: false))
    var losses: Losses = [:]
    func visit(_ site: GraftSite, target: Tensor, _ student: Student) {
      losses[site] = body(student, settings.objective(for: site), target)
    }
    // What the pair that the teacher is in received.
    var pairInput: Tensor?
    _ = teacher(
      Value(constant: noisy), conditioning, on: Tape(recording: false),
      observeBlock: { [graft] block, seen in
        if let pair = plan.pair(of: block), let condition {
          if block == pair.first {
            pairInput = seen.input
          } else if let x = pairInput.take() {
            visit(.pair(pair), target: seen.output) { tape in
              model.output(of: pair, Value(constant: x), condition, on: tape)
            }
          }
          return
        }
        for slot in Slot.allCases {
          let id = SlotID(block: block, slot: slot)
          guard let student = graft.replacement(id) else { continue }
          let (input, target) = seen.activations(of: slot)
          visit(.slot(id), target: target) { student(Value(constant: input), on: $0) }
        }
      })
    return losses
  }

  // MARK: - Checkpoints

  /// Writes parameters, optimizer moments, random state and step; atomic.
  package func saveCheckpoint(to path: String) throws {
    var items: [SafetensorsWriter.Item] = []
    for site in optimizers.keys.sorted() {
      guard let optimizer = optimizers[site] else { continue }
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
  /// The regression objective of a site.
  package func objective(for site: GraftSite) -> RegressionObjective {
    switch loss(for: site) {
    case .l1: .l1
    case .l2: .l2
    case .huber: .huber(delta: Float(huberDelta))
    }
  }
}
