import Checkpoints
import Files
import Foundation
import Nn
import Plans
import TensorCore

/// A DiT on disk: a file of weights in any format, or a folder of diffusers.
///
/// Its configuration is, in this order, the one in the file's metadata, the one in a file `NAME.json`
/// beside it, the `config.json` of diffusers, or what the weights' names and shapes show.
package struct DiTFile {
  /// Path of the weights, or of the index of a sharded model.
  package let path: String
  package let config: DiTConfig
  /// Names of the classes, when the file has them.
  package let classNames: [String]
  /// The names of its parameters in the file.
  package let naming: DiTNaming
  /// The state dict, with the wrappers' prefixes stripped; names as in the file.
  package let tensors: StateDict
  /// All files that decide what the model computes.
  package let files: [String]
  /// The folder of the autoencoder in the same pipeline, if there is one.
  package let autoencoderFolder: String?
  private let ownMetadata: [String: String]

  /// What the metadata key `config` holds.
  private struct StoredConfig: Codable {
    var family: String
    var depth, hiddenSize, numHeads, patchSize, inputSize, inChannels, numClasses: Int
    var learnSigma: Bool
    var mlpRatio: Double
    var frequencyShift: Int?
    var mlpNormEpsilon: Double?
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
      frequencyShift: config.frequencyShift == 0 ? nil : config.frequencyShift,
      mlpNormEpsilon: config.mlpNormEpsilon == DiTConfig.officialEpsilon
        ? nil : config.mlpNormEpsilon,
      classNames: classNames.isEmpty ? nil : classNames, name: name)
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    encoder.outputFormatting = .sortedKeys
    return ["config": String(decoding: try encoder.encode(stored), as: UTF8.self)]
  }

  /// Opens a model and reads its configuration; the tensors stay on disk.
  ///
  /// - Parameters:
  ///   - path: The file or folder.
  ///   - container: The entry of the checkpoint to take instead of the usual one.
  ///   - numHeads: Attention heads of a model without a configuration whose size is not a published
  ///     one.
  /// - Throws: `FileError` if the file is no DiT or its configuration is not usable.
  package init(path: String, container: String? = nil, numHeads: Int? = nil) throws {
    let folder = DiffusersFolder.isFolder(path) ? try DiffusersFolder(path) : nil
    let weights = try folder.map { try DiffusersFolder.weights(in: $0.transformer) } ?? path
    let tensors = try StateDict(try Checkpoint.open(weights), container: container)
    let isDiffusers = DiTKeyMap.isDiffusers(tensors)
    let sidecar = Sidecar.path(of: weights)
    let extra = try Sidecar.read(sidecar)
    var metadata = tensors.metadata.merging(extra ?? [:]) { $1 }
    var used = tensors.files + (extra == nil ? [] : [sidecar])
    var stored: StoredConfig?
    var numHeads = numHeads
    if let text = metadata["config"] {
      if extra?["config"] != nil, let heads = Self.onlyHeads(text) {
        numHeads = numHeads ?? heads
        metadata["config"] = nil
      } else {
        stored = try Self.decode(text, path: path)
      }
    }
    if let stored {
      var config = DiTConfig(
        depth: stored.depth, hiddenSize: stored.hiddenSize, numHeads: stored.numHeads,
        patchSize: stored.patchSize, inputSize: stored.inputSize, inChannels: stored.inChannels,
        numClasses: stored.numClasses, learnSigma: stored.learnSigma, mlpRatio: stored.mlpRatio)
      config.frequencyShift = stored.frequencyShift ?? 0
      config.mlpNormEpsilon = stored.mlpNormEpsilon ?? DiTConfig.officialEpsilon
      self.config = config
    } else if isDiffusers {
      let place = "\(AtomicFile.directory(of: weights))/config.json"
      config = try DiffusersFolder.config(place)
      used.append(place)
    } else {
      config = try DiTConfig.detect(in: tensors, numHeads: numHeads)
    }
    try config.validate(path)
    let names = stored?.classNames ?? folder?.classNames ?? []
    classNames = names.count == config.numClasses ? names : []
    naming = isDiffusers ? .diffusers : .official
    autoencoderFolder = folder?.autoencoder
    files = used
    ownMetadata = metadata
    self.path = weights
    self.tensors = tensors
  }

  /// The heads that a sidecar states when it states nothing else of the configuration.
  private static func onlyHeads(_ text: String) -> Int? {
    guard let object = try? JSONSerialization.jsonObject(with: Data(text.utf8)),
      let table = object as? [String: Any], table.count == 1
    else { return nil }
    return table["num_heads"] as? Int
  }

  private static func decode(_ text: String, path: String) throws -> StoredConfig {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    let stored: StoredConfig
    do {
      stored = try decoder.decode(StoredConfig.self, from: Data(text.utf8))
    } catch DecodingError.keyNotFound(let key, _) {
      throw FileError(
        "\(path): the configuration in the metadata has no '\(key.stringValue)', which every DiT has;"
          + " use a DiT model file")
    } catch {
      throw FileError(
        "\(path): metadata key 'config' is not a DiT configuration; use a DiT model file")
    }
    guard stored.family == "dit" else {
      throw FileError(
        "\(path): model family is '\(stored.family)', expected 'dit'; use a DiT model file")
    }
    return stored
  }

  /// The metadata of the file, with the configuration however it was found.
  ///
  /// - Throws: Never in practice; encoding could.
  package func metadata() throws -> [String: String] {
    try Self.metadata(config: config, classNames: classNames, name: config.publishedName ?? "dit")
      .merging(ownMetadata) { $1 }
  }

  /// The model's shape as plans record it.
  package var shape: ModelShape { config.shape }

  /// The plan of a grafted model; nil for a pretrained one.
  ///
  /// - Throws: `PlanError` if the embedded plan is not usable.
  package func plan() throws -> GraftPlan? {
    try ownMetadata[Self.planKey].map { try GraftPlan.parse($0, file: "\(path) (embedded plan)") }
  }

  /// Metadata key under which grafted models carry their plan.
  package static let planKey = "espalier_plan"

  /// Loads the model, with the replacement operators and parallel blocks of its embedded plan if it has
  /// one.
  ///
  /// - Parameter precision: What a model for inference alone multiplies in, see `SealedWeights`; nil for
  ///   a model that may be trained.
  /// - Returns: The model.
  /// - Throws: `FileError` for a missing, unexpected or wrongly shaped tensor; `PlanError` for
  ///   an embedded plan that is not usable.
  package func load(forInference precision: Precision? = nil) throws -> DiT {
    let plain = FileWeights(tensors)
    let named: any WeightSource = naming == .official ? plain : DiffusersWeights(plain)
    let weights: any WeightSource =
      if let precision { SealedWeights(named, precision) } else { named }
    let plan = try plan()
    guard plan?.parallel.isEmpty ?? true || naming == .official else {
      throw FileError(
        "\(path): has parallel blocks, for which diffusers has no names; use the model's own file")
    }
    let model = try DiT(
      config: config, edits: plan?.edits ?? [:], parallel: plan?.parallel ?? [:], weights: weights)
    var known = Set(model.parameters.map(\.name))
    if naming == .diffusers {
      try DiTKeyMap.requireSharedEmbedders(tensors, depth: config.depth)
      known = [DiTKeyMap.storedPositionTable]
      for parameter in model.parameters {
        let copies = DiTKeyMap.isEmbedder(parameter.name) ? config.depth : 1
        for block in 0..<copies {
          known.formUnion(
            DiTKeyMap.diffusersKeys(parameter.name, embeddersOf: block) ?? [parameter.name])
        }
      }
    }
    if let extra = tensors.names.first(where: { !known.contains($0) }) {
      throw FileError(
        "\(path): tensor '\(extra)' belongs to no parameter of this model; "
          + "check that the file holds a DiT of depth \(config.depth)")
    }
    // The buffers that weights were read into and are not kept in.
    if precision != nil { BufferPool.trim() }
    return model
  }
}

/// Metadata beside a file whose format has none: `NAME.json`, an object of texts or objects.
package enum Sidecar {
  private static let sizeLimit = 16 << 20

  /// Where the metadata of a file lies.
  package static func path(of file: String) -> String { file + ".json" }

  /// Reads the metadata; nil if there is none.
  ///
  /// - Throws: `FileError` for a file that is no JSON object.
  static func read(_ path: String) throws -> [String: String]? {
    guard access(path, F_OK) == 0 else { return nil }
    let text = try AtomicFile.read(path, limit: sizeLimit)
    guard let object = try? JSONSerialization.jsonObject(with: Data(text)),
      let table = object as? [String: Any]
    else { throw FileError("\(path): is no JSON object; correct it or remove it") }
    return try table.mapValues { value in
      if let text = value as? String { return text }
      let json = try JSONSerialization.data(
        withJSONObject: value, options: [.fragmentsAllowed, .sortedKeys])
      return String(decoding: json, as: UTF8.self)
    }
  }

  /// Writes the metadata of a file, as objects where they are JSON.
  ///
  /// - Throws: `FileError` if it cannot be written.
  package static func write(_ metadata: [String: String], beside file: String) throws {
    let values = metadata.mapValues { text -> Any in
      let object = try? JSONSerialization.jsonObject(with: Data(text.utf8))
      return object ?? text
    }
    let json = try JSONSerialization.data(
      withJSONObject: values, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    try AtomicFile.write(json, to: path(of: file))
  }
}
