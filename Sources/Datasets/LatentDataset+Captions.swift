import Checkpoints
import Files
import Foundation
import Models
import Pictures
import Sampling
import TensorCore

extension LatentDataset {
  /// Number of captioned images per cache file, the unit of resuming an encoding.
  private static let captionedTogether = 64
  /// Number of images per encoder batch.
  private static let encodedTogether = 4

  /// Encodes captioned images and their captions into a cache from which an interrupted encoding resumes.
  ///
  /// Images are cut to squares; latents are one sample of the posterior, scaled; text embeddings are stored in
  /// bfloat16. Unreadable images are skipped.
  /// - Parameters:
  ///   - images: Images and captions.
  ///   - size: Width and height of the encoded images.
  ///   - flip: Whether images are mirrored with probability 1/2.
  ///   - autoencoder: The encoder of images, and the digest of its weights.
  ///   - prompts: The encoder of captions.
  ///   - cache: The folder of caches.
  ///   - check: Called with the identity of the data before anything is encoded; may throw to stop.
  ///   - progress: Called with the number of images done and the activity; may throw to stop.
  /// - Returns: The data set, and one line per skipped file.
  /// - Throws: `FileError` if no image can be read or the cache cannot be written, and errors of `progress`.
  package static func encoding(
    _ images: CaptionedImages, size: Int, flip: Bool,
    autoencoder: (model: AutoencoderKL, hash: String), prompts: PromptEmbeddings, cache: String,
    check: (String) throws -> Void = { _ in },
    progress: (Int, String) throws -> Void = { _, _ in }
  ) throws -> (dataset: LatentDataset, skipped: [String]) {
    let content = try images.identity(keptIn: cache) { try progress($0, "reading images") }
    let description = [
      "captioned 1", RandomStream.generator, content, autoencoder.hash, prompts.identity, "\(size)",
      "\(flip)",
    ]
    let identity = ContentHash.sha256(Data(description.joined(separator: "\n").utf8))
    try check(identity)
    let place = "\(cache)/captioned-\(identity.prefix(24))"
    try AtomicFile.makeDirectory(place)
    var (files, skipped): ([String], [String]) = ([], [])
    for start in stride(from: 0, to: images.items.count, by: captionedTogether) {
      let items = images.items[start..<min(images.items.count, start + captionedTogether)]
      let path = place + String(format: "/%07d.safetensors", start)
      if (try? SafetensorsFile(path: path))?.metadata["identity"] != identity {
        try encode(
          items, of: images, size: size, flip: flip, autoencoder.model, prompts,
          identity: identity, to: path
        ) { try progress(start + $0, $1) }
      }
      let file = try SafetensorsFile(path: path)
      skipped += (file.metadata["skipped"] ?? "").split(separator: "\n").map(String.init)
      if file.entry("latents") != nil { files.append(path) }
    }
    guard !files.isEmpty else {
      throw FileError(
        "\(images.path): none of its \(skipped.count) images can be read, the first is"
          + " \(skipped.first ?? ""); replace them by PNG or JPEG files")
    }
    let latents = try LatentFiles(files: files, path: place)
    let dataset = LatentDataset(
      shape: latents.shape, labels: latents.labels, identity: identity, texts: latents.texts,
      read: latents.read)
    return (dataset, skipped + images.ignored)
  }

  private static func encode(
    _ items: ArraySlice<CaptionedImages.Item>, of images: CaptionedImages, size: Int, flip: Bool,
    _ autoencoder: AutoencoderKL, _ prompts: PromptEmbeddings, identity: String, to path: String,
    progress: (Int, String) throws -> Void
  ) throws {
    let side = size / autoencoder.config.spatialFactor
    let shape = [autoencoder.config.latentChannels, side, side]
    var (values, texts, skipped): ([Float], [String], [String]) = ([], [], [])
    for start in stride(from: items.startIndex, to: items.endIndex, by: encodedTogether) {
      try progress(start - items.startIndex, "encoding images")
      var (pictures, noise): ([RGBImage], [Float]) = ([], [])
      for item in items[start..<min(items.endIndex, start + encodedTogether)] {
        // One random stream per image makes the result independent of the other images.
        func random(_ use: String) -> RandomStream {
          RandomStream(seed: 0, "image/\(item.name)/\(use)")
        }
        do {
          let image = try images.image(item, size: size)
          pictures.append(flip && random("flip").uniform(0) < 0.5 ? image.mirrored() : image)
        } catch {
          skipped.append("\(error)".replacing("\n", with: " "))
          continue
        }
        texts.append(item.text)
        noise += random("noise").normal(shape).values
      }
      if pictures.isEmpty { continue }
      let posterior = autoencoder.encode(AutoencoderKL.tensor(pictures))
      let drawn = posterior.sample(noise: Tensor(noise, shape: [pictures.count] + shape))
      values += autoencoder.scaled(drawn).values
    }
    var parts: [TensorItem] = []
    if !texts.isEmpty {
      let captions = try prompts.captions(texts) { done, _, layer in
        try progress(done, "encoding captions, layer \(layer)")
      }
      parts = Self.items(
        latents: Tensor(values, shape: [texts.count] + shape), captions: captions)
    }
    try SafetensorsWriter.write(
      parts, metadata: ["identity": identity, "skipped": skipped.joined(separator: "\n")], to: path)
  }

  /// Tensors of a file of captioned latents: `latents`, `prompt_embeds` in bfloat16, `prompt_attention_mask`.
  package static func items(latents: Tensor, captions: Captions) -> [TensorItem] {
    [
      TensorItem(name: "latents", shape: latents.shape) { latents.values },
      TensorItem(name: "prompt_embeds", shape: captions.embeddings.shape, dtype: .bf16) {
        captions.embeddings.values
      },
      TensorItem(name: "prompt_attention_mask", shape: captions.mask.shape) {
        captions.mask.values
      },
    ]
  }
}
