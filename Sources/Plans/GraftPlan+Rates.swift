extension GraftPlan {
  /// Whether a training of another plan may go on as one of this plan: they agree in all but learning
  /// rates and in when checkpoints are written and kept.
  package func continues(_ other: GraftPlan) -> Bool { settled == other.settled }

  /// The plan with the same rates and checkpoints for everybody.
  private var settled: GraftPlan {
    var plan = self
    plan.stage1.learningRate = 1
    plan.stage1.minimumRate = 1
    for site in plan.stage1.overrides.keys {
      plan.stage1.overrides[site]?.learningRate = nil
      plan.stage1.overrides[site]?.minimumRate = nil
    }
    plan.stage1.overrides = plan.stage1.overrides.filter { $0.value != SiteOverride() }
    plan.stage2.learningRate = 1
    plan.stage2.keepsBest = false
    plan.stage1.checkpoints = CheckpointPolicy(every: 1)
    plan.stage2.checkpoints = CheckpointPolicy(every: 1)
    return plan
  }

  /// Multiplies all learning rates of stage 1, the plan's and those of single sites; the rate where a
  /// schedule ends never stays above the one where it begins.
  package mutating func scaleStage1Rates(by factor: Double) {
    stage1.learningRate *= factor
    stage1.minimumRate = min(stage1.minimumRate, stage1.learningRate)
    for (site, own) in stage1.overrides {
      let rate = own.learningRate.map { $0 * factor }
      stage1.overrides[site]?.learningRate = rate
      stage1.overrides[site]?.minimumRate = own.minimumRate.map {
        min($0, rate ?? stage1.learningRate)
      }
    }
  }
}
