extension GraftPlan {
  /// Checks the plan against its own model's shape.
  ///
  /// - Throws: `PlanError` that names the key, what was expected and what was found.
  package func validate() throws(PlanError) {
    try Self.checkText(name, key: "name")
    try Self.checkText(model.path, key: "model.path")
    try Self.checkText(model.contentHash, key: "model.content_hash")
    try model.validate()
    for (id, spec) in edits.sorted(by: { $0.key < $1.key }) {
      try checkBlocks(of: .slot(id), key: "\(id)")
      try Self.check(spec, at: id, shape: model.shape)
    }
    for pair in parallel.keys.sorted() {
      try checkBlocks(of: .pair(pair), key: "parallel")
      guard parallel[BlockPair(first: pair.second)] == nil else {
        throw PlanError(
          key: "parallel", "block \(pair.second) is in two pairs; remove one of them")
      }
    }
    if let data {
      try Self.checkText(data.path, key: "data.path")
      if let path = data.heldOut { try Self.checkText(path, key: "data.held_out") }
    }
    try stage1.validate()
    for (site, own) in stage1.overrides.sorted(by: { $0.key < $1.key }) {
      try check(own, at: site)
    }
    try stage2.validate(for: model.shape)
  }

  /// Checks that the plan was made for a model.
  ///
  /// - Throws: `PlanError` when shape or content differ; the path may.
  package func check(against actual: ModelReference) throws(PlanError) {
    let mine = Dictionary(uniqueKeysWithValues: model.shape.members.map { ($0.key, $0.value) })
    let theirs = Dictionary(uniqueKeysWithValues: actual.shape.members.map { ($0.key, $0.value) })
    for key in Set(mine.keys).union(theirs.keys).sorted() where mine[key] != theirs[key] {
      throw PlanError(
        key: "model.\(key)",
        "the plan was made for another model, it says \(mine[key] ?? "nothing") and \(actual.path)"
          + " has \(theirs[key] ?? "none"); open the plan with its own model or make a new one")
    }
    guard model.contentHash == actual.contentHash else {
      throw PlanError(
        key: "model.content_hash",
        "the plan was made for other weights, it says \(model.contentHash.prefix(12)) and"
          + " \(actual.path) has \(actual.contentHash.prefix(12));"
          + " open the plan with its own model or make a new one")
    }
  }

  private static func check(
    _ spec: OperatorSpec, at id: SlotID, shape: ModelShape
  ) throws(PlanError) {
    let fitting = OperatorCatalog.fitting(id.slot).map(\.name).joined(separator: ", ")
    guard let descriptor = OperatorCatalog.descriptor(named: spec.name) else {
      throw PlanError(
        key: "\(id).operator",
        "unknown operator \(spec.name.prefix(60).debugDescription), expected one of \(fitting);"
          + " correct the name")
    }
    guard descriptor.slots.contains(id.slot) else {
      let slots = descriptor.slots.map(\.rawValue).sorted().joined(separator: " or ")
      throw PlanError(
        key: "\(id).operator",
        "\(spec.name) fits the \(slots) slot, expected one of \(fitting) here;"
          + " move it or choose another")
    }
    if let (key, message) = descriptor.refusal(of: spec, shape: shape) {
      throw PlanError(key: "\(id).\(key)", message)
    }
  }

  private func check(_ own: SiteOverride, at site: GraftSite) throws(PlanError) {
    let key = "stage1.overrides.\(site)"
    try checkBlocks(of: site, key: key)
    try stage1.settings(for: site).validate(key: key)
    for (name, own, most) in [
      ("steps", own.steps, stage1.steps), ("epochs", own.epochs, stage1.epochs),
    ] {
      try requireRange("\(key).\(name)", Double(own ?? 1), in: 1...most)
    }
    switch site {
    case .pair:
      guard own.initialization == nil, own.isGateScaled == nil else {
        throw PlanError(
          key: "\(key).\(own.initialization == nil ? "gate_scaled" : "init")",
          "a pair starts from the model's own weights and has no gate behind it;"
            + " remove the setting")
      }
    case .slot(let id):
      guard own.initialization == .transferred, let spec = edits[id] else { return }
      guard OperatorCatalog.descriptor(named: spec.name)?.isTransferable == true else {
        throw PlanError(
          key: "\(key).init",
          "\(spec.name) has no place for weights of the original, expected \"own\"; change it or"
            + " choose another operator")
      }
    }
  }

  private func checkBlocks(of site: GraftSite, key: String) throws(PlanError) {
    let depth = model.shape.depth
    if let block = site.blocks.first(where: { !(0..<depth).contains($0) }) {
      throw PlanError(
        key: key, "the model has blocks 0 to \(depth - 1), found \(block); correct the number")
    }
  }

  private static func checkText(_ text: String, key: String) throws(PlanError) {
    let hasControl = text.unicodeScalars.contains { $0.properties.generalCategory == .control }
    guard !text.isEmpty, text.utf8.count <= 4096, !hasControl else {
      throw PlanError(
        key: key, "expected a text of 1 to 4096 bytes without control characters; correct it")
    }
  }
}

extension Stage1Settings {
  /// Checks the ranges of the settings.
  ///
  /// - Parameter key: Where they stand in the plan.
  /// - Throws: `PlanError` that names the key below it.
  package func validate(key: String = "stage1") throws(PlanError) {
    let counts: [(String, Int, ClosedRange<Int>)] = [
      ("steps", steps, 1...10_000_000), ("samples", samples, 1...10_000_000),
      ("epochs", epochs, 1...1_000_000), ("batch_size", batchSize, 1...65536),
      ("warmup_steps", warmupSteps, 0...10_000_000),
      ("held_out_every", heldOutEvery, 1...10_000_000),
      ("held_out_samples", heldOutSamples, 1...1_000_000),
    ]
    for (name, value, range) in counts {
      try requireRange("\(key).\(name)", Double(value), in: range)
    }
    let numbers: [(String, Double, ClosedRange<Double>)] = [
      ("cache_gb", cacheGB, 1e-3...1e6), ("learning_rate", learningRate, 1e-12...1),
      ("min_learning_rate", minimumRate, 1e-15...1), ("weight_decay", weightDecay, 0...1),
      ("clip_norm", clipNorm, 1e-9...1e9), ("gamma", gamma, 1e-6...1),
      ("huber_delta", huberDelta, 1e-9...1e9),
    ]
    for (name, value, range) in numbers { try requireRange("\(key).\(name)", value, in: range) }
    try requireFractions("\(key).milestones", milestones)
    try checkpoints.validate(key: key)
    guard decay == .multiStep || minimumRate <= learningRate else {
      throw PlanError(
        key: "\(key).min_learning_rate",
        "expected at most the learning rate \(numberText(learningRate)), found"
          + " \(numberText(minimumRate)); lower it")
    }
  }
}

extension Stage2Settings {
  /// Checks the ranges of the settings, and that they suit a model.
  ///
  /// - Throws: `PlanError` that names the key under `stage2`.
  package func validate(for shape: ModelShape) throws(PlanError) {
    try requireRange("stage2.steps", Double(steps), in: 1...10_000_000)
    try requireRange("stage2.batch_size", Double(batchSize), in: 1...65536)
    try requireRange("stage2.learning_rate", learningRate, in: 1e-12...1)
    try requireRange("stage2.warmup_steps", Double(warmupSteps), in: 0...10_000_000)
    try requireRange("stage2.clip_norm", clipNorm, in: 1e-9...1e9)
    try requireRange("stage2.ema_decay", emaDecay, in: 0...1)
    try requireRange("stage2.label_dropout", labelDropout, in: 0...1)
    try requireRange("stage2.micro_batch", Double(microBatch), in: 1...65536)
    try requireRange("stage2.weight_decay", weightDecay, in: 0...1)
    try requireFractions("stage2.milestones", milestones)
    try requireRange("stage2.gamma", gamma, in: 1e-6...1)
    try requireRange("stage2.held_out_every", Double(heldOutEvery), in: 1...10_000_000)
    try requireRange("stage2.held_out_samples", Double(heldOutSamples), in: 1...1_000_000)
    try checkpoints.validate(key: "stage2")
    try requireRange("stage2.distillation_weight", distillationWeight, in: 0...1e6)
    let blocks = trained == .lastBlocks ? shape.depth : 1024
    try requireRange("stage2.last_n_blocks", Double(lastBlocks), in: 1...Double(blocks))
    let rank = trained == .lora ? shape.hiddenSize : 65536
    try requireRange("stage2.lora_rank", Double(loraRank), in: 1...Double(rank))
    try requireRange("stage2.lora_alpha", loraAlpha, in: 1e-6...1e6)
    guard !loraTargets.isEmpty, Set(loraTargets).count == loraTargets.count else {
      throw PlanError(
        key: "stage2.lora_targets",
        "expected at least one layer and none twice, found"
          + " \(loraTargets.map(\.rawValue)); correct the list")
    }
  }
}

extension CheckpointPolicy {
  /// Checks the ranges of the settings of a stage.
  fileprivate func validate(key: String) throws(PlanError) {
    try requireRange("\(key).checkpoint_every", Double(every), in: 1...10_000_000)
    try requireRange("\(key).checkpoint_minutes", minutes, in: 0...1e6)
    try requireRange("\(key).keep_last", Double(keepLast), in: 1...1000)
  }
}

/// Refuses a value outside a range.
private func requireRange(
  _ key: String, _ value: Double, in range: ClosedRange<Double>
) throws(PlanError) {
  guard range.contains(value) else {
    throw PlanError(
      key: key,
      "expected \(numberText(range.lowerBound)) to \(numberText(range.upperBound)),"
        + " found \(numberText(value)); choose a value in that range")
  }
}

/// Refuses what are no ascending fractions of a run.
private func requireFractions(_ key: String, _ values: [Double]) throws(PlanError) {
  for value in values { try requireRange(key, value, in: 0...1) }
  guard values == values.sorted() else {
    throw PlanError(key: key, "expected ascending fractions, found \(values); sort them")
  }
}

/// Refuses a count outside a range.
private func requireRange(
  _ key: String, _ value: Double, in range: ClosedRange<Int>
) throws(PlanError) {
  try requireRange(key, value, in: Double(range.lowerBound)...Double(range.upperBound))
}
