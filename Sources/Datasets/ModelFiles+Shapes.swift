import Files
import Foundation
import Models
import TensorCore

extension ModelFiles {
  /// Encodes procedural images with the model's autoencoder, for distillation and analysis.
  ///
  /// - Parameters:
  ///   - seed: Seed of the procedural source.
  ///   - count: Number of images.
  ///   - progress: Called with the number of images encoded; may throw to stop.
  /// - Returns: Normalised latents with labels.
  /// - Throws: `FileError` if the model was not trained on the procedural images.
  package func latents(seed: UInt64, count: Int, progress: (Int) throws -> Void = { _ in })
    throws -> LatentDataset
  {
    try requireShapes()
    // float32, because runs of any precision share the cached latents.
    let autoencoder = try autoencoder(.float32)
    let identity = "autoencoder \(try autoencoderHash())"
    let cache = try ModelFiles.cacheDirectory() + "/" + Self.latentsName(seed: seed, count: count)
    return try .encoding(
      ShapeSource(seed: seed), count: count, autoencoder: autoencoder, cache: cache,
      identity: identity, progress: progress)
  }

  /// Name in the cache of the latents of procedural images.
  static func latentsName(seed: UInt64, count: Int) -> String {
    "latents-\(seed)-\(count).safetensors"
  }

  /// Throws if the model was not trained on the procedural images.
  package func requireShapes() throws {
    guard model.classNames == ShapeSource.classNames,
      model.shape.numClasses == ShapeSource.numClasses
    else {
      throw FileError(
        "\(modelPath): its classes are not the procedural shapes, and no other data set is named; "
          + "name one as \"data\" in the plan or with --data")
    }
    let side = model.shape.inputSize * (try autoencoder(.float32).config.spatialFactor)
    guard side == ShapeSource.side else {
      throw FileError(
        "\(modelPath): its images are \(side) pixels wide, the procedural ones \(ShapeSource.side); "
          + "name a data set as \"data\" in the plan or with --data")
    }
  }
}
