import Checkpoints
import Files
import Foundation
import Models
import Plans
import Yams

/// A graft as a configuration of the official repository states it (keshik6/grafting, `configs/sampling`,
/// `configs/train_stage2`; `configs/train_stage1` with blocks named beside it).
package struct OfficialGraft {
  /// Slot kind of the replaced operators.
  package let slot: Slot
  /// The replacement operator.
  package let spec: OperatorSpec
  /// The blocks, ascending.
  package let blocks: [Int]
  /// Stage-1 checkpoints by block.
  package let weights: [Int: String]
  /// Checkpoint of the whole grafted model.
  package let graftedCheckpoint: String?
  /// `global_seed`.
  package let seed: UInt64
  /// Warnings about settings without effect.
  package let warnings: [String]
  /// Training settings common to the file and plans.
  private let rates: Rates

  /// Training settings by stage.
  private struct Rates {
    var isStage1 = false
    var learningRate, minimumRate, weightDecay, clipNorm: Double?
  }

  private static let sections = ["sample_config", "train_config"]

  /// Reads a configuration and the operator configuration that it names.
  ///
  /// - Parameters:
  ///   - path: The YAML file.
  ///   - operatorConfig: The operator's YAML file; nil searches for `operator.config_filepath` in
  ///     the working directory, the folder of the file and all its parents.
  ///   - shape: Architecture of the model.
  ///   - chosenBlocks: The blocks of a stage-1 configuration, which does not name them.
  /// - Throws: `PlanError` with file, line and key for a value that a plan cannot express.
  package init(
    path: String, operatorConfig: String? = nil, shape: ModelShape,
    blocks chosenBlocks: [Int]? = nil
  ) throws {
    let document = try YAMLDocument(path: path)
    let top = document.top
    let section = try top.section("operator")
    guard let place = Self.sections.first(where: { top.value($0) != nil }) else {
      throw top.error(
        Self.sections[0],
        "expected one of \(Self.sections.joined(separator: ", ")); give a sampling, stage-1 or stage-2"
          + " configuration")
    }
    let config = try top.section(place)
    // Only stage-1 configurations have no model name.
    let isStage1 = place == "train_config" && config.value("dit_model_name") == nil
    if !isStage1 { try Self.checkModel(config, shape) }

    let operatorPath =
      try operatorConfig
      ?? Self.find(try section.text("config_filepath"), from: path) { tried in
        section.error(
          "config_filepath",
          "there is no such file (looked in \(tried.joined(separator: ", ")));"
            + " give it with --operator-config")
      }
    let settings = try YAMLDocument(path: operatorPath).top
    let name = try section.text("name")
    guard let official = OfficialOperator.named(name, configKeys: settings.names) else {
      let known = OfficialOperator.all.map(\.name).joined(separator: ", ")
      throw section.error(
        "name", "expected one of \(known), found \(name.debugDescription); correct it")
    }
    slot = official.slot
    if !isStage1 || section.value("type") != nil {
      let type = try section.text("type")
      guard let stated = Slot.allCases.first(where: { OfficialOperator.type(of: $0) == type })
      else {
        throw section.error(
          "type", "expected mha or mlp, found \(type.debugDescription); correct it")
      }
      guard stated == slot else {
        throw section.error(
          "name",
          "\(official.name) replaces the \(OfficialOperator.type(of: slot)) operator,"
            + " the type says \(type); correct one of them")
      }
    }
    spec = try official.spec(settings, shape: shape)
    switch (isStage1, chosenBlocks) {
    case (true, let chosen?): blocks = chosen
    case (true, nil):
      throw config.error(
        "graft_indexes",
        "is missing, as in every stage-1 configuration; name the blocks with --blocks")
    case (false, nil): blocks = try Self.blocks(config, depth: shape.depth)
    case (false, _):
      throw config.error("graft_indexes", "names the blocks already; leave out --blocks")
    }

    var warnings: [String] = []
    weights = try Self.weights(config, blocks: blocks, warnings: &warnings)
    graftedCheckpoint =
      config.optionalText("grafted_dit_ckpt_path") ?? config.optionalText("dit_ckpt_path")
    seed = try config.seed("global_seed")
    rates = Rates(
      isStage1: isStage1, learningRate: try config.number("initial_learning_rate"),
      minimumRate: isStage1 ? try config.number("min_learning_rate") : nil,
      weightDecay: try config.number("wd"),
      clipNorm: isStage1 ? try config.number("clip_norm_val") : nil)
    let unread = document.unread
    if !unread.isEmpty {
      warnings.append(
        "\(path): not taken over are \(unread.joined(separator: ", ")); where they matter set the"
          + " plan's own steps, batch and data with 'espalier plan set'")
    }
    self.warnings = warnings
  }

  /// Makes a plan of the graft for a model.
  ///
  /// - Throws: `PlanError` if the settings are invalid in the model.
  package func plan(named name: String, model: ModelReference) throws -> GraftPlan {
    var plan = GraftPlan(named: name, model: model)
    for block in blocks { plan.edits[SlotID(block: block, slot: slot)] = spec }
    plan.seed = seed
    if rates.isStage1 {
      plan.stage1.learningRate = rates.learningRate ?? plan.stage1.learningRate
      plan.stage1.minimumRate = rates.minimumRate ?? plan.stage1.minimumRate
      plan.stage1.weightDecay = rates.weightDecay ?? plan.stage1.weightDecay
      plan.stage1.clipNorm = rates.clipNorm ?? plan.stage1.clipNorm
    } else {
      plan.stage2.learningRate = rates.learningRate ?? plan.stage2.learningRate
      plan.stage2.weightDecay = rates.weightDecay ?? plan.stage2.weightDecay
    }
    try plan.validate()
    return plan
  }

  // MARK: - Parts

  /// Throws if the configuration is for another published model.
  private static func checkModel(_ config: YAMLDocument.Section, _ shape: ModelShape) throws {
    let (name, imageSize) = (try config.text("dit_model_name"), try config.integer("image_size"))
    guard let official = ModelShape(named: name, imageSize: imageSize) else {
      throw config.error(
        "dit_model_name",
        "expected DiT-S, -B, -L or -XL with patch 2, 4 or 8 at 256 or 512 pixels,"
          + " found \(name) at \(imageSize); correct it")
    }
    let same =
      official.depth == shape.depth && official.hiddenSize == shape.hiddenSize
      && official.numHeads == shape.numHeads && official.patchSize == shape.patchSize
      && official.inputSize == shape.inputSize
    guard same else {
      throw config.error(
        "dit_model_name",
        "\(name) at \(imageSize) pixels has \(official.depth) blocks of width"
          + " \(official.hiddenSize) on \(official.inputSize)x\(official.inputSize) latents, the model"
          + " given has \(shape.depth) of \(shape.hiddenSize) on"
          + " \(shape.inputSize)x\(shape.inputSize); give that model with --model")
    }
  }

  /// Searches for a file by its path relative to the root of the official repository.
  private static func find(
    _ name: String, from path: String, refuse: ([String]) -> PlanError
  ) throws -> String {
    var folders = [FileManager.default.currentDirectoryPath]
    var folder = AtomicFile.directory(of: AtomicFile.resolved(path))
    while folders.last != folder {
      folders.append(folder)
      folder = AtomicFile.directory(of: folder)
    }
    let places = folders.map { AtomicFile.resolved(name, in: $0) }
    if let found = places.first(where: FileManager.default.fileExists(atPath:)) { return found }
    throw refuse(name.hasPrefix("/") ? [name] : Array(folders.prefix(3)))
  }

  private static func blocks(_ config: YAMLDocument.Section, depth: Int) throws -> [Int] {
    guard let nodes = config.value("graft_indexes")?.sequence, !nodes.isEmpty else {
      throw config.error(
        "graft_indexes",
        "expected a list of block numbers, found"
          + " \(config.described("graft_indexes")); add them")
    }
    var blocks: Set<Int> = []
    for node in nodes {
      guard let block = node.int, (0..<depth).contains(block) else {
        throw config.document.error(
          node, config.path("graft_indexes"),
          "expected block numbers from 0 to \(depth - 1), found"
            + " \(YAMLDocument.described(node)); correct it")
      }
      guard blocks.insert(block).inserted else {
        throw config.document.error(
          node, config.path("graft_indexes"), "block \(block) appears twice; remove one")
      }
    }
    return blocks.sorted()
  }

  private static func weights(
    _ config: YAMLDocument.Section, blocks: [Int], warnings: inout [String]
  ) throws -> [Int: String] {
    let key = "graft_weights"
    guard let node = config.value(key), node.null == nil else { return [:] }
    if node.sequence != nil {
      warnings.append(
        "\(config.document.path): \(config.path(key)) is a list, not a map, which the official loader"
          + " passes over: operators keep their random start; write 'block: path' lines without dashes"
      )
      return [:]
    }
    guard let mapping = node.mapping else {
      throw config.error(
        key, "expected a map of block to checkpoint, found \(config.described(key)); correct it")
    }
    var weights: [Int: String] = [:]
    for (name, value) in mapping {
      guard let block = name.int, let path = value.string, blocks.contains(block) else {
        throw config.document.error(
          value, config.path(key),
          "expected paths under block numbers of graft_indexes, found"
            + " \(YAMLDocument.described(name)): \(YAMLDocument.described(value)); correct it")
      }
      weights[block] = path
    }
    return weights
  }
}
