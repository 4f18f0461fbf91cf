import Checkpoints
import Files
import Foundation
import Models
import Pictures
import TensorCore

extension LatentDataset {
  /// Encodes procedural images into normalised latents, or reads them from a matching cache.
  ///
  /// - Parameters:
  ///   - source: The procedural source.
  ///   - count: Number of images; labels cycle through the classes.
  ///   - autoencoder: Encoder whose posterior mean is normalised per channel.
  ///   - cache: Path of a safetensors cache, written atomically if it is missing.
  ///   - identity: Identity of autoencoder and source; a cache with another one is replaced.
  ///   - progress: Called with the number of images done; may throw to stop.
  /// - Returns: Normalised latents with labels.
  /// - Throws: `FileError` if the cache cannot be read or written, and errors of `progress`.
  package static func encoding(
    _ source: ShapeSource, count: Int, autoencoder: AutoencoderKL, cache: String?, identity: String,
    progress: (Int) throws -> Void = { _ in }
  ) throws -> LatentDataset {
    let labels = (0..<count).map { $0 % ShapeSource.numClasses }
    let key = "\(identity) \(RandomStream.generator) seed \(source.seed) count \(count)"
    // A missing, damaged or different cache is replaced.
    if let cache, let file = try? SafetensorsFile(path: cache), file.metadata["identity"] == key,
      let entry = file.entry("latents"), entry.dtype == .f32, entry.shape.count == 4,
      entry.shape[0] == count, entry.shape[1] == autoencoder.config.latentChannels
    {
      let latents = Tensor(try file.floats("latents"), shape: entry.shape)
      if latents.isFinite { return LatentDataset(latents: latents, labels: labels, identity: key) }
    }
    let chunk = 64
    var latents: Tensor?
    for start in stride(from: 0, to: count, by: chunk) {
      let indices = start..<min(count, start + chunk)
      let images = ShapeSource.tensor(indices.map { source.image(index: $0).pixels })
      let encoded = autoencoder.scaled(autoencoder.encode(images).mean)
      let all = latents ?? Tensor([count] + encoded.shape.dropFirst())
      latents = all
      all.rows(indices).assign(encoded)
      try progress(indices.upperBound)
    }
    let result = latents ?? Tensor([0, 0, 0, 0])
    if let cache {
      try SafetensorsWriter.write(
        [.init(name: "latents", shape: result.shape, floats: result.values)],
        metadata: ["identity": key], to: cache)
    }
    return LatentDataset(latents: result, labels: labels, identity: key)
  }
}

extension ShapeSource {
  /// Converts images to a tensor (count, 3, 64, 64) with values in [-1, 1].
  package static func tensor(_ images: [[UInt8]]) -> Tensor {
    AutoencoderKL.tensor(images.map { RGBImage(width: side, height: side, pixels: $0) })
  }
}
