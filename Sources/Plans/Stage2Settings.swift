/// Parameters trained by stage 2, never including the fixed position table.
package enum TrainedParameters: String, SettingChoice {
  /// All parameters, as in the paper's class-conditional experiments.
  case all
  /// The replaced operators.
  case grafts
  /// The replaced operators and all adaLN modulations, which are the affine part of the norms in a
  /// DiT.
  case graftsAndNorms = "grafts_and_norms"
  /// The last `last_n_blocks` blocks and the final layer.
  case lastBlocks = "last_n_blocks"
  /// The replaced operators, and LoRA adapters of linear layers of all others.
  case lora
}

/// Linear layer of a pretrained block that can have a LoRA adapter, named by its key.
package enum LoRATarget: String, SettingChoice {
  /// Projection of queries, keys and values.
  case qkv
  /// The output projection of attention.
  case proj
  /// The first layer of the MLP.
  case fc1
  /// The second layer of the MLP.
  case fc2
  /// The first layer of a gated MLP.
  case w12
  /// The second layer of a gated MLP.
  case w3
  /// The modulation of the norms and gates.
  case modulation = "adaLN_modulation.1"
  /// Queries of the attention to the caption.
  case captionQuery = "q_linear"
  /// Keys and values of the attention to the caption.
  case captionKeyValue = "kv_linear"
}

/// Settings table of stage 2, end-to-end finetuning, by default with the diffusion loss.
///
/// Rate, clipping, decay, label dropout and the absence of weight decay follow the released trainer
/// (keshik6/grafting, `train_stage2`); steps, batch and warm-up are those of a first look that takes
/// a few minutes on two cores.
package struct Stage2Schema: TrainingSchema {
  package static let table = SettingsTable(Stage2Schema())

  package let steps = Setting(
    "steps", 100, in: 1...1e7, "optimizer steps", .form)
  package let batchSize = Setting(
    "batch_size", 16, in: 1...65536, "samples in each step", .form)
  package let optimizer = Setting(
    "optimizer", OptimizerName.adamw,
    "`muon` steps the matrices of attention and MLP by Muon, the rest by AdamW")
  package let learningRate = Setting(
    "learning_rate", 1e-4, in: 1e-12...1, "the highest rate, after warm-up", .resume, .form)
  package let warmupSteps = Setting(
    "warmup_steps", 20, in: 0...1e7, "steps over which the rate rises linearly from 0")
  package let clipNorm = Setting(
    "clip_norm", 10.0, in: 1e-9...1e9, "global gradient norm above which gradients are scaled down")
  package let emaDecay = Setting(
    "ema_decay", 0.9999, in: 0...1, "decay of the moving average of the weights")
  package let labelDropout = Setting(
    "label_dropout", 0.1, in: 0...1, "fraction of labels replaced by the null class")
  package let timestepDensity = TrainingRows.timestepDensity
  package let microBatch = Setting(
    "micro_batch", 4, in: 1...65536,
    "samples in each forward pass; the gradients of the parts of a batch add up")
  package let weightDecay = Setting(
    "weight_decay", 0.0, in: 0...1, "decoupled weight decay")
  package let milestones = Setting(
    "milestones", [Double](), in: 0...1,
    "fractions of `steps` at which the rate is multiplied by `gamma`", refusing: refusalOfMilestones
  )
  package let gamma = Setting(
    "gamma", 0.5, in: 1e-6...1, "factor of the rate at each milestone")
  package let emaWarmup = Setting(
    "ema_warmup", true,
    "whether the average's decay starts low, (1 + step) / (10 + step), so that a short training's"
      + " average leaves its start behind; the released trainer's does not")
  package let heldOutEvery = TrainingRows.heldOutEvery
  package let heldOutSamples = TrainingRows.heldOutSamples
  package let keepsBest = Setting(
    "keep_best", false, "whether the model with the lowest held-out loss is kept beside the newest",
    .resume)
  package let checkpointEvery = TrainingRows.checkpointEvery
  package let checkpointMinutes = TrainingRows.checkpointMinutes
  package let keepLast = TrainingRows.keepLast
  package let distillationWeight = Setting(
    "distillation_weight", 0.0, in: 0...1e6,
    "weight of the mean squared difference from the teacher's output, added to the loss")
  package let varianceWeight = Setting(
    "variance_weight", 1.0, in: 0...1e6,
    "weight of the predicted variance within that difference; samplers without added noise, such as DDIM,"
      + " read only the predicted noise")
  package let teacherSamples = Setting(
    "teacher_samples", 0, in: 0...1e7,
    "noisy samples on which the teacher is evaluated once, in the first steps; the same batches then come"
      + " again. 0 draws new samples in every step")
  package let distillsNull = Setting(
    "distill_null", false,
    "whether the teacher's terms compare the predictions without a condition as well, of the same noisy"
      + " samples, so that guided predictions are learnt")
  package let diffusionWeight = Setting(
    "diffusion_weight", 1.0, in: 0...1e6,
    "weight of the diffusion loss; with 0 only the teacher's terms are trained, and the held-out loss is"
      + " the difference from its output")
  package let featureWeight = Setting(
    "feature_weight", 0.0, in: 0...1e6,
    "weight, falling evenly to 0, of the squared difference from the teacher's block outputs relative to"
      + " their squares: of blocks that keep both operators or, if none does, of all")
  package let featureOutliers = Setting(
    "feature_outliers", 0.0, in: 0...1e6,
    "standard deviations from a sample's mean beyond which values of the teacher's block outputs are left"
      + " out of that term; 0 keeps all")
  package let inheritedRate = Setting(
    "inherited_rate", 1.0, in: 0...1e3,
    "factor of the rate for weights that the model had before, all but the replaced operators")
  package let trained = Setting(
    "trained", TrainedParameters.all,
    "which parameters are trained; `lora` merges its additions when the model is written")
  package let lastBlocks = Setting(
    "last_n_blocks", 1, in: 1...1024, "blocks at the end that `trained` names")
  package let loraRank = Setting(
    "lora_rank", 64, in: 1...65536, "rank of the low-rank additions; the paper's is 64")
  package let loraAlpha = Setting(
    "lora_alpha", 64.0, in: 1e-6...1e6, "scale of the low-rank additions times their rank")
  package let loraTargets = Setting(
    "lora_targets", [LoRATarget.qkv, .proj, .fc1, .fc2], "layers that low-rank additions go to",
    refusing: refusal(ofTargets:))
  package let recompute = Setting(
    "recompute", false,
    "whether blocks run again on the way back instead of keeping their activations: less memory for"
      + " about a third more time, and the same bytes")

  package static func check(_ settings: Settings<Self>, at key: String) throws(PlanError) {
    guard settings.diffusionWeight == 0, settings.distillationWeight == 0 else { return }
    throw PlanError(
      key: "\(key).diffusion_weight",
      "0 leaves no loss to train on with \"distillation_weight\" 0; set that to 1, for example")
  }

  package static func missing(for row: any SettingRow, beside settings: Settings<Self>) -> String? {
    let rows = table.schema
    return switch row.key {
    case rows.gamma.key where settings.milestones.isEmpty: "milestones"
    case rows.varianceWeight.key where settings.distillationWeight == 0:
      "distillation_weight above 0"
    case rows.distillsNull.key
    where settings.distillationWeight == 0 && settings.featureWeight == 0:
      "distillation_weight or feature_weight above 0"
    case rows.featureOutliers.key where settings.featureWeight == 0: "feature_weight above 0"
    case rows.inheritedRate.key where settings.trained == .grafts: "trained other than grafts"
    case rows.lastBlocks.key where settings.trained != .lastBlocks: "trained last_n_blocks"
    case rows.loraRank.key, rows.loraAlpha.key, rows.loraTargets.key:
      settings.trained == .lora ? nil : "trained lora"
    default: nil
    }
  }

  @Sendable private static func refusal(ofTargets targets: [LoRATarget]) -> String? {
    guard targets.isEmpty || Set(targets).count != targets.count else { return nil }
    return "expected at least one layer and none twice, found \(targets.json); correct the list"
  }
}

/// Settings of stage 2, end-to-end finetuning.
package typealias Stage2Settings = Settings<Stage2Schema>

extension Settings where Schema == Stage2Schema {
  /// What is trained on, in words.
  package var lossText: String {
    let terms = [
      (self.diffusionWeight, "diffusion loss"),
      (self.distillationWeight, "difference from the teacher's output"),
      (self.featureWeight, "difference from its blocks"),
    ]
    return terms.filter { $0.0 > 0 }.map(\.1).joined(separator: " and ")
  }

  /// Which parameters are trained, in words.
  package var trainedText: String {
    switch self.trained {
    case .all: "the whole model"
    case .lora: "the new operators, and adapters of rank \(self.loraRank) of all others"
    case .grafts: "the new operators"
    case .graftsAndNorms: "the new operators and all modulations"
    case .lastBlocks: "the last \(self.lastBlocks == 1 ? "block" : "\(self.lastBlocks) blocks")"
    }
  }

  /// Number of batches that come again and again; nil if every step draws new samples.
  package var repeatedBatches: Int? {
    self.teacherSamples > 0 ? max(1, self.teacherSamples / self.batchSize) : nil
  }

  /// Most bytes of the teacher's outputs that are kept for batches that come again.
  private static var mostKeptBytes: Int { 8 << 30 }

  /// Checks that the trained parameters exist in a model, and that the teacher's outputs fit in memory.
  ///
  /// - Throws: `PlanError` that names the key under `stage2`.
  func validate(for shape: ModelShape) throws(PlanError) {
    try validate(at: "stage2")
    if self.distillsNull, shape.family.condition == .classes, shape.nullClass == nil {
      throw PlanError(
        key: "stage2.distill_null",
        "the model has no class for no condition, so it predicts nothing without one; set it to false"
      )
    }
    let predictions = self.distillsNull ? 2 : 1
    let bytes = predictions * shape.outChannels * shape.inputSize * shape.inputSize * 4
    let batches = min(self.repeatedBatches ?? 0, self.steps)
    let mostSamples = Self.mostKeptBytes / bytes
    if self.distillationWeight > 0, batches > mostSamples / self.batchSize {
      throw PlanError(
        key: "stage2.teacher_samples",
        "the teacher's outputs of \(batches * self.batchSize) samples would be kept in memory, \(bytes) bytes each,"
          + " expected at most \(Self.mostKeptBytes >> 30) GiB; set it to \(mostSamples) or less, or to 0"
      )
    }
    if self.timestepDensity != nil, shape.family.prediction == .velocity {
      throw PlanError(
        key: "stage2.timestep_density",
        "a \(shape.family.title) has times from 0 to 1 instead of timesteps; leave it out")
    }
    if self.trained == .lastBlocks {
      try self.lastBlocks.check(in: 1...Double(shape.depth), at: "stage2.last_n_blocks")
    }
    if self.trained == .lora {
      try self.loraRank.check(in: 1...Double(shape.hiddenSize), at: "stage2.lora_rank")
      let family = shape.family
      if let other = self.loraTargets.first(where: { !family.adaptedLayers.contains($0) }) {
        throw PlanError(
          key: "stage2.lora_targets",
          "a \(family.title) has no layer \(other.rawValue.jsonQuoted), expected some of"
            + " \(family.adaptedLayers.map(\.rawValue).joined(separator: ", ")); correct the list")
      }
    }
  }
}

extension GraftPlan {
  /// Throws if stage 2 has no loss to train on: data that the model draws itself have no clean samples.
  ///
  /// - Throws: `PlanError` that names the key.
  package func requireFinetunable() throws(PlanError) {
    guard data?.isSelf == true else { return }
    if stage2.teacherSamples > 0 {
      throw PlanError(
        key: "stage2.teacher_samples",
        "samples of data \"self\" never come again; set it to 0")
    }
    if stage2.timestepDensity != nil {
      throw PlanError(
        key: "stage2.timestep_density",
        "data \"self\" have the timesteps of the teacher's own sampling; leave it out")
    }
    guard stage2.diffusionWeight > 0 else { return }
    throw PlanError(
      key: "stage2.diffusion_weight",
      "data \"self\" has no clean samples to train the diffusion loss on; set it to 0 and"
        + " \"distillation_weight\" to 1")
  }
}
