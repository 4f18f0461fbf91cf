import Checkpoints
import Files
import Foundation
import Nn
import Plans
import TensorCore

/// PixArt transformer on disk: weights of any format in either naming, or a diffusers directory.
package struct PixArtFile: ModelFile {
  /// Path of the weights.
  package let path: String
  package let config: PixArtConfig
  /// Naming of its keys.
  package let naming: PixArtKeyMap.Naming
  /// The weights.
  package let weights: ModelWeights
  package let plan: GraftPlan?
  package let changes: GraftPlan.Changes
  package let notes: [String]
  package let files: [String]
  package let operators: [SlotID: OperatorSpec]
  private var file: StateDict { weights.tensors }

  package var shape: ModelShape { config.shape }
  package var classNames: [String] { [] }
  package var captionChannels: Int? { config.captionChannels }
  package var namingName: String { "\(naming)" }

  /// Opens a model and reads its configuration; the tensors stay on disk.
  ///
  /// - Throws: `FileError` if it is no PixArt or its configuration is not usable.
  package init(path: String) throws { try self.init(ModelWeights(path: path)) }

  /// Makes a model file from open weights.
  ///
  /// The configuration is the metadata entry `config`, otherwise `config.json` in the folder of the
  /// weights, otherwise inferred from the shapes, for the original naming only.
  package init(_ weights: ModelWeights, numHeads: Int? = nil) throws {
    let file = weights.tensors
    guard let naming = PixArtKeyMap.Naming(keys: file.names) else {
      throw FileError(
        "\(file.path): has neither tensor 't_block.1.weight' nor 'adaln_single.linear.weight';"
          + " give the transformer of a PixArt-Σ model")
    }
    try weights.requirePlain()
    try weights.folder?.requireKnownScheduler()
    let sibling = "\(AtomicFile.directory(of: file.path))/config.json"
    var config: PixArtConfig
    var notes = [file.note].compactMap(\.self)
    var files = weights.files
    if let text = weights.metadata["config"], text.hasPrefix("{") {
      config = try .parse(Data(text.utf8), file: file.path)
    } else if let json = try? AtomicFile.read(sibling, limit: 16 << 20),
      !Self.isOfAnother(Data(json))
    {
      config = try .parse(Data(json), file: sibling)
      files.append(sibling)
    } else if naming == .original {
      let inferred = try PixArtConfig.inferred(from: file, numHeads: numHeads)
      config = inferred.config
      notes += inferred.notes
    } else {
      throw FileError(
        "\(file.path): there is no config.json beside it, which weights in the naming of diffusers"
          + " need; put the model's config.json there")
    }
    if config.keyCompression == nil {
      config.keyCompression = try PixArtConfig.compression(in: file, depth: config.depth)
      try config.validate(file.path)
    }
    if naming == .original, let entry = file.entry(PixArtKeyMap.nullCaption) {
      guard entry.shape.count == 2, entry.shape[1] == config.captionChannels else {
        throw FileError(
          "\(file.path): tensor '\(entry.name)' has shape \(entry.shape), expected any length by"
            + " \(config.captionChannels); check that the file holds this model")
      }
      config.nullCaptionLength = entry.shape[0]
    }
    plan = try weights.metadata[DiTFile.planKey].map {
      try GraftPlan.parse($0, file: "\(file.path) (embedded plan)")
    }
    // Names of grafted operators are those of the original repository, whatever the rest is called.
    operators =
      plan == nil && naming == .original && config.keyCompression == nil
      ? try OfficialTensors(file: file).operators(
        hiddenSize: config.hiddenSize, depth: config.depth) : [:]
    changes =
      plan?.changes
      ?? GraftPlan.Changes(
        edits: DetectedDiT.edits(operators, of: config.shape), parallel: [:])
    (self.notes, self.files) = (notes, files)
    self.path = file.path
    self.config = config
    self.naming = naming
    self.weights = weights
  }

  /// Whether a configuration is that of another model, such as the autoencoder beside it.
  private static func isOfAnother(_ json: Data) -> Bool {
    let table = (try? JSONSerialization.jsonObject(with: json)) as? [String: Any]
    guard let name = table?["_class_name"] as? String else { return false }
    return !name.contains("Transformer2DModel")
  }

  /// Loads the model.
  ///
  /// - Parameters:
  ///   - changes: Changes to the pretrained model; nil selects those of the file.
  ///   - precision: Precision of a model for inference only, see `SealedWeights`; nil for a model that
  ///     may be trained.
  /// - Returns: The model.
  /// - Throws: `FileError` for a missing, unexpected or wrongly shaped tensor.
  package func load(
    changes: GraftPlan.Changes? = nil, forInference precision: Precision? = nil
  ) throws -> PixArt {
    let watched = WatchedWeights(FileWeights(file))
    let naming = naming
    let named = RenamedWeights(watched) { PixArtKeyMap.keys($0, in: naming) }
    let model = try named.loading(precision) {
      try PixArt(config: config, edits: (changes ?? self.changes).edits, weights: $0)
    }
    let others = PixArtKeyMap.ignored.union([PixArtKeyMap.nullCaption])
    try watched.requireAllTaken(
      of: file.names.filter { !others.contains($0) }, in: path, model: "PixArt")
    return model
  }

  package func network(
    changes: GraftPlan.Changes?, forInference precision: Precision?
  ) throws -> any DiffusionTransformer {
    try load(changes: changes, forInference: precision)
  }

  package func nullCaption() throws -> Captions? {
    guard let length = config.nullCaptionLength else { return nil }
    return Captions(
      embeddings: Tensor(
        try file.floats(PixArtKeyMap.nullCaption), shape: [1, length, config.captionChannels]))
  }

  /// The metadata of the file, with the configuration.
  package func metadata() throws -> [String: String] {
    try weights.metadata.merging(["config": config.json()]) { $1 }
  }
}
