import Autograd
import Checkpoints
import Datasets
import Files
import Foundation
import Models
import Nn
import Plans
import Sampling
import TensorCore
import Training

/// Stage 2: the grafted model is trained end to end with the diffusion loss, section 4 of the paper.
///
/// Mean squared error and variational bound, AdamW, linear warm-up, clipping and an average of the
/// weights, as the released trainer (keshik6/grafting, `train_stage2`); a plan may freeze parts, train
/// low-rank additions instead, and add the distance from the teacher's output.
package final class Finetuning {
  /// The model that is trained.
  package let model: DiT
  private let plan: GraftPlan
  private let dataset: LatentDataset
  private let heldOut: LatentDataset
  private let trainer: DiffusionTrainer
  private let schedule: LearningRateSchedule
  /// Number of steps taken.
  package private(set) var step = 0
  /// The lowest held-out loss of a kept model; nil when none is kept.
  package private(set) var lowestHeldOutLoss: Double?
  /// The last batch, whose way through the model tells where a loss became infinite.
  private var lastBatch: DiffusionBatch?

  private var settings: Stage2Settings { plan.stage2 }

  /// Sets up stage 2 of a graft, whose model is trained from now on; its teacher is left alone.
  ///
  /// - Parameters:
  ///   - graft: Teacher and grafted model; not kept, so that the teacher's memory is free unless its
  ///     output is learnt.
  ///   - dataset: Normalised latents that the samples are drawn from.
  ///   - heldOut: Other latents, for the held-out loss.
  /// - Throws: `PlanError` if the plan leaves nothing to train, `SamplingError` if the diffusion process
  ///   cannot be made.
  package init(graft: Graft, dataset: LatentDataset, heldOut: LatentDataset) throws {
    model = graft.model
    plan = graft.plan
    self.dataset = dataset
    self.heldOut = heldOut
    let settings = graft.plan.stage2
    Self.choose(from: graft.model, plan: graft.plan)
    let trained = graft.model.parameters.flatMap(\.trained)
    guard !trained.isEmpty else {
      throw PlanError(
        key: "stage2.trained",
        "\"\(settings.trained.rawValue)\" leaves nothing to train in this plan; replace an operator or"
          + " choose \"all\"")
    }
    // The model shares the tensors of its teacher, which stays as it is.
    for parameter in trained { parameter.value = parameter.value.copied() }
    let weight = settings.distillationWeight
    trainer = DiffusionTrainer(
      model: graft.model, diffusion: try GaussianDiffusion(spacing: ""),
      emaDecay: Float(settings.emaDecay),
      teacher: weight > 0 ? OutputTeacher(model: graft.teacher, weight: weight) : nil,
      recomputesBlocks: settings.recompute
    ) { AdamW($0, weightDecay: Float(settings.weightDecay)) }
    schedule = LearningRateSchedule(
      base: settings.learningRate, warmupSteps: settings.warmupSteps,
      decay: .multiStep(
        milestones: settings.milestones.map { Int(($0 * Double(settings.steps)).rounded()) },
        gamma: settings.gamma))
  }

  /// Freezes what the plan does not train, and attaches adapters where it asks for them.
  private static func choose(from model: DiT, plan: GraftPlan) {
    let settings = plan.stage2
    let grafts = plan.sites.flatMap(\.checkpointPrefixes)
    let firstBlock = plan.model.shape.depth - settings.lastBlocks
    let tail = (firstBlock..<plan.model.shape.depth).map { "blocks.\($0)." } + ["final_layer."]
    func isTrained(_ name: String) -> Bool {
      switch settings.trained {
      case .all, .lora: true
      case .grafts: grafts.contains(where: name.hasPrefix)
      case .graftsAndNorms:
        grafts.contains(where: name.hasPrefix) || name.contains("adaLN_modulation.")
      case .lastBlocks: tail.contains(where: name.hasPrefix)
      }
    }
    for parameter in model.parameters where !isTrained(parameter.name) {
      parameter.isFrozen = true
    }
    if settings.trained == .lora { LowRankAdaptation.attach(to: model, plan: plan) }
  }

  /// The learning rate of the last step, or of the first before it is taken.
  package var learningRate: Double { schedule.rate(step: max(0, step - 1)) }

  /// Takes one optimizer step and returns the losses before it; where one is not finite, the weights
  /// stay as they were.
  package func trainStep() -> TrainingStepReport {
    let batch = dataset.batch(
      0..<settings.batchSize, seed: plan.seed, name: "stage2/\(step)",
      nullClass: model.config.nullClass,
      labelDropout: settings.labelDropout)
    lastBatch = batch
    var decay = Float(settings.emaDecay)
    if settings.emaWarmup { decay = min(decay, Float(step + 1) / Float(step + 10)) }
    let report = trainer.step(
      batch, microBatch: settings.microBatch, rate: schedule.rate(step: step),
      clipNorm: Float(settings.clipNorm), emaDecay: decay)
    step += 1
    return report
  }

  /// The diffusion loss of the averaged weights on the held-out samples, whose noise and timesteps are
  /// always the same.
  package func heldOutLoss() -> Double {
    let batch = heldOut.batch(
      0..<settings.heldOutSamples, seed: plan.seed, name: "held-out",
      nullClass: model.config.nullClass,
      labelDropout: settings.labelDropout)
    return trainer.withAverages {
      trainer.evaluate(batch, microBatch: settings.microBatch).loss
    }
  }

  /// Where in the model the last batch stopped being finite, by upstream name, on its way there or
  /// back; nil if it never did.
  package func firstNonFinitePlace() -> String? {
    lastBatch.flatMap { batch in
      trainer.firstNonFinitePlace(batch)
        ?? trainer.firstNonFiniteGradient(batch, microBatch: settings.microBatch)
        .map { "the gradient of \($0)" }
    }
  }

  /// What is wrong with the samples of the last step or that of `isSound`, with what to do about it;
  /// nil if nothing is.
  package func faultInData() -> String? {
    lastBatch.flatMap { dataset.fault(in: $0) } ?? heldOut.fault(in: witness, of: "held-out")
  }

  /// A held-out sample, always the same one.
  private var witness: DiffusionBatch {
    heldOut.batch(
      0..<1, seed: plan.seed, name: "witness", nullClass: model.config.nullClass, labelDropout: 0)
  }

  /// Whether the gradient of a held-out sample, and with it all on the way there, is finite.
  package func isSound() -> Bool {
    trainer.firstNonFiniteGradient(witness, microBatch: 1) == nil
  }

  /// Writes the model with its averaged weights, additions merged, and the plan in the metadata.
  ///
  /// - Parameters:
  ///   - path: The file to write.
  ///   - teacherMetadata: Metadata of the teacher's file, kept.
  /// - Throws: `FileError` if the file cannot be written.
  package func saveModel(to path: String, teacherMetadata: [String: String]) throws {
    var metadata = teacherMetadata
    metadata[DiTFile.planKey] = String(decoding: try plan.json(), as: UTF8.self)
    metadata["finetuning_steps"] = String(step)
    try trainer.saveAveragedModel(to: path, metadata: metadata)
  }

  /// Writes the model as `saveModel` does if the plan keeps the best and no loss was lower.
  ///
  /// - Throws: `FileError` if the file cannot be written; the loss then does not count.
  package func keepBest(
    _ loss: Double, at path: String, teacherMetadata: [String: String]
  ) throws {
    guard settings.keepsBest, loss < lowestHeldOutLoss ?? .infinity else { return }
    try saveModel(to: path, teacherMetadata: teacherMetadata)
    lowestHeldOutLoss = loss
  }

  // MARK: - Checkpoints

  private static let kind = "stage 2 checkpoint"

  /// Writes all that the training goes on from: every parameter, averages, optimizer moments and the
  /// step, which decides all random numbers; atomic.
  package func saveCheckpoint(to path: String) throws {
    var metadata = trainer.checkpointMetadata
    metadata["espalier_file"] = Self.kind
    metadata["step"] = String(step)
    metadata[RandomStream.metadataKey] = RandomStream.generator
    metadata["data"] = dataset.identity
    metadata["held_out"] = heldOut.identity
    metadata["lowest_held_out_loss"] = lowestHeldOutLoss.map { String($0) }
    metadata[DiTFile.planKey] = String(decoding: try plan.json(), as: UTF8.self)
    try SafetensorsWriter.write(
      trainer.checkpointItems() + frozen.map { TensorItem(name: "model.\($0.name)", $0.value) },
      metadata: metadata, to: path)
  }

  /// Continues from a checkpoint of the same plan, whatever weights the graft started with.
  ///
  /// - Throws: `FileError` if the file is no checkpoint of this plan and data.
  package func resume(from path: String) throws {
    let file = try SafetensorsFile(path: path)
    guard file.metadata["espalier_file"] == Self.kind, let text = file.metadata[DiTFile.planKey],
      let saved = file.metadata["step"].flatMap(Int.init)
    else {
      throw FileError("\(path): is no \(Self.kind); remove it to start anew")
    }
    try file.requireGenerator()
    try plan.requireContinuation(
      of: text, from: file, on: (dataset.identity, heldOut.identity))
    try trainer.restore(from: file)
    // Frozen tensors may be the teacher's: replaced, not written to.
    for parameter in frozen {
      parameter.value = try FileWeights(file, prefix: "model.").tensor(
        parameter.name, parameter.value.shape, .zeros)
    }
    step = saved
    lowestHeldOutLoss = file.metadata["lowest_held_out_loss"].flatMap(Double.init)
  }

  /// The parameters that stay as they are.
  private var frozen: [Parameter] { model.parameters.filter(\.isFrozen) }
}
