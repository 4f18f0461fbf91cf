import Files
import Foundation

extension GraftPlan {
  /// A plan is a few kilobytes; a file beyond this is something else.
  private static let sizeLimit = 4 << 20

  /// Reads a plan file and checks it completely; data are looked for from the file's folder on.
  ///
  /// - Throws: `PlanError` with file, line and key for an unknown version, key or operator, a wrong
  ///   block number or type, or an impossible setting; also when the file cannot be read.
  package static func load(path: String) throws(PlanError) -> GraftPlan {
    let bytes: [UInt8]
    do throws(FileError) {
      bytes = try AtomicFile.read(path, limit: sizeLimit)
    } catch {
      throw PlanError(key: nil, error.message)
    }
    var plan = try read(PlanReader(file: path, text: bytes))
    plan.data = plan.data?.resolved(in: AtomicFile.directory(of: path))
    return plan
  }

  /// Reads a plan from its text; `file` is its name in error messages.
  ///
  /// - Throws: `PlanError` as `load` does.
  package static func parse(_ text: String, file: String) throws(PlanError) -> GraftPlan {
    try read(PlanReader(file: file, text: Array(text.utf8)))
  }

  /// Checks the version before anything else: another version may differ in every other key.
  private static func read(_ initial: PlanReader) throws(PlanError) -> GraftPlan {
    var reader = initial
    let root = try reader.root()
    let any = try reader.section(root, key: "", known: nil)
    guard any.members["espalier_plan"] != nil else {
      throw reader.error(
        at: root.position, key: "espalier_plan",
        "the key is missing, so this is no plan; name a plan file")
    }
    let version: Int = try reader.integer("espalier_plan", in: any)
    guard version == formatVersion else {
      throw reader.located(
        PlanError(
          key: "espalier_plan",
          "expected version \(formatVersion), found \(version); use a matching version of espalier")
      )
    }
    let known = [
      "espalier_plan", "name", "model", "blocks", "parallel", "data", "stage1", "stage2", "seed",
    ]
    let top = try reader.section(root, key: "", known: known)
    var plan = GraftPlan(named: try reader.text("name", in: top), model: try reader.model(in: top))
    do throws(PlanError) {
      try plan.model.validate()
    } catch {
      throw reader.located(error)
    }
    plan.edits = try reader.edits(in: top, depth: plan.model.shape.depth)
    plan.parallel = try reader.parallel(in: top, depth: plan.model.shape.depth)
    plan.data = try reader.data(in: top)
    plan.stage1 = try reader.stage1(in: top, defaults: plan.stage1)
    plan.stage2 = try reader.stage2(in: top)
    plan.seed = try reader.integer("seed", in: top)
    do throws(PlanError) {
      try plan.validate()
    } catch {
      throw reader.located(error)
    }
    return plan
  }
}

extension PlanReader {
  fileprivate mutating func model(in top: PlanSection) throws(PlanError) -> ModelReference {
    let section = try section(
      required("model", in: top), key: "model",
      known: [
        "path", "family", "depth", "hidden_size", "num_heads", "patch_size", "input_size",
        "in_channels", "num_classes", "learn_sigma", "mlp_ratio", "has_null_class",
        "frequency_shift", "mlp_norm_epsilon", "content_hash",
      ])
    // Only class-conditional models can be grafted.
    let family = try text("family", in: section)
    guard family == ModelShape.Family.dit.rawValue else {
      throw located(
        PlanError(
          key: "model.family",
          "unknown family \(family.prefix(60).debugDescription), expected \"dit\"; correct it"))
    }
    var shape = ModelShape(
      depth: try integer("depth", in: section),
      hiddenSize: try integer("hidden_size", in: section),
      numHeads: try integer("num_heads", in: section),
      patchSize: try integer("patch_size", in: section),
      inputSize: try integer("input_size", in: section),
      inChannels: try integer("in_channels", in: section),
      numClasses: try integer("num_classes", in: section),
      learnSigma: try boolean("learn_sigma", in: section),
      mlpRatio: try number("mlp_ratio", in: section))
    if section.members["has_null_class"] != nil {
      shape.hasNullClass = try boolean("has_null_class", in: section)
    }
    if section.members["frequency_shift"] != nil {
      shape.frequencyShift = try integer("frequency_shift", in: section)
    }
    if section.members["mlp_norm_epsilon"] != nil {
      shape.mlpNormEpsilon = try number("mlp_norm_epsilon", in: section)
    }
    return ModelReference(
      path: try text("path", in: section), shape: shape,
      contentHash: try text("content_hash", in: section))
  }

  fileprivate mutating func edits(
    in top: PlanSection, depth: Int
  ) throws(PlanError) -> [SlotID: OperatorSpec] {
    let node = try required("blocks", in: top)
    guard case .list(let elements) = node.value else {
      throw wrongType(node, "blocks", "a list of blocks")
    }
    var edits: [SlotID: OperatorSpec] = [:]
    for (index, element) in elements.enumerated() {
      let key = "blocks[\(index)]"
      let entry = try section(element, key: key, known: ["block", "attention", "mlp"])
      let block: Int = try integer("block", in: entry)
      guard (0..<depth).contains(block) else {
        throw error(
          at: try required("block", in: entry).position, key: "\(key).block",
          "the model has blocks 0 to \(depth - 1), found \(block); correct the number")
      }
      guard entry.members.count > 1 else {
        throw error(
          at: element.position, key: key,
          "block \(block) has neither \"attention\" nor \"mlp\"; add one or remove the entry")
      }
      for slot in Slot.allCases {
        guard let member = entry.members[slot.rawValue] else { continue }
        let id = SlotID(block: block, slot: slot)
        guard edits.updateValue(try spec(member, id), forKey: id) == nil else {
          throw error(
            at: member.position, key: "\(id)", "the slot is listed twice; remove one of the entries"
          )
        }
      }
    }
    return edits
  }

  /// The pairs of parallel blocks; a plan without the key has none.
  fileprivate mutating func parallel(
    in top: PlanSection, depth: Int
  ) throws(PlanError) -> [BlockPair: ParallelMerge] {
    guard let node = top.members["parallel"] else { return [:] }
    guard case .list(let elements) = node.value else {
      throw wrongType(node, "parallel", "a list of pairs of blocks")
    }
    var pairs: [BlockPair: ParallelMerge] = [:]
    for (index, element) in elements.enumerated() {
      let entry = try section(element, key: "parallel[\(index)]", known: ["blocks", "merge"])
      let pair = try pair(in: entry, depth: depth)
      if let other = pairs.keys.first(where: { !Set($0.blocks).isDisjoint(with: pair.blocks) }) {
        throw error(
          at: element.position, key: entry.path("blocks"),
          "the pair \(pair) shares a block with the pair \(other); remove one of the entries")
      }
      let merge = try required("merge", in: entry)
      guard let kind = ParallelMerge(rawValue: try text("merge", in: entry)) else {
        throw wrongType(merge, entry.path("merge"), "one of \(ParallelMerge.names)")
      }
      pairs[pair] = kind
    }
    return pairs
  }

  private func pair(in entry: PlanSection, depth: Int) throws(PlanError) -> BlockPair {
    let node = try required("blocks", in: entry)
    let numbers = try numbers("blocks", in: entry, or: [])
    func fault(_ expected: String) -> PlanError {
      error(
        at: node.position, key: entry.path("blocks"),
        "\(expected), found [\(numbers.map(numberText).joined(separator: ", "))];"
          + " correct the numbers")
    }
    guard numbers.count == 2, numbers[1] == numbers[0] + 1, let first = Int(exactly: numbers[0])
    else { throw fault("expected a block and the next one, such as [2, 3]") }
    guard first >= 0, first + 1 < depth else {
      throw fault("the model has blocks 0 to \(depth - 1)")
    }
    return BlockPair(first: first)
  }

  private mutating func spec(_ node: JSONNode, _ id: SlotID) throws(PlanError) -> OperatorSpec {
    let entry = try section(node, key: "\(id)", known: ["operator", "config"])
    var spec = OperatorSpec(try text("operator", in: entry))
    if let settings = entry.members["config"] {
      let config = try section(settings, key: entry.path("config"), known: nil)
      for (name, value) in config.members {
        spec.config[name] = try number(value, key: config.path(name))
      }
    }
    return spec
  }

  fileprivate mutating func data(in top: PlanSection) throws(PlanError) -> DataSettings? {
    guard let node = top.members["data"] else { return nil }
    let section = try section(node, key: "data", known: ["path", "held_out", "flip"])
    var settings = DataSettings(path: try text("path", in: section))
    if section.members["held_out"] != nil { settings.heldOut = try text("held_out", in: section) }
    settings.flip = try boolean("flip", in: section, or: settings.flip)
    return settings
  }

  fileprivate mutating func stage1(
    in top: PlanSection, defaults: Stage1Settings
  ) throws(PlanError) -> Stage1Settings {
    var settings = defaults
    guard let node = top.members["stage1"] else { return settings }
    let section = try section(node, key: "stage1", known: Stage1Settings.keys + ["loss_overrides"])
    settings.mode = try choice("mode", in: section, or: settings.mode)
    settings.steps = try integer("steps", in: section, or: settings.steps)
    settings.samples = try integer("samples", in: section, or: settings.samples)
    settings.epochs = try integer("epochs", in: section, or: settings.epochs)
    settings.cacheGB = try number("cache_gb", in: section, or: settings.cacheGB)
    settings.batchSize = try integer("batch_size", in: section, or: settings.batchSize)
    settings.learningRate = try number("learning_rate", in: section, or: settings.learningRate)
    settings.minimumRate = try number("min_learning_rate", in: section, or: settings.minimumRate)
    settings.weightDecay = try number("weight_decay", in: section, or: settings.weightDecay)
    settings.clipNorm = try number("clip_norm", in: section, or: settings.clipNorm)
    settings.warmupSteps = try integer("warmup_steps", in: section, or: settings.warmupSteps)
    settings.decay = try choice("schedule", in: section, or: settings.decay)
    settings.milestones = try numbers("milestones", in: section, or: settings.milestones)
    settings.gamma = try number("gamma", in: section, or: settings.gamma)
    settings.heldOutEvery = try integer("held_out_every", in: section, or: settings.heldOutEvery)
    settings.heldOutSamples = try integer(
      "held_out_samples", in: section, or: settings.heldOutSamples)
    settings.keepsBest = try boolean("keep_best", in: section, or: settings.keepsBest)
    settings.checkpoints = try checkpoints(in: section, or: settings.checkpoints)
    settings.attentionLoss = try choice("attention_loss", in: section, or: settings.attentionLoss)
    settings.mlpLoss = try choice("mlp_loss", in: section, or: settings.mlpLoss)
    settings.huberDelta = try number("huber_delta", in: section, or: settings.huberDelta)
    settings.isGateScaled = try boolean("gate_scaled", in: section, or: settings.isGateScaled)
    // Plans of before had losses alone.
    for (site, _, list) in try sites("loss_overrides", in: section) {
      settings.overrides[site, default: SiteOverride()].loss = try choice(
        site.description, in: list)
    }
    for (site, node, list) in try sites("overrides", in: section) {
      settings.overrides[site] = try siteOverride(node, key: list.path(site.description))
    }
    return settings
  }

  /// When checkpoints are written; `fallback` stands for absent keys.
  private func checkpoints(
    in section: PlanSection, or fallback: CheckpointPolicy
  ) throws(PlanError) -> CheckpointPolicy {
    CheckpointPolicy(
      every: try integer("checkpoint_every", in: section, or: fallback.every),
      minutes: try number("checkpoint_minutes", in: section, or: fallback.minutes),
      keepLast: try integer("keep_last", in: section, or: fallback.keepLast))
  }

  /// The members of a section that are named by slots and pairs.
  private mutating func sites(
    _ name: String, in section: PlanSection
  ) throws(PlanError) -> [(GraftSite, JSONNode, PlanSection)] {
    guard let node = section.members[name] else { return [] }
    let list = try self.section(node, key: section.path(name), known: nil)
    var sites: [(GraftSite, JSONNode, PlanSection)] = []
    for (name, node) in list.members {
      guard let site = GraftSite(name) else {
        throw error(
          at: node.position, key: list.path(name),
          "expected a slot such as 7.attention or a pair of blocks such as 2+3, found"
            + " \(name.debugDescription); correct it")
      }
      sites.append((site, node, list))
    }
    return sites
  }

  private mutating func siteOverride(
    _ node: JSONNode, key: String
  ) throws(PlanError) -> SiteOverride {
    let section = try section(node, key: key, known: SiteOverride.keys)
    func has(_ name: String) -> Bool { section.members[name] != nil }
    var own = SiteOverride()
    if has("loss") { own.loss = try choice("loss", in: section) }
    if has("huber_delta") { own.huberDelta = try number("huber_delta", in: section) }
    if has("learning_rate") { own.learningRate = try number("learning_rate", in: section) }
    if has("min_learning_rate") { own.minimumRate = try number("min_learning_rate", in: section) }
    if has("weight_decay") { own.weightDecay = try number("weight_decay", in: section) }
    if has("clip_norm") { own.clipNorm = try number("clip_norm", in: section) }
    if has("warmup_steps") { own.warmupSteps = try integer("warmup_steps", in: section) }
    if has("schedule") { own.decay = try choice("schedule", in: section) }
    if has("milestones") { own.milestones = try numbers("milestones", in: section, or: []) }
    if has("gamma") { own.gamma = try number("gamma", in: section) }
    if has("steps") { own.steps = try integer("steps", in: section) }
    if has("epochs") { own.epochs = try integer("epochs", in: section) }
    if has("keep_best") { own.keepsBest = try boolean("keep_best", in: section) }
    if has("gate_scaled") { own.isGateScaled = try boolean("gate_scaled", in: section) }
    if has("init") { own.initialization = try choice("init", in: section) }
    return own
  }

  fileprivate mutating func stage2(in top: PlanSection) throws(PlanError) -> Stage2Settings {
    var settings = Stage2Settings()
    guard let node = top.members["stage2"] else { return settings }
    let section = try section(node, key: "stage2", known: Stage2Settings.keys)
    settings.steps = try integer("steps", in: section, or: settings.steps)
    settings.batchSize = try integer("batch_size", in: section, or: settings.batchSize)
    settings.learningRate = try number("learning_rate", in: section, or: settings.learningRate)
    settings.warmupSteps = try integer("warmup_steps", in: section, or: settings.warmupSteps)
    settings.clipNorm = try number("clip_norm", in: section, or: settings.clipNorm)
    settings.emaDecay = try number("ema_decay", in: section, or: settings.emaDecay)
    settings.labelDropout = try number("label_dropout", in: section, or: settings.labelDropout)
    settings.microBatch = try integer("micro_batch", in: section, or: settings.microBatch)
    settings.weightDecay = try number("weight_decay", in: section, or: settings.weightDecay)
    settings.milestones = try numbers("milestones", in: section, or: settings.milestones)
    settings.gamma = try number("gamma", in: section, or: settings.gamma)
    settings.emaWarmup = try boolean("ema_warmup", in: section, or: settings.emaWarmup)
    settings.heldOutEvery = try integer("held_out_every", in: section, or: settings.heldOutEvery)
    settings.heldOutSamples = try integer(
      "held_out_samples", in: section, or: settings.heldOutSamples)
    settings.keepsBest = try boolean("keep_best", in: section, or: settings.keepsBest)
    settings.checkpoints = try checkpoints(in: section, or: settings.checkpoints)
    settings.distillationWeight = try number(
      "distillation_weight", in: section, or: settings.distillationWeight)
    settings.trained = try choice("trained", in: section, or: settings.trained)
    settings.lastBlocks = try integer("last_n_blocks", in: section, or: settings.lastBlocks)
    settings.loraRank = try integer("lora_rank", in: section, or: settings.loraRank)
    settings.loraAlpha = try number("lora_alpha", in: section, or: settings.loraAlpha)
    settings.loraTargets = try choices("lora_targets", in: section, or: settings.loraTargets)
    settings.recompute = try boolean("recompute", in: section, or: settings.recompute)
    return settings
  }
}
