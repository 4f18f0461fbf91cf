import Checkpoints
import Files
import Foundation
import Nn
import Plans
import TensorCore

/// A PixArt transformer on disk: weights of any format in either naming, or a diffusers directory.
package struct PixArtFile {
  /// Path of the weights.
  package let path: String
  package let config: PixArtConfig
  /// Naming of its keys.
  package let naming: PixArtKeyMap.Naming
  /// The weights.
  package let weights: ModelWeights
  private var file: StateDict { weights.tensors }

  /// Opens a model and reads its configuration; the tensors stay on disk.
  ///
  /// - Throws: `FileError` if it is no PixArt or its configuration is not usable.
  package init(path: String) throws { try self.init(ModelWeights(path: path)) }

  /// Makes a model file from open weights.
  ///
  /// The configuration is the metadata entry `config`, otherwise `config.json` in the folder of the
  /// weights, otherwise inferred from the shapes, for the original naming only.
  package init(_ weights: ModelWeights) throws(FileError) {
    let file = weights.tensors
    guard let naming = PixArtKeyMap.Naming(keys: file.names) else {
      throw FileError(
        "\(file.path): has neither tensor 't_block.1.weight' nor 'adaln_single.linear.weight';"
          + " give the transformer of a PixArt-Σ model")
    }
    try weights.requireMerged()
    try weights.folder?.requireKnownScheduler()
    let sibling = "\(AtomicFile.directory(of: file.path))/config.json"
    var config: PixArtConfig
    if let text = weights.metadata["config"], text.hasPrefix("{") {
      config = try .parse(Data(text.utf8), file: file.path)
    } else if let json = try? Data(contentsOf: URL(filePath: sibling)) {
      config = try .parse(json, file: sibling)
    } else if naming == .original {
      config = try .inferred(from: file)
    } else {
      throw FileError(
        "\(file.path): there is no config.json beside it, which weights in the naming of diffusers"
          + " need; put the model's config.json there")
    }
    if config.keyCompression == nil {
      config.keyCompression = try PixArtConfig.compression(in: file, depth: config.depth)
      try config.validate(file.path)
    }
    self.path = file.path
    self.config = config
    self.naming = naming
    self.weights = weights
  }

  /// Loads the model.
  ///
  /// - Parameter precision: Precision of a model for inference only, see `SealedWeights`; nil for a
  ///   model that may be trained.
  /// - Returns: The model.
  /// - Throws: `FileError` for a missing, unexpected or wrongly shaped tensor.
  package func load(forInference precision: Precision? = nil) throws -> PixArt {
    let watched = WatchedWeights(FileWeights(file))
    let naming = naming
    let named = RenamedWeights(watched) { PixArtKeyMap.keys($0, in: naming) }
    let weights: any WeightSource =
      if let precision { SealedWeights(named, precision) } else { named }
    let model = try PixArt(config: config, weights: weights)
    let others = PixArtKeyMap.ignored.union([PixArtKeyMap.nullCaption])
    try watched.requireAllTaken(
      of: file.names.filter { !others.contains($0) }, in: path, model: "PixArt")
    // Releases the buffers into which the weights were read.
    if precision != nil { BufferPool.trim() }
    return model
  }

  /// Null caption (length, channels) of caption dropout; nil if the file has none.
  package func nullCaption() throws -> Tensor? {
    guard let entry = file.entry(PixArtKeyMap.nullCaption) else { return nil }
    guard entry.shape.count == 2, entry.shape[1] == config.captionChannels else {
      throw FileError(
        "\(path): tensor '\(PixArtKeyMap.nullCaption)' has shape \(entry.shape), expected any length"
          + " by \(config.captionChannels); check that the file holds this model")
    }
    return Tensor(try file.floats(entry.name), shape: entry.shape)
  }
}
