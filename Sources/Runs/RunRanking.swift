import Plans

/// What the losses of a training measure: only losses with an equal basis are compared.
///
/// The loss of stage 1 is a mean over the sites of the plan, each with its own regression loss; that
/// of stage 2 is the diffusion loss of the whole model or, if that has no weight, its difference from the
/// teacher. All depend on the model and on the data.
package struct LossBasis: Equatable, Sendable {
  /// Digest of the model's weights.
  package let modelHash: String
  /// Kind of the training.
  package let kind: Job.Kind
  /// Sites of stage 1 with their losses; empty for stage 2.
  private let sites: [GraftSite: String]
  /// What the held-out loss of stage 2 is; empty for stage 1.
  private let wholeLoss: String
  /// Data; nil for the procedural images.
  private let data: DataSettings?

  /// Makes the basis of a training; nil for a job of another kind.
  package init?(_ plan: GraftPlan, _ kind: Job.Kind?) {
    guard let kind, kind.isTraining else { return nil }
    (modelHash, self.kind, data) = (plan.model.contentHash, kind, plan.data)
    sites =
      kind == .distill
      ? Dictionary(uniqueKeysWithValues: plan.sites.map { ($0, plan.stage1.lossText(at: $0)) })
      : [:]
    wholeLoss = kind == .finetune ? plan.stage2.heldOutText : ""
  }

  /// Why losses with another basis do not compare; nil if they do.
  package func reason(against other: LossBasis) -> String? {
    if modelHash != other.modelHash { return "the losses of different models do not compare" }
    if kind != other.kind { return "the losses of different stages do not compare" }
    if Set(sites.keys) != Set(other.sites.keys) {
      return "the plans distil different sites, whose losses do not compare"
    }
    if sites != other.sites {
      return "the plans distil with different regression losses, which do not compare"
    }
    if wholeLoss != other.wholeLoss {
      return "the held-out losses of the plans' stage 2 are different ones, which do not compare"
    }
    return data == other.data ? nil : "the losses on different data do not compare"
  }
}

extension Settings where Schema == Stage1Schema {
  /// The regression loss of a site with the settings that it depends on.
  fileprivate func lossText(at site: GraftSite) -> String {
    let (own, loss) = (settings(for: site), loss(for: site))
    let delta = loss == .huber ? " \(own.huberDelta)" : ""
    return loss.rawValue + delta + (own.isGateScaled ? " gated" : "")
  }
}

extension Settings where Schema == Stage2Schema {
  /// The held-out loss with the settings that it depends on.
  fileprivate var heldOutText: String {
    self.diffusionWeight > 0
      ? "diffusion" : "teacher \(self.varianceWeight)" + (self.distillsNull ? " null" : "")
  }
}

/// Fréchet distance of a model with the settings of the judged images.
package struct JudgedDistance: Equatable, Sendable {
  let value: Double
  let settings: String

  /// Makes a distance; those with equal settings compare.
  package init(_ value: Double, settings: String) {
    (self.value, self.settings) = (value, settings)
  }
}

/// What ranks a trained graft, or a teacher.
package struct RankedModel: Equatable, Sendable {
  /// Digest of the model's weights; grafts of different models are not ranked.
  private let modelHash: String
  /// Last held-out loss, and what it measures.
  private let heldOut: Double?
  package let basis: LossBasis?
  private let distance: JudgedDistance?
  private let forwardRatio: Double?
  private let flops: Double

  /// Makes what ranks a model.
  ///
  /// - Parameters:
  ///   - modelHash: Digest of the pretrained model's weights.
  ///   - basis: What the held-out loss measures; nil for a teacher.
  ///   - heldOut: Last held-out loss.
  ///   - distance: Fréchet distance.
  ///   - forwardRatio: Forward pass time relative to the teacher.
  ///   - flops: FLOPs of a forward pass.
  package init(
    modelHash: String, basis: LossBasis? = nil, heldOut: Double? = nil,
    distance: JudgedDistance? = nil, forwardRatio: Double? = nil, flops: Double
  ) {
    (self.modelHash, self.basis, self.heldOut) = (modelHash, basis, heldOut)
    (self.distance, self.forwardRatio, self.flops) = (distance, forwardRatio, flops)
  }

  /// Whether another model dominates this one: at least as good in quality and cost, better in one.
  ///
  /// Quality is the Fréchet distance if both have one with equal settings, otherwise the held-out loss
  /// if both have an equal basis. Cost is the measured time relative to the teacher if both have one,
  /// otherwise the FLOPs. Models without a common metric do not dominate each other.
  package func isDominated(by other: RankedModel) -> Bool {
    guard modelHash == other.modelHash else { return false }
    let quality: (Double, Double)
    if let own = distance, let others = other.distance, own.settings == others.settings {
      quality = (own.value, others.value)
    } else if let own = heldOut, let others = other.heldOut, basis != nil, basis == other.basis {
      quality = (own, others)
    } else {
      return false
    }
    let cost: (Double, Double)
    if let own = forwardRatio, let others = other.forwardRatio {
      cost = (own, others)
    } else {
      cost = (flops, other.flops)
    }
    guard quality.1 <= quality.0 || quality.0.isNaN, cost.1 <= cost.0 else { return false }
    return quality.1 < quality.0 || quality.0.isNaN && !quality.1.isNaN || cost.1 < cost.0
  }

  /// Whether a quality metric is known.
  package var hasQuality: Bool {
    [distance?.value, heldOut].contains { $0.map { !$0.isNaN } ?? false }
  }
}

extension [RankedModel] {
  /// Whether each is on the Pareto front: it has a quality, and no other dominates it.
  package var isOnParetoFront: [Bool] {
    map { model in model.hasQuality && !contains { model.isDominated(by: $0) } }
  }
}

extension [LossBasis] {
  /// Why the losses of all do not compare; nil if they do.
  package var reasonAgainstComparing: String? {
    guard let first else { return nil }
    return dropFirst().lazy.compactMap { first.reason(against: $0) }.first
  }
}
