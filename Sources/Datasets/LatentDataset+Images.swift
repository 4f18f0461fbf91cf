import Checkpoints
import Files
import Foundation
import Models
import Pictures
import TensorCore

extension LatentDataset {
  /// Number of images per encoder batch.
  private static let encodedTogether = 16
  /// Number of images per cache file, the unit of resuming an encoding.
  private static let shardSize = 256

  /// Encodes the images of a folder into a cache from which an interrupted encoding resumes.
  ///
  /// Images are cropped as in facebookresearch/DiT and mirrored at random; latents are one sample
  /// of the posterior, scaled. Unreadable images are skipped.
  ///
  /// - Parameters:
  ///   - folder: The images.
  ///   - labels: The label of every class folder.
  ///   - size: Width and height of the encoded images.
  ///   - flip: Whether images are mirrored with probability 1/2.
  ///   - autoencoder: The encoder.
  ///   - autoencoderHash: Digest of its weights; part of the cache key.
  ///   - cache: The folder of caches.
  ///   - check: Called with the identity of the data before any image is encoded; may throw to
  ///     stop.
  ///   - progress: Called with the number of images done and the activity; may throw to stop.
  /// - Returns: The data set, and one line per skipped file.
  /// - Throws: `FileError` if no image can be read or the cache cannot be written, and errors of
  ///   `progress`.
  package static func encoding(
    _ folder: ImageFolder, labels: [Int], size: Int, flip: Bool, autoencoder: AutoencoderKL,
    autoencoderHash: String, cache: String, check: (String) throws -> Void = { _ in },
    progress: (Int, String) throws -> Void = { _, _ in }
  ) throws -> (dataset: LatentDataset, skipped: [String]) {
    let content = try folder.identity(keptIn: cache) { try progress($0, "reading images") }
    let description = [
      "images 3", RandomStream.generator, content, autoencoderHash, "\(size)", "\(flip)",
      "\(labels)",
    ]
    let identity = ContentHash.sha256(Data(description.joined(separator: "\n").utf8))
    try check(identity)
    let place = "\(cache)/images-\(identity.prefix(24))"
    try AtomicFile.makeDirectory(place)
    var (files, skipped): ([String], [String]) = ([], [])
    for start in stride(from: 0, to: folder.items.count, by: shardSize) {
      let range = start..<min(folder.items.count, start + shardSize)
      let path = place + String(format: "/%07d.safetensors", start)
      let side = size / autoencoder.config.spatialFactor
      let shape = [autoencoder.config.latentChannels, side, side]
      if !isShard(path, of: identity, shape) {
        try progress(start, "encoding images")
        try encodeShard(
          folder.items[range].map { ($0, labels[$0.classIndex]) }, of: folder, size: size,
          flip: flip, autoencoder, identity: identity, to: path
        ) { try progress(start + $0, "encoding images") }
      }
      let file = try SafetensorsFile(path: path)
      skipped += (file.metadata["skipped"] ?? "").split(separator: "\n").map(String.init)
      files.append(path)
    }
    guard skipped.count < folder.items.count else {
      throw FileError(
        "\(folder.path): none of its \(skipped.count) images can be read, the first is"
          + " \(skipped.first ?? ""); replace them by PNG or JPEG files")
    }
    let latents = try LatentFiles(files: files, path: place)
    let dataset = LatentDataset(
      shape: latents.shape, labels: latents.labels, identity: identity, read: latents.read)
    return (dataset, skipped + folder.ignored)
  }

  /// Whether a file is a complete shard of the cache with samples of a shape; false for a missing
  /// or damaged file.
  private static func isShard(_ path: String, of identity: String, _ shape: [Int]) -> Bool {
    guard let file = try? SafetensorsFile(path: path), file.metadata["identity"] == identity,
      let latents = file.entry("latents"), let labels = file.entry("labels")
    else { return false }
    return latents.dtype == .f32 && labels.dtype == .f32 && labels.shape.count == 1
      && latents.shape == labels.shape + shape
  }

  private static func encodeShard(
    _ items: [(item: ImageFolder.Item, label: Int)], of folder: ImageFolder, size: Int,
    flip: Bool, _ autoencoder: AutoencoderKL, identity: String, to path: String,
    progress: (Int) throws -> Void
  ) throws {
    let side = size / autoencoder.config.spatialFactor
    let shape = [autoencoder.config.latentChannels, side, side]
    var (values, labels, skipped): ([Float], [Float], [String]) = ([], [], [])
    for start in stride(from: 0, to: items.count, by: encodedTogether) {
      let range = start..<min(items.count, start + encodedTogether)
      var images: [RGBImage] = []
      var noise: [Float] = []
      for (item, label) in items[range] {
        // One random stream per image makes the result independent of the other images.
        func random(_ use: String) -> RandomStream {
          RandomStream(seed: 0, "image/\(item.name)/\(use)")
        }
        let isMirrored = flip && random("flip").uniform(0) < 0.5
        do {
          images.append(try folder.image(item, size: size, isMirrored: isMirrored))
        } catch {
          skipped.append("\(error)".replacing("\n", with: " "))
          continue
        }
        labels.append(Float(label))
        noise += random("noise").normal(shape).values
      }
      if !images.isEmpty {
        let posterior = autoencoder.encode(AutoencoderKL.tensor(images))
        let drawn = posterior.sample(noise: Tensor(noise, shape: [images.count] + shape))
        values += autoencoder.scaled(drawn).values
      }
      try progress(range.upperBound)
    }
    try SafetensorsWriter.write(
      [
        .init(name: "latents", shape: [labels.count] + shape, floats: values),
        .init(name: "labels", shape: [labels.count], floats: labels),
      ],
      metadata: ["identity": identity, "skipped": skipped.joined(separator: "\n")], to: path)
  }
}
