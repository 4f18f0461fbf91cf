import Foundation

/// Regression loss between the output of a distilled operator and that of the original, averaged
/// over elements.
package enum RegressionLoss: String, SettingChoice {
  /// Mean absolute error.
  case l1
  /// Mean squared error.
  case l2
  /// Huber loss with `huberDelta`.
  case huber
}

/// Decay of the learning rate after the warm-up.
package enum RateDecay: String, SettingChoice {
  /// Multiplied by `gamma` at every milestone.
  case multiStep = "multi_step"
  /// Geometric decay from the rate to the minimum rate at the last step.
  case exponential
  /// Multiplied by `gamma` on a plateau of the held-out loss, as `ReduceLROnPlateau`.
  case plateau
}

/// Source of the activations of stage 1.
package enum Stage1Mode: String, SettingChoice {
  /// New samples every step; one teacher pass serves all replacements.
  case streaming
  /// Activations of fixed samples, recorded once and used for many epochs, as in the paper.
  case cached
}

/// Initialisation of a replacement operator.
package enum Initialization: String, SettingChoice {
  /// Freshly drawn weights, as in the paper.
  case own
  /// Weights of the original operator, where they apply.
  case transferred
  /// Freshly drawn weights, the output layer fitted in closed form.
  case ridge
  /// Weights of the original operator, the output layer fitted in closed form.
  case transferredRidge = "transferred_ridge"

  /// Whether weights of the original operator are copied.
  package var isTransferred: Bool { self == .transferred || self == .transferredRidge }
  /// Whether the output layer is fitted in closed form.
  package var isFitted: Bool { self == .ridge || self == .transferredRidge }
}

/// Settings table of stage 1, activation distillation.
///
/// Losses, clipping and schedule follow the paper (arXiv 2506.05340, section 3) and the released
/// trainer; defaults of steps and batch suit a CPU, where many small steps are more effective in
/// the same time.
package struct Stage1Schema: TrainingSchema {
  package static let table = SettingsTable(Stage1Schema())

  package let mode = Setting(
    "mode", Stage1Mode.streaming,
    "`streaming` draws new samples every step; `cached` records the activations of `samples` samples"
      + " once and trains on them for `epochs` epochs, as the paper does")
  package let steps = Setting(
    "steps", 1600, in: 1...1e7, "optimizer steps of the streaming mode", .site, .form)
  package let samples = Setting(
    "samples", 8000, in: 1...1e7, "samples of the cached mode")
  package let epochs = Setting(
    "epochs", 200, in: 1...1e6, "passes over the recorded samples", .site, .form)
  package let cacheGB = Setting(
    "cache_gb", 20.0, in: 1e-3...1e6,
    "10^9 bytes of disk that the recorded activations of all runs may take")
  package let batchSize = Setting(
    "batch_size", 8, in: 1...65536, "samples in each step", .form)
  package let learningRate = Setting(
    "learning_rate", 2.2e-4, in: 1e-12...1,
    "AdamW's highest rate, after warm-up; by default 0.256 / hidden size", .site, .resume, .form)
  package let minimumRate = Setting(
    "min_learning_rate", 1e-6, in: 1e-15...1, "where the schedules `exponential` and `plateau` end",
    .site, .resume)
  package let weightDecay = Setting(
    "weight_decay", 0.0, in: 0...1, "AdamW's decoupled weight decay", .site)
  package let clipNorm = Setting(
    "clip_norm", 10.0, in: 1e-9...1e9,
    "global gradient norm of an operator above which its gradients are scaled down", .site)
  package let warmupSteps = Setting(
    "warmup_steps", 50, in: 0...1e7, "steps over which the rate rises linearly from 0", .site)
  package let decay = Setting(
    "schedule", RateDecay.multiStep,
    "how the rate falls: by `gamma` at `milestones`, evenly to `min_learning_rate`, or by `gamma`"
      + " when the held-out loss has stopped falling", .site)
  package let milestones = Setting(
    "milestones", [0.25, 0.5, 0.75], in: 0...1,
    "fractions of all steps at which the rate is multiplied by `gamma`", .site,
    refusing: refusalOfMilestones)
  package let gamma = Setting(
    "gamma", 0.5, in: 1e-6...1, "factor of the rate at each milestone or plateau", .site)
  package let heldOutEvery = TrainingRows.heldOutEvery
  package let heldOutSamples = TrainingRows.heldOutSamples
  package let keepsBest = Setting(
    "keep_best", false, "whether an operator ends as it was when its held-out loss was lowest",
    .site)
  package let checkpointEvery = TrainingRows.checkpointEvery
  package let checkpointMinutes = TrainingRows.checkpointMinutes
  package let keepLast = TrainingRows.keepLast
  package let loss = Setting(
    "loss", RegressionLoss.l1, "in place of `attention_loss` or `mlp_loss`", .siteOnly)
  package let attentionLoss = Setting(
    "attention_loss", RegressionLoss.l1, "loss of operators in attention slots")
  package let mlpLoss = Setting(
    "mlp_loss", RegressionLoss.l2, "loss of operators in MLP slots")
  package let huberDelta = Setting(
    "huber_delta", 1.0, in: 1e-9...1e9, "difference at which the Huber loss turns linear", .site)
  package let isGateScaled = Setting(
    "gate_scaled", false, "whether losses of slots compare outputs multiplied by the adaLN gate",
    .site)
  package let labelDropout = Setting(
    "label_dropout", 0.1, in: 0...1,
    "fraction of labels replaced by the null class, which guided sampling needs; the paper's is 0")
  package let initialization = Setting(
    "init", Initialization.own,
    "what an operator starts from: its own fresh weights or weights of what it replaces; with `ridge`"
      + " its output layer is then fitted to the teacher in closed form, and so is a pair's projection",
    .siteOnly)
  package let ridgeFinish = Setting(
    "ridge_finish", false,
    "whether output layers are fitted in closed form once more at the end; a site keeps its trained"
      + " layer if that does not lower its held-out loss", .site)
  package let sweeps = Setting(
    "sweep", false,
    "whether output layers are fitted once more from front to back on the graft's own activations, so that"
      + " each makes up for what those before it leave; undone if the graft's output does not come closer",
    .site)
  package let ridgeSamples = Setting(
    "ridge_samples", 48, in: 1...1e6, "samples of the fits in closed form")
  package let ridgeLambda = Setting(
    "ridge_lambda", 1e-4, in: 1e-12...1e3,
    "what the fits add to the diagonal of the features' Gram matrix, relative to its mean", .site)
  package let overrides = Setting(
    "overrides", [GraftSite: SiteOverride](),
    "what differs at single slots and pairs, such as {\"7.mlp\": {\"loss\": \"l1\"}}")

  /// Checks that the final rate of a schedule does not exceed its initial rate.
  package static func check(
    _ settings: Settings<Stage1Schema>, at key: String
  ) throws(PlanError) {
    guard settings.decay == .multiStep || settings.minimumRate <= settings.learningRate else {
      throw PlanError(
        key: "\(key).min_learning_rate",
        "expected at most the learning rate \(numberText(settings.learningRate)), found"
          + " \(numberText(settings.minimumRate)); lower it")
    }
  }

  package static func missing(
    for row: any SettingRow, beside settings: Settings<Stage1Schema>
  ) -> String? {
    let (rows, decay) = (table.schema, settings.decay)
    return switch row.key {
    case rows.steps.key where settings.mode == .cached: "mode streaming"
    case rows.epochs.key, rows.samples.key, rows.cacheGB.key:
      settings.mode == .streaming ? "mode cached" : nil
    case rows.milestones.key where decay != .multiStep: "schedule multi_step"
    case rows.gamma.key where decay == .exponential: "schedule multi_step or plateau"
    case rows.minimumRate.key where decay == .multiStep: "schedule exponential or plateau"
    case rows.huberDelta.key where settings.attentionLoss != .huber && settings.mlpLoss != .huber:
      "loss huber"
    default: nil
    }
  }
}

/// Settings of stage 1, activation distillation.
package typealias Stage1Settings = Settings<Stage1Schema>

extension Settings where Schema == Stage1Schema {
  /// Makes defaults for a hidden size; the rate is inversely proportional to it, from 4e-3 for the
  /// shipped model (64) to 2.2e-4 for DiT-XL (1152; 1e-4 in the paper, 5e-4 to 1e-3 in the released
  /// configurations).
  package init(hiddenSize: Int) {
    self.init()
    let rate = 0.256 / Double(max(1, hiddenSize))
    self.learningRate = Double(String(format: "%.1e", rate)) ?? rate
  }

  /// Optimizer steps per epoch of the cached mode; the last batch may be smaller.
  package var stepsPerEpoch: Int { (self.samples + self.batchSize - 1) / self.batchSize }

  /// Total number of optimizer steps.
  package var totalSteps: Int { self.mode == .streaming ? self.steps : self.epochs * stepsPerEpoch }

  /// Number of samples that the stage draws.
  package var drawnSamples: Int {
    self.mode == .streaming ? self.steps * self.batchSize : self.samples
  }

  /// Loss of a site; for a pair L1 as in section 6 of the paper, unless overridden.
  package func loss(for site: GraftSite) -> RegressionLoss {
    if let own = self.overrides[site]?.loss { return own }
    switch site {
    case .slot(let id): return id.slot == .attention ? self.attentionLoss : self.mlpLoss
    case .pair: return .l1
    }
  }

  /// Settings of one site: those of the plan with its overrides.
  package func settings(for site: GraftSite) -> Stage1Settings {
    var own = self
    own.overrides = [:]
    guard let override = self.overrides[site] else { return own }
    own.values.merge(override.values, rows: Schema.table.rows)
    if let loss = override.loss { (own.attentionLoss, own.mlpLoss) = (loss, loss) }
    return own
  }

  /// Initialisation of the replacement in a slot, or of the merge of a pair.
  package func initialization(of site: GraftSite) -> Initialization {
    self.overrides[site]?.initialization ?? .own
  }
}

extension GraftPlan {
  /// The plan with a fit in closed form as the initialisation of all that can be fitted: operators whose
  /// own setting is no fit start from transferred weights where they have a place for them.
  package func fitted() -> GraftPlan {
    var plan = self
    func start(_ site: GraftSite, _ initialization: Initialization) {
      guard !stage1.initialization(of: site).isFitted else { return }
      plan.stage1.overrides[site, default: SiteOverride()].initialization = initialization
    }
    for (id, spec) in edits {
      guard let descriptor = OperatorCatalog.descriptor(named: spec.name),
        descriptor.hasOutputLayer(spec)
      else { continue }
      let isTransferred =
        descriptor.isTransferable && descriptor.transferRefusal(spec, model.shape) == nil
      start(.slot(id), isTransferred ? .transferredRidge : .ridge)
    }
    for (pair, merge) in parallel where merge == .projection { start(.pair(pair), .ridge) }
    return plan
  }
}

/// Overrides of stage 1 settings at one slot or pair.
@dynamicMemberLookup
package struct SiteOverride: Equatable, Sendable {
  var values = SettingValues()

  /// Makes empty overrides.
  package init() {}

  /// The override of a setting as JSON; nil if there is none.
  package func json(of key: String) -> String? { values[key]?.json }

  package subscript<Value>(dynamicMember path: KeyPath<Stage1Schema, Setting<Value>>) -> Value? {
    get { values[Stage1Schema.table.schema[keyPath: path].key] as? Value }
    set { values[Stage1Schema.table.schema[keyPath: path].key] = newValue }
  }
}

extension SiteOverride: SettingValue {
  package static var kind: String { "an object" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> SiteOverride {
    var own = SiteOverride()
    try own.values.read(node, rows: Stage1Schema.table.siteRows, at: key, by: &reader)
    return own
  }

  package var json: String { values.json(rows: Stage1Schema.table.siteRows) }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    try values.check(rows: Stage1Schema.table.siteRows, at: key)
  }
}

extension [GraftSite: SiteOverride]: SettingValue {
  package static var kind: String { "an object" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Self {
    let section = try reader.section(node, key: key, known: nil)
    var overrides: Self = [:]
    for (name, node) in section.members {
      guard let site = GraftSite(name) else {
        throw reader.error(
          at: node.position, key: section.path(name),
          "expected a slot such as 7.attention or a pair of blocks such as 2+3, found"
            + " \(name.debugDescription); correct it")
      }
      overrides[site] = try SiteOverride.read(node, at: section.path(name), by: &reader)
    }
    return overrides
  }

  package var json: String {
    let members = sorted { $0.key < $1.key }.map { "\"\($0.key)\": \($0.value.json)" }
    return "{\(members.joined(separator: ", "))}"
  }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    for (site, own) in sorted(by: { $0.key < $1.key }) {
      try own.check(in: nil, at: "\(key).\(site)")
    }
  }
}
