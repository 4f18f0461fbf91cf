import Checkpoints
import Foundation
import Nn
import Plans

/// A DiT in a safetensors file: official keys, the configuration in its metadata.
package struct DiTFile {
  /// Path of the file.
  package let path: String
  package let config: DiTConfig
  /// Names of the classes, when the file has them.
  package let classNames: [String]
  private let file: SafetensorsFile

  /// What the metadata key `config` holds.
  private struct StoredConfig: Codable {
    var family: String
    var depth, hiddenSize, numHeads, patchSize, inputSize, inChannels, numClasses: Int
    var learnSigma: Bool
    var mlpRatio: Double
    var classNames: [String]?
    var name: String?
  }

  /// The metadata of a model file.
  package static func metadata(config: DiTConfig, classNames: [String], name: String) throws
    -> [String: String]
  {
    let stored = StoredConfig(
      family: "dit", depth: config.depth, hiddenSize: config.hiddenSize, numHeads: config.numHeads,
      patchSize: config.patchSize, inputSize: config.inputSize, inChannels: config.inChannels,
      numClasses: config.numClasses, learnSigma: config.learnSigma, mlpRatio: config.mlpRatio,
      classNames: classNames.isEmpty ? nil : classNames, name: name)
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = .sortedKeys
    return ["config": String(decoding: try encoder.encode(stored), as: UTF8.self)]
  }

  /// Opens a model file and reads its configuration; the tensors stay on disk.
  ///
  /// - Throws: `CheckpointError` if the file is no DiT or its configuration is not usable.
  package init(path: String) throws {
    let file = try SafetensorsFile(path: path)
    guard let text = file.metadata["config"] else {
      throw CheckpointError(
        "\(path): no 'config' in the metadata; expected a DiT written by Espalier (pretrain or sample)"
      )
    }
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let stored: StoredConfig
    do {
      stored = try decoder.decode(StoredConfig.self, from: Data(text.utf8))
    } catch DecodingError.keyNotFound(let key, _) {
      throw CheckpointError(
        "\(path): the configuration in the metadata has no '\(key.stringValue)', which every DiT has;"
          + " use a DiT model file")
    } catch {
      throw CheckpointError(
        "\(path): metadata key 'config' is not a DiT configuration; use a DiT model file")
    }
    guard stored.family == "dit" else {
      throw CheckpointError(
        "\(path): model family is '\(stored.family)', expected 'dit'; use a DiT model file")
    }
    config = DiTConfig(
      depth: stored.depth, hiddenSize: stored.hiddenSize, numHeads: stored.numHeads,
      patchSize: stored.patchSize, inputSize: stored.inputSize, inChannels: stored.inChannels,
      numClasses: stored.numClasses, learnSigma: stored.learnSigma, mlpRatio: stored.mlpRatio)
    try config.validate(path)
    classNames = stored.classNames ?? []
    self.path = path
    self.file = file
  }

  /// All metadata of the file.
  package var metadata: [String: String] { file.metadata }
  /// The mapped file.
  package var tensors: SafetensorsFile { file }

  /// The model's shape as plans record it.
  package var shape: ModelShape {
    ModelShape(
      family: "dit", depth: config.depth, hiddenSize: config.hiddenSize, numHeads: config.numHeads,
      patchSize: config.patchSize, inputSize: config.inputSize, inChannels: config.inChannels,
      numClasses: config.numClasses, learnSigma: config.learnSigma, mlpRatio: config.mlpRatio)
  }

  /// The plan of a grafted model; nil for a pretrained one.
  ///
  /// - Throws: `PlanError` if the embedded plan is not usable.
  package func plan() throws -> GraftPlan? {
    try file.metadata[Self.planKey].map { try GraftPlan.parse($0, file: "\(path) (embedded plan)") }
  }

  /// Metadata key under which grafted models carry their plan.
  package static let planKey = "espalier_plan"

  /// Loads the model, with the replacement operators of its embedded plan if it has one.
  ///
  /// - Throws: `CheckpointError` for a missing, unexpected or wrongly shaped tensor; `PlanError` for
  ///   an embedded plan that is not usable.
  package func load() throws -> DiT {
    let model = try DiT(
      config: config, edits: try plan()?.edits ?? [:], weights: FileWeights(file))
    let known = Set(model.parameters.map(\.name))
    if let extra = file.names.first(where: { !known.contains($0) }) {
      throw CheckpointError(
        "\(path): tensor '\(extra)' belongs to no parameter of this model; "
          + "check that the file holds a DiT of depth \(config.depth)")
    }
    return model
  }
}

extension DiTConfig {
  /// Refuses impossible sizes that come from outside.
  ///
  /// - Parameter path: The file they come from.
  /// - Throws: `CheckpointError` that names the key at fault.
  package func validate(_ path: String) throws {
    func check(_ condition: Bool, _ key: String, _ found: Any, _ expected: String) throws {
      if !condition {
        throw CheckpointError(
          "\(path): config key '\(key)' is \(found), expected \(expected); the file is damaged")
      }
    }
    try check((1...1000).contains(depth), "depth", depth, "1 to 1000")
    try check(
      (4...65536).contains(hiddenSize) && hiddenSize % 4 == 0, "hidden_size", hiddenSize,
      "a multiple of 4 up to 65536")
    try check(
      numHeads > 0 && hiddenSize % numHeads == 0, "num_heads", numHeads,
      "a divisor of hidden_size \(hiddenSize)")
    try check((1...64).contains(patchSize), "patch_size", patchSize, "1 to 64")
    try check(
      inputSize > 0 && inputSize <= 4096 && inputSize % patchSize == 0, "input_size", inputSize,
      "a multiple of patch_size \(patchSize)")
    try check((1...4096).contains(inChannels), "in_channels", inChannels, "1 to 4096")
    try check((1...10_000_000).contains(numClasses), "num_classes", numClasses, "at least 1")
    try check(mlpRatio > 0 && mlpRatio <= 64, "mlp_ratio", mlpRatio, "more than 0, at most 64")
  }
}
