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

/// Stage 2: end-to-end finetuning of the grafted model with the diffusion loss (section 4 of the
/// paper).
///
/// Mean squared error and variational bound, AdamW, linear warm-up, gradient clipping and EMA as in
/// the released trainer (keshik6/grafting, `train_stage2`); a plan may freeze parts, train LoRA
/// adapters instead, and add output distillation from the teacher.
package final class Finetuning {
  /// The model that is trained.
  package let model: any DiffusionTransformer
  private let plan: GraftPlan
  private let dataset: LatentDataset
  private let heldOut: LatentDataset
  private let trainer: DiffusionTrainer
  private let distillation: Distillation?
  private let schedule: LearningRateSchedule
  private let timesteps: DiscreteDistribution?
  /// Number of steps taken.
  package private(set) var step = 0
  /// Lowest held-out loss, whose model is kept; nil if none is kept.
  package private(set) var lowestHeldOutLoss: Double?
  /// Batch of the last step, used to locate non-finite values.
  private var lastBatch: DiffusionBatch?

  private var settings: Stage2Settings { plan.stage2 }

  /// Sets up stage 2 of a graft; trains its model, not its teacher.
  ///
  /// - Parameters:
  ///   - graft: Teacher and grafted model; not retained, which frees the teacher unless its output
  ///     is distilled.
  ///   - dataset: Normalised latents, the source of the samples.
  ///   - heldOut: Other latents, for the held-out loss.
  /// - Throws: `PlanError` if the plan trains no parameters, `SamplingError` for an invalid
  ///   diffusion process.
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
    // The model shares tensors with the teacher, so copies are trained.
    for parameter in trained { parameter.update { $0 = $0.copied() } }
    try plan.requireFinetunable()
    guard !settings.distillsNull || dataset.texts == nil || dataset.texts?.null != nil else {
      throw PlanError(
        key: "stage2.distill_null",
        "the model has no embedding of the empty caption and no text encoder beside it; set it to false"
      )
    }
    distillation = Self.distillation(of: graft)
    let factor = Float(settings.inheritedRate)
    let grafts = plan.sites.flatMap(\.checkpointPrefixes)
    trainer = DiffusionTrainer(
      model: graft.model, process: try TrainingProcess(of: plan.model.shape.family),
      emaDecay: Float(settings.emaDecay),
      diffusionWeight: settings.diffusionWeight, distillation: distillation,
      recomputesBlocks: settings.recompute
    ) {
      let factors = $0.map { parameter in
        let isNew =
          grafts.contains(where: parameter.name.hasPrefix) || parameter.name.contains(".lora_")
        return isNew ? 1 : factor
      }
      let decay = Float(settings.weightDecay)
      switch settings.optimizer {
      case .adamw: return AdamW($0, weightDecay: decay, rateFactors: factors)
      case .muon: return Muon($0, weightDecay: decay, rateFactors: factors)
      }
    }
    timesteps = settings.timestepDensity.flatMap(DiscreteDistribution.init(timestepKnots:))
    schedule = LearningRateSchedule(
      base: settings.learningRate, warmupSteps: settings.warmupSteps,
      decay: .multiStep(
        milestones: settings.milestones.map { Int(($0 * Double(settings.steps)).rounded()) },
        gamma: settings.gamma))
  }

  /// The teacher's terms; nil if none has weight.
  private static func distillation(of graft: Graft) -> Distillation? {
    let (plan, settings) = (graft.plan, graft.plan.stage2)
    guard settings.distillationWeight > 0 || settings.featureWeight > 0 else { return nil }
    var features: [String: String] = [:]
    if settings.featureWeight > 0 {
      let blocks = (0..<plan.model.shape.depth).filter { plan.pair(of: $0) == nil }
      let kept = blocks.filter { block in
        Slot.allCases.allSatisfy { plan.edits[SlotID(block: block, slot: $0)] == nil }
      }
      for block in kept.isEmpty ? blocks : kept {
        features["blocks.\(block).out"] = "blocks.\(block).out"
      }
      if kept.isEmpty {
        for pair in plan.parallel.keys {
          features["blocks.\(pair.first).merge.out"] = "blocks.\(pair.second).out"
        }
      }
    }
    return Distillation(
      teacher: graft.teacher, weight: settings.distillationWeight,
      varianceWeight: settings.varianceWeight, features: features,
      outlierDeviations: settings.featureOutliers)
  }

  /// Freezes the parameters that the plan does not train, and attaches LoRA adapters.
  private static func choose(from model: any DiffusionTransformer, plan: GraftPlan) {
    let settings = plan.stage2
    let grafts = plan.sites.flatMap(\.checkpointPrefixes)
    let firstBlock = plan.model.shape.depth - settings.lastBlocks
    let tail = (firstBlock..<plan.model.shape.depth).map { "blocks.\($0)." } + ["final_layer."]
    func isTrained(_ name: String) -> Bool {
      switch settings.trained {
      case .all, .lora: true
      case .grafts: grafts.contains(where: name.hasPrefix)
      case .graftsAndNorms:
        grafts.contains(where: name.hasPrefix)
          || plan.model.shape.family.modulationKeys.contains(where: name.contains)
      case .lastBlocks: tail.contains(where: name.hasPrefix)
      }
    }
    for parameter in model.parameters where !isTrained(parameter.name) {
      parameter.isFrozen = true
    }
    if settings.trained == .lora { LowRankAdaptation.attach(to: model, plan: plan) }
  }

  /// Learning rate of the last step, or of the first before any step.
  package var learningRate: Double { schedule.rate(step: max(0, step - 1)) }

  /// Takes one optimizer step and returns the losses before it; skips the step if a loss is not
  /// finite.
  package func trainStep() -> TrainingStepReport {
    let number = settings.repeatedBatches.map { step % $0 }
    let (batch, null) = pair(distillation != nil) { dropout in
      dataset.batch(
        settings.batchSize, seed: plan.seed, stage: "stage2", step: number ?? step,
        timesteps: timesteps, nullClass: model.shape.nullClass, labelDropout: dropout)
    }
    lastBatch = batch
    var decay = Float(settings.emaDecay)
    if settings.emaWarmup { decay = min(decay, Float(step + 1) / Float(step + 10)) }
    let report = trainer.step(
      batch, null: null, number: number,
      featureWeight: settings.featureWeight * (1 - Double(step) / Double(settings.steps)),
      microBatch: settings.microBatch, rate: schedule.rate(step: step),
      clipNorm: Float(settings.clipNorm), emaDecay: decay)
    step += 1
    return report
  }

  /// Samples that are drawn with a label dropout and, where the teacher's terms compare them, the same without
  /// their condition.
  private func pair(
    _ isCompared: Bool, _ draw: (_ labelDropout: Double) -> DiffusionBatch
  ) -> (batch: DiffusionBatch, null: DiffusionBatch?) {
    (draw(settings.labelDropout), isCompared && settings.distillsNull ? draw(1) : nil)
  }

  /// Loss of the averaged weights on the held-out samples with fixed noise and timesteps: the diffusion
  /// loss or, where that has no weight, the difference from the teacher's output.
  package func heldOutLoss() -> Double {
    let (batch, null) = pair(settings.diffusionWeight == 0) { dropout in
      heldOut.batch(
        0..<settings.heldOutSamples, seed: plan.seed, name: "held-out",
        nullClass: model.shape.nullClass, labelDropout: dropout)
    }
    return trainer.withAverages {
      trainer.evaluate(batch, null: null, microBatch: settings.microBatch).loss
    }
  }

  /// Upstream name of the first module or parameter with non-finite values in the forward or
  /// backward pass of the last batch; nil if all are finite.
  package func firstNonFinitePlace() -> String? {
    lastBatch.flatMap { batch in
      trainer.firstNonFinitePlace(batch)
        ?? trainer.firstNonFiniteGradient(batch, microBatch: settings.microBatch)
        .map { "the gradient of \($0)" }
    }
  }

  /// Returns a sentence about non-finite samples of the last step or of `isSound`; nil if there are
  /// none.
  package func faultInData() -> String? {
    lastBatch.flatMap { dataset.fault(in: $0) } ?? heldOut.fault(in: witness, of: "held-out")
  }

  /// A fixed held-out sample.
  private var witness: DiffusionBatch {
    heldOut.batch(
      0..<1, seed: plan.seed, name: "witness", nullClass: model.shape.nullClass, labelDropout: 0)
  }

  /// Whether forward and backward pass of a held-out sample are finite.
  package func isSound() -> Bool {
    trainer.firstNonFiniteGradient(witness, microBatch: 1) == nil
  }

  /// Writes the model with averaged weights, merged adapters, and the plan in the metadata.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  package func saveModel(to path: String, teacherMetadata: [String: String]) throws {
    var metadata = teacherMetadata
    metadata[DiTFile.planKey] = String(decoding: try plan.json(), as: UTF8.self)
    metadata["finetuning_steps"] = String(step)
    try trainer.saveAveragedModel(to: path, metadata: metadata)
  }

  /// Writes the model as `saveModel` if the plan keeps the best and the loss is the lowest.
  ///
  /// - Throws: `FileError` if the file cannot be written; the loss is then not recorded.
  package func keepBest(
    _ loss: Double, at path: String, teacherMetadata: [String: String]
  ) throws {
    guard settings.keepsBest, loss < lowestHeldOutLoss ?? .infinity else { return }
    try saveModel(to: path, teacherMetadata: teacherMetadata)
    lowestHeldOutLoss = loss
  }

  // MARK: - Checkpoints

  static let kind = "stage 2 checkpoint"

  /// Atomically writes all parameters, averages, optimizer moments and the step, which determines
  /// the random state.
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

  /// Resumes from a checkpoint of the same plan, independent of the initial weights.
  ///
  /// - Throws: `FileError` if the file is not a checkpoint of this plan and data.
  package func resume(from path: String) throws {
    let file = try SafetensorsFile(path: path)
    guard file.metadata["espalier_file"] == Self.kind, let text = file.metadata[DiTFile.planKey]
    else {
      throw FileError("\(path): is no \(Self.kind); remove it to start anew")
    }
    let saved = try file.count("step", in: 0...settings.steps)
    try file.requireGenerator()
    try plan.requireContinuation(
      of: text, from: file, on: (dataset.identity, heldOut.identity))
    try trainer.restore(from: file, stepsUpTo: settings.steps)
    // Frozen tensors may be shared with the teacher, so they are replaced instead of overwritten.
    for parameter in frozen {
      let saved = try FileWeights(file, prefix: "model.").tensor(
        parameter.name, parameter.shape, .zeros)
      parameter.update { $0 = saved }
    }
    step = saved
    lowestHeldOutLoss = file.metadata["lowest_held_out_loss"].flatMap(Double.init)
  }

  /// Frozen parameters.
  private var frozen: [Parameter] { model.parameters.filter(\.isFrozen) }
}
