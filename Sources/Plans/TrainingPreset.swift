/// Training settings of both stages by name.
package enum TrainingPreset: String, CaseIterable, Sendable {
  /// The paper's sections 3 and 4 for class-conditional models: stage 1 with 8k samples, 200 epochs, batch 64 and
  /// rate 1e-4, stage 2 with 50k steps of 256 samples.
  case paper
  /// The configurations of keshik6/grafting: as the paper's, with the rates of `hyena_y` (5e-4) for
  /// attention and of the MLP of ratio 3 (1e-3, weight decay 1e-5), keeping the best weights.
  case released
  /// For a quarter of an hour of the shipped model on two cores: operators start from fits in closed form, a short
  /// stage 1 ends with fits from front to back, and stage 2 learns from the teacher alone, in small batches.
  case short
}

extension GraftPlan {
  /// Applies settings of both stages; overrides of slots are kept except rates and initialisations set by the
  /// preset.
  ///
  /// For a text-conditional model both are the paper's section 5: 8k of 12k samples in stage 1, adapters of rank 64 in
  /// stage 2 and, in a plan without changes, Hyena-X in the self-attention of half of the blocks. Steps, batch and
  /// rate of its stage 2 are not published; those here suit 12k samples.
  package mutating func apply(_ preset: TrainingPreset) {
    if preset == .short { return applyShortPreset() }
    defer { if model.shape.family.condition == .captions { applyCaptionedPreset() } }
    (stage2.diffusionWeight, stage2.distillsNull, stage2.featureWeight) = (1, false, 0)
    (stage2.inheritedRate, stage1.sweeps) = (1, false)
    (stage2.optimizer, stage2.varianceWeight, stage2.teacherSamples) = (.adamw, 1, 0)
    stage2.timestepDensity = nil
    (stage2.steps, stage2.batchSize, stage2.learningRate) = (50_000, 256, 1e-4)
    // The released trainer's 4000 scheduler steps are 500 steps of eight processes.
    stage2.warmupSteps = preset == .paper ? 1000 : 500
    (stage2.clipNorm, stage2.weightDecay, stage2.labelDropout) = (10, 0, 0.1)
    (stage2.emaDecay, stage2.emaWarmup, stage2.milestones) = (0.9999, false, [])
    (stage2.trained, stage2.distillationWeight) = (.all, 0)
    stage1.mode = .cached
    (stage1.samples, stage1.epochs, stage1.batchSize) = (8000, 200, 64)
    (stage1.warmupSteps, stage1.weightDecay, stage1.clipNorm) = (0, 0, 10)
    // Activations are recorded with the labels of the samples.
    stage1.labelDropout = 0
    (stage1.decay, stage1.milestones, stage1.gamma) = (.multiStep, [0.25, 0.5, 0.75], 0.5)
    (stage1.attentionLoss, stage1.mlpLoss, stage1.huberDelta) = (.l1, .l2, 1)
    stage1.isGateScaled = false
    // The released trainer validates every tenth epoch.
    stage1.heldOutEvery = 10 * stage1.stepsPerEpoch
    stage1.learningRate = preset == .paper ? 1e-4 : 5e-4
    stage1.minimumRate = preset == .paper ? 1e-6 : 1.25e-6
    stage1.keepsBest = preset == .released
    guard preset == .released else { return }
    for id in edits.keys where id.slot == .mlp {
      stage1.overrides[.slot(id), default: SiteOverride()].learningRate = 1e-3
      stage1.overrides[.slot(id), default: SiteOverride()].weightDecay = 1e-5
    }
  }

  /// Found on the shipped model (Assets/study.md); rates are inversely proportional to the hidden size.
  private mutating func applyShortPreset() {
    let own = stage1.overrides
    self = fitted()
    // Linear attention starts as the plan says: with it a fitted start is several times further off after stage 1.
    for (id, spec) in edits where spec.name == "linear_attention" {
      stage1.overrides[.slot(id)] = own[.slot(id)]
    }
    (stage1.mode, stage1.steps, stage1.batchSize, stage1.warmupSteps) = (.streaming, 150, 8, 20)
    (stage1.ridgeFinish, stage1.sweeps) = (true, true)
    (stage2.steps, stage2.batchSize, stage2.microBatch, stage2.warmupSteps) = (6500, 8, 4, 20)
    // Narrower or wider MLPs and fitted attention are near after stage 1 and need a lower rate, and steps that grow
    // small with the gradient.
    let isNear =
      parallel.isEmpty && !edits.isEmpty
      && edits.values.allSatisfy { ["mlp", "mha"].contains($0.name) }
    stage2.optimizer = isNear ? .adamw : .muon
    stage2.learningRate = (isNear ? 0.0064 : 0.128) / Double(max(1, model.shape.hiddenSize))
    stage2.milestones = [0.25, 0.4, 0.52, 0.62, 0.7, 0.77, 0.83, 0.88, 0.92, 0.95, 0.97]
    stage2.gamma = 0.7
    // Guidance needs the prediction without a condition about half as often as that with one.
    stage2.labelDropout = 0.25
    (stage2.diffusionWeight, stage2.distillationWeight, stage2.distillsNull) = (0, 1, false)
    (stage2.featureWeight, stage2.inheritedRate, stage2.emaWarmup) = (0, 1, true)
    applyFamilyDefaults()
  }

  /// Blocks of PixArt-Σ whose self-attention the paper replaces.
  private static let captionedBlocks: Set<Int> = Set([8, 10, 12, 14, 16, 18] + Array(20...27))

  private mutating func applyCaptionedPreset() {
    let depth = model.shape.depth
    if edits.isEmpty {
      // In a model of another depth the blocks at the same fractions of it.
      for block in 0..<depth where Self.captionedBlocks.contains(block * 28 / depth) {
        edits[SlotID(block: block, slot: .attention)] = OperatorSpec("hyena_x")
      }
    }
    (stage2.steps, stage2.batchSize, stage2.warmupSteps) = (3000, 16, 300)
    applyFamilyDefaults()
  }
}
