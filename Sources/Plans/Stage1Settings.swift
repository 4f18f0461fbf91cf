import Foundation

/// What a distilled operator minimises between its output and the original's, mean over elements.
package enum RegressionLoss: String, Codable, CaseIterable, Sendable {
  /// Mean absolute difference.
  case l1
  /// Mean squared difference.
  case l2
  /// Quadratic up to `huberDelta`, linear beyond.
  case huber
}

/// How the learning rate falls after the warm-up.
package enum RateDecay: String, Codable, CaseIterable, Sendable {
  /// Multiplied by `gamma` at every milestone.
  case multiStep = "multi_step"
  /// In equal ratios from the rate itself to the smallest one at the last step.
  case exponential
  /// Multiplied by `gamma` when the held-out loss has stopped falling, as `ReduceLROnPlateau`.
  case plateau
}

/// Where stage 1 takes the activations from.
package enum Stage1Mode: String, Codable, CaseIterable, Sendable {
  /// New samples every step: one teacher pass feeds all replacements.
  case streaming
  /// The paper's way: the activations of fixed samples, recorded once, over many epochs.
  case cached
}

/// What a replacement starts from.
package enum Initialization: String, Codable, CaseIterable, Sendable {
  /// The operator's own fresh weights, as in the paper.
  case own
  /// Weights of the original operator, where the replacement has a place for them.
  case transferred
}

/// Settings of stage 1 for one slot or pair; nil stands for the plan's.
package struct SiteOverride: Codable, Equatable, Sendable {
  package var loss: RegressionLoss?
  package var huberDelta: Double?
  package var learningRate: Double?
  package var minimumRate: Double?
  package var weightDecay: Double?
  package var clipNorm: Double?
  package var warmupSteps: Int?
  package var decay: RateDecay?
  package var milestones: [Double]?
  package var gamma: Double?
  /// Steps after which the site is left as it is, in the streaming mode; at most those of the plan.
  package var steps: Int?
  /// The same in the cached mode, in passes over the samples.
  package var epochs: Int?
  package var keepsBest: Bool?
  package var isGateScaled: Bool?
  /// Nil is the operator's own; a pair has none, its blocks start from the model's weights.
  package var initialization: Initialization?

  /// Nothing differs.
  package init() {}
}

/// Settings of stage 1, activation distillation.
///
/// Losses, clipping and the shape of the schedule follow the paper (arXiv 2506.05340, section 3, and
/// the released trainer); steps and batch suit a CPU, where many small steps learn more in the same
/// time than few large ones.
package struct Stage1Settings: Codable, Equatable, Sendable {
  /// Where the activations come from.
  package var mode = Stage1Mode.streaming
  /// Optimiser steps of the streaming mode.
  package var steps = 1600
  /// Samples of the cached mode, 8k in the paper.
  package var samples = 8000
  /// Passes over them, 200 in the paper.
  package var epochs = 200
  /// What recorded activations may take on the disk, in 10^9 bytes.
  package var cacheGB = 20.0
  /// Samples a step.
  package var batchSize = 8
  /// AdamW's rate after warm-up.
  package var learningRate: Double
  /// Where the exponential and the plateau schedule end.
  package var minimumRate = 1e-6
  /// AdamW's decoupled weight decay.
  package var weightDecay = 0.0
  /// Global gradient norm above which gradients are scaled down, per operator.
  package var clipNorm = 10.0
  /// Steps over which the rate rises linearly from 0.
  package var warmupSteps = 50
  /// How the rate falls afterwards.
  package var decay = RateDecay.multiStep
  /// Fractions of all steps at which the rate is multiplied by `gamma`; ascending.
  package var milestones = [0.25, 0.5, 0.75]
  /// Factor of the rate at each milestone or plateau.
  package var gamma = 0.5
  /// Steps between two measurements of the held-out loss.
  package var heldOutEvery = 100
  /// Samples of the held-out loss.
  package var heldOutSamples = 128
  /// Whether each replacement ends as it was when its held-out loss was lowest, not as at the last step.
  package var keepsBest = false
  /// When checkpoints are written, and which are kept.
  package var checkpoints = CheckpointPolicy(every: 100, minutes: 10)
  /// Loss of replaced sequence mixers.
  package var attentionLoss = RegressionLoss.l1
  /// Loss of replaced channel mixers.
  package var mlpLoss = RegressionLoss.l2
  /// Where the Huber loss turns linear.
  package var huberDelta = 1.0
  /// Whether losses of slots see the outputs behind the adaLN gate, as they enter the residual stream.
  package var isGateScaled = false
  /// What differs at single sites.
  package var overrides: [GraftSite: SiteOverride] = [:]

  /// The defaults for a model of a width: the rate falls as its inverse, from 4e-3 for the shipped
  /// model (64) to 2.2e-4 for DiT-XL (1152; the paper's is 1e-4, the released configurations' 5e-4 to
  /// 1e-3).
  ///
  /// - Parameter hiddenSize: The model's width.
  package init(hiddenSize: Int) {
    let rate = 0.256 / Double(max(1, hiddenSize))
    learningRate = Double(String(format: "%.1e", rate)) ?? rate
  }

  /// Optimiser steps of one pass over the samples of the cached mode; the last may have fewer.
  package var stepsPerEpoch: Int { (samples + batchSize - 1) / batchSize }

  /// Optimiser steps of the whole stage.
  package var totalSteps: Int { mode == .streaming ? steps : epochs * stepsPerEpoch }

  /// Samples that the stage draws from its data.
  package var drawnSamples: Int { mode == .streaming ? steps * batchSize : samples }

  /// The loss that a site is trained with; of a pair it is L1 as in section 6 of the paper, unless
  /// overridden.
  package func loss(for site: GraftSite) -> RegressionLoss {
    if let own = overrides[site]?.loss { return own }
    switch site {
    case .slot(let id): return id.slot == .attention ? attentionLoss : mlpLoss
    case .pair: return .l1
    }
  }

  /// The settings of one site alone: the plan's with what differs there.
  package func settings(for site: GraftSite) -> Stage1Settings {
    var own = self
    own.overrides = [:]
    guard let override = overrides[site] else { return own }
    if let loss = override.loss { (own.attentionLoss, own.mlpLoss) = (loss, loss) }
    own.huberDelta = override.huberDelta ?? huberDelta
    own.learningRate = override.learningRate ?? learningRate
    own.minimumRate = override.minimumRate ?? minimumRate
    own.weightDecay = override.weightDecay ?? weightDecay
    own.clipNorm = override.clipNorm ?? clipNorm
    own.warmupSteps = override.warmupSteps ?? warmupSteps
    own.decay = override.decay ?? decay
    own.milestones = override.milestones ?? milestones
    own.gamma = override.gamma ?? gamma
    own.steps = override.steps ?? steps
    own.epochs = override.epochs ?? epochs
    own.keepsBest = override.keepsBest ?? keepsBest
    own.isGateScaled = override.isGateScaled ?? isGateScaled
    return own
  }

  /// What a slot's replacement starts from.
  package func initialization(of id: SlotID) -> Initialization {
    overrides[.slot(id)]?.initialization ?? .own
  }
}
