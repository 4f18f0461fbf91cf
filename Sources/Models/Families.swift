import Checkpoints
import Files
import Foundation
import Plans

/// How the family of a file was found.
package struct FamilyRecognition {
  package let family: ModelFamily
  /// Assumptions, and what was left out, in sentences.
  package let notes: [String]
  /// Whether the model was trained with data at time 0 and noise at time 1, as REPA trains.
  let reversesTime: Bool

  /// Whether a tensor is none of the network: projectors, statistics of latents, and tables that are computed.
  static func isLeftOut(_ name: String) -> Bool {
    name.hasPrefix(SiTTraining.projectors) || DetectedBlocks.rotation.contains(name)
      || LatentStatistics.names.contains(name)
  }

  /// Recognises the family of open weights.
  ///
  /// PixArt is told by its tensors. DiT and SiT have the same tensors, so they are told apart by, in this order:
  /// the family in the name of the model (`sit:FILE`), the family in the file's own configuration, the arguments
  /// of a training, blocks of LightningDiT, the projectors of REPA, and the name of the file. Without any of these
  /// it is a DiT.
  /// - Returns: nil if the tensors are those of no family.
  /// - Throws: `FileError` for a SiT of an unsupported process, and a stated family that contradicts the file.
  package init?(_ weights: ModelWeights) throws(FileError) {
    let tensors = weights.tensors
    if PixArtKeyMap.Naming(keys: tensors.names) != nil {
      try Self.require(weights.statedFamily, .pixart, "its tensors", weights.path)
      (family, notes, reversesTime) = (.pixart, [], false)
      return
    }
    guard ModelWeights.anchors.contains(where: { tensors.entry($0) != nil }) else { return nil }
    let training = SiTTraining(weights)
    let sign = try Self.sign(weights, training)
    if let stated = weights.statedFamily {
      if let sign, sign.isStatement {
        try Self.require(stated, sign.family, sign.text, weights.path)
      }
      guard stated.condition == .classes else {
        throw FileError(
          "\(weights.path): is no \(stated.title), its tensors are those of a DiT or SiT; leave out"
            + " '\(stated.rawValue):'")
      }
      family = stated
      notes = training.notes(for: family)
    } else if let sign {
      family = sign.family
      let isGuess = family == .lightningdit && !sign.isStatement
      notes =
        (isGuess ? [Self.takenForLightningDiT(weights.path)] : []) + training.notes(for: family)
    } else {
      family = .dit
      notes = [
        "\(weights.path): has the tensors of a DiT and of a SiT, and nothing tells which it is; it is taken"
          + " for a DiT, --family sit or the name 'sit:FILE' takes it for a SiT"
      ]
    }
    reversesTime = training.reversesTime
  }

  private static func takenForLightningDiT(_ path: String) -> String {
    "\(path): has blocks of LightningDiT, so it is taken to predict velocities with data at time 1; --family dit or"
      + " the name 'dit:FILE' takes it to predict noise"
  }

  private static func require(
    _ stated: ModelFamily?, _ found: ModelFamily, _ sign: String, _ path: String
  ) throws(FileError) {
    guard let stated, stated != found else { return }
    throw FileError(
      "\(path): is a \(found.title), as \(sign) shows, and not a \(stated.title); leave out the family"
    )
  }

  private typealias Sign = (family: ModelFamily, text: String, isStatement: Bool)

  private static func sign(
    _ weights: ModelWeights, _ training: SiTTraining
  ) throws(FileError) -> Sign? {
    let (tensors, path) = (weights.tensors, weights.path)
    if DiTKeyMap.isDiffusers(tensors) { return (.dit, "the naming of diffusers", true) }
    if let text = weights.metadata["config"], let own = try StatedShape(text, file: path),
      let family = own.family.flatMap(ModelFamily.init)
    {
      return (family, "its configuration", true)
    }
    if case .text(let type) = tensors.values["config.model.model_type"],
      type.hasPrefix("LightningDiT")
    {
      return (.lightningdit, "'config.model.model_type'", true)
    }
    if try training.isStatedByArguments { return (.sit, "'args'", true) }
    if let model = SiTTraining.argument("model", tensors) {
      if model.hasPrefix("LightningDiT") { return (.lightningdit, "'args.model'", true) }
      if model.hasPrefix("DiT") { return (.dit, "'args.model'", true) }
    }
    if DetectedBlocks.areModern(in: tensors) { return (.lightningdit, "its blocks", false) }
    if training.hasProjectors { return (.sit, "'projectors.'", true) }
    let name = URL(filePath: path).lastPathComponent.lowercased()
    for family in [ModelFamily.sit, .dit] {
      let start = family.rawValue
      guard name.hasPrefix(start) else { continue }
      if let next = name.dropFirst(start.count).first, next.isLetter { continue }
      return (family, "its name", false)
    }
    return nil
  }
}

extension ModelWeights {
  /// Family of the weights; nil if they are those of none.
  package var family: ModelFamily? { (try? FamilyRecognition(self))?.family }

  /// Opens the model of its family.
  ///
  /// - Parameter numHeads: Attention heads of a model without a configuration whose size is not a published one.
  /// - Returns: The opened model.
  /// - Throws: `FileError` if the weights are those of no family or its configuration is invalid, `PlanError`
  ///   if its plan is invalid.
  package func model(numHeads: Int? = nil) throws -> any ModelFile {
    guard !LoRAFile.isAdapter(tensors.names) else {
      throw FileError(
        "\(path): holds LoRA adapters without the model that they belong to; name that model and give them with"
          + " --lora")
    }
    switch try FamilyRecognition(self)?.family {
    case .pixart: return try PixArtFile(self, numHeads: numHeads)
    case .dit, .sit, .lightningdit, nil: return try DiTFile(self, numHeads: numHeads)
    }
  }
}
