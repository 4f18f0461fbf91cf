import Files
import Foundation

extension GraftPlan {
  /// The plan file: JSON with a fixed order of keys and one line for each edited slot.
  ///
  /// - Throws: `PlanError` when the plan is not valid; an invalid plan is never written.
  package func json() throws(PlanError) -> Data {
    try validate()
    let modelMembers =
      [("path", model.path.jsonQuoted)] + model.shape.members.map { ($0.key, $0.value) }
      + [("content_hash", model.contentHash.jsonQuoted)]
    var members: [(String, String)] = [
      ("espalier_plan", "\(Self.formatVersion)"), ("name", name.jsonQuoted),
      ("model", Self.object(modelMembers)), ("blocks", blockList()),
    ]
    // A plan without pairs or data has the text that it had before there were any.
    if !parallel.isEmpty { members.append(("parallel", pairList())) }
    if let data { members.append(("data", data.text)) }
    members += [
      ("stage1", Self.object(stage1.members)), ("stage2", Self.object(stage2.members)),
      ("seed", "\(seed)"),
    ]
    let lines = members.map { "  \($0.0.jsonQuoted): \($0.1)" }
    return Data("{\n\(lines.joined(separator: ",\n"))\n}\n".utf8)
  }

  /// Writes the plan file, in one piece or not at all.
  ///
  /// - Throws: `PlanError` when the plan is not valid, `FileError` when it cannot be written.
  package func save(to path: String) throws {
    try AtomicFile.write(json(), to: path)
  }

  private func blockList() -> String {
    let blocks = Dictionary(grouping: edits.keys, by: \.block).sorted { $0.key < $1.key }
    let lines = blocks.map { block, ids in
      let slots = ids.sorted().map { "\"\($0.slot.rawValue)\": \(Self.text(spec($0)))" }
      return "    {\"block\": \(block), " + slots.joined(separator: ",\n      ") + "}"
    }
    return lines.isEmpty ? "[]" : "[\n\(lines.joined(separator: ",\n"))\n  ]"
  }

  private func pairList() -> String {
    let lines = parallel.sorted { $0.key < $1.key }.map { pair, merge in
      "    {\"blocks\": [\(pair.first), \(pair.second)], \"merge\": \"\(merge.rawValue)\"}"
    }
    return "[\n\(lines.joined(separator: ",\n"))\n  ]"
  }

  private static func text(_ spec: OperatorSpec) -> String {
    let config = spec.config.sorted { $0.key < $1.key }
      .map { "\($0.key.jsonQuoted): \(numberText($0.value))" }
    return
      "{\"operator\": \(spec.name.jsonQuoted), \"config\": {\(config.joined(separator: ", "))}}"
  }

  private static func object(_ members: [(String, String)]) -> String {
    let lines = members.map { "    \($0.0.jsonQuoted): \($0.1)" }
    return "{\n\(lines.joined(separator: ",\n"))\n  }"
  }
}

extension DataSettings {
  /// The section of a plan file.
  fileprivate var text: String {
    let other = heldOut.map { ", \"held_out\": \($0.jsonQuoted)" } ?? ""
    return "{\"path\": \(path.jsonQuoted)\(other), \"flip\": \(flip)}"
  }
}

extension Stage1Settings {
  /// The keys of the section in a plan file.
  static let keys = Stage1Settings(hiddenSize: 1).members.map(\.0)

  /// The section of a plan file: keys in order and values as JSON.
  package var members: [(String, String)] {
    let overrides = overrides.sorted { $0.key < $1.key }.map { site, own in
      let members = own.members.compactMap { key, value in value.map { "\"\(key)\": \($0)" } }
      return "\"\(site)\": {\(members.joined(separator: ", "))}"
    }
    return [
      ("mode", mode.rawValue.jsonQuoted), ("steps", "\(steps)"), ("samples", "\(samples)"),
      ("epochs", "\(epochs)"), ("cache_gb", numberText(cacheGB)), ("batch_size", "\(batchSize)"),
      ("learning_rate", numberText(learningRate)),
      ("min_learning_rate", numberText(minimumRate)), ("weight_decay", numberText(weightDecay)),
      ("clip_norm", numberText(clipNorm)), ("warmup_steps", "\(warmupSteps)"),
      ("schedule", decay.rawValue.jsonQuoted),
      ("milestones", "[\(milestones.map(numberText).joined(separator: ", "))]"),
      ("gamma", numberText(gamma)), ("held_out_every", "\(heldOutEvery)"),
      ("held_out_samples", "\(heldOutSamples)"), ("keep_best", "\(keepsBest)"),
    ] + checkpoints.members + [
      ("attention_loss", attentionLoss.rawValue.jsonQuoted),
      ("mlp_loss", mlpLoss.rawValue.jsonQuoted), ("huber_delta", numberText(huberDelta)),
      ("gate_scaled", "\(isGateScaled)"), ("overrides", "{\(overrides.joined(separator: ", "))}"),
    ]
  }
}

extension SiteOverride {
  /// The keys of a site in a plan file.
  static let keys = SiteOverride().members.map(\.0)

  /// A site in a plan file: keys in order and values as JSON, nil where nothing differs.
  fileprivate var members: [(String, String?)] {
    [
      ("loss", loss?.rawValue.jsonQuoted), ("huber_delta", huberDelta.map(numberText)),
      ("learning_rate", learningRate.map(numberText)),
      ("min_learning_rate", minimumRate.map(numberText)),
      ("weight_decay", weightDecay.map(numberText)), ("clip_norm", clipNorm.map(numberText)),
      ("warmup_steps", warmupSteps.map { "\($0)" }), ("schedule", decay?.rawValue.jsonQuoted),
      ("milestones", milestones.map { "[\($0.map(numberText).joined(separator: ", "))]" }),
      ("gamma", gamma.map(numberText)), ("steps", steps.map { "\($0)" }),
      ("epochs", epochs.map { "\($0)" }), ("keep_best", keepsBest.map { "\($0)" }),
      ("gate_scaled", isGateScaled.map { "\($0)" }), ("init", initialization?.rawValue.jsonQuoted),
    ]
  }
}

extension Stage2Settings {
  /// The keys of the section in a plan file.
  static let keys = Stage2Settings().members.map(\.0)

  /// The section of a plan file: keys in order and values as JSON.
  package var members: [(String, String)] {
    let targets = loraTargets.map(\.rawValue.jsonQuoted).joined(separator: ", ")
    return [
      ("steps", "\(steps)"), ("batch_size", "\(batchSize)"),
      ("learning_rate", numberText(learningRate)), ("warmup_steps", "\(warmupSteps)"),
      ("clip_norm", numberText(clipNorm)), ("ema_decay", numberText(emaDecay)),
      ("label_dropout", numberText(labelDropout)), ("micro_batch", "\(microBatch)"),
      ("weight_decay", numberText(weightDecay)),
      ("milestones", "[\(milestones.map(numberText).joined(separator: ", "))]"),
      ("gamma", numberText(gamma)), ("ema_warmup", "\(emaWarmup)"),
      ("held_out_every", "\(heldOutEvery)"), ("held_out_samples", "\(heldOutSamples)"),
      ("keep_best", "\(keepsBest)"),
    ] + checkpoints.members + [
      ("distillation_weight", numberText(distillationWeight)),
      ("trained", trained.rawValue.jsonQuoted), ("last_n_blocks", "\(lastBlocks)"),
      ("lora_rank", "\(loraRank)"), ("lora_alpha", numberText(loraAlpha)),
      ("lora_targets", "[\(targets)]"), ("recompute", "\(recompute)"),
    ]
  }
}
