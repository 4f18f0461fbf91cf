/// Published training settings.
package enum TrainingPreset: String, CaseIterable, Sendable {
  /// The paper's sections 3 and 4: stage 1 with 8k samples, 200 epochs, batch 64 and rate 1e-4, stage 2
  /// with 50k steps of 256 samples.
  case paper
  /// The configurations of keshik6/grafting: as the paper's, with the rates of `hyena_y` (5e-4) for
  /// attention and of the MLP of ratio 3 (1e-3, weight decay 1e-5), keeping the best weights.
  case released
}

extension GraftPlan {
  /// Applies published settings of both stages; overrides of slots are kept except rates set by the
  /// preset.
  package mutating func apply(_ preset: TrainingPreset) {
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
}
