import Checkpoints
import Files
import Foundation
import Models
import TensorCore
import TextEncoders

/// Embeddings of prompts by the text encoder of a pipeline, kept by content in the cache folder.
///
/// The encoder is opened when a prompt is not in the cache. Each cached file depends on the encoder's and the
/// tokenizer's bytes, the cleaned text and the precision.
package final class PromptEmbeddings {
  private let pipeline: String
  private let channels: Int
  private let precision: Precision
  private let cache: String
  /// Digest of text encoder, tokenizer and precision.
  package let identity: String
  private var encoder: PromptEncoder?

  /// Version of what the encoder computes; files of others are not used.
  private static let version = 2

  /// Prompts that pass through the encoder together.
  private static let encodedTogether = 64

  /// Finds the text encoder of a pipeline without loading it; reads its files once for their digest.
  ///
  /// - Parameters:
  ///   - pipeline: Folder with `tokenizer` and `text_encoder`.
  ///   - channels: Width of the embeddings that the model takes.
  ///   - precision: Precision of the products in large linear layers.
  /// - Throws: `FileError` if one of the folders is missing or holds no weights.
  package init(pipeline: String, channels: Int, precision: Precision) throws {
    (self.pipeline, self.channels, self.precision) = (pipeline, channels, precision)
    cache = try ModelFiles.cacheDirectory()
    try PromptEncoder.requireFolders(pipeline)
    let weights = try Checkpoint.open(T5Encoder.weights(in: "\(pipeline)/text_encoder"))
    // An encoder of another kind is refused even if all prompts are cached.
    _ = try T5Config(path: "\(pipeline)/text_encoder/config.json")
    let parts = try T5Tokenizer.files(in: "\(pipeline)/tokenizer")
    let digest = try ContentHash.sha256(
      paths: weights.files + ["\(pipeline)/text_encoder/config.json"] + parts, keptIn: cache)
    identity = "\(digest) \(precision.rawValue)"
  }

  /// Embeddings of prompts, one caption each.
  ///
  /// - Parameters:
  ///   - prompts: The prompts.
  ///   - cleans: Whether they are cleaned as PixArt's pipeline does by default, not only put in lower case.
  ///   - progress: Called with the numbers of prompts done and of all, and of layers; may throw to stop.
  /// - Returns: The captions, padded to the longest.
  /// - Throws: `FileError` of tokenizer or encoder, and errors of `progress`.
  package func captions(
    _ prompts: [String], cleans: Bool = true,
    progress: (_ done: Int, _ prompts: Int, _ layer: Int) throws -> Void = { _, _, _ in }
  ) throws -> Captions {
    let texts = prompts.map {
      cleans ? CaptionCleaning.cleaned($0) : CaptionCleaning.lowered($0)
    }
    let files = texts.map(file)
    let missing = Dictionary(zip(files, texts), uniquingKeysWith: { first, _ in first })
      .filter { stored($0.key) == nil }.sorted { $0.value < $1.value }
    for start in stride(from: 0, to: missing.count, by: Self.encodedTogether) {
      let group = missing[start..<min(missing.count, start + Self.encodedTogether)]
      let captions = try opened().cleanedCaptions(group.map(\.value)) { layer, _ in
        try progress(start, missing.count, layer)
      }
      if let place = captions.embeddings.firstNonFinite {
        throw FileError(
          "\(pipeline)/text_encoder: the embedding of the prompt \(group[group.startIndex + place[0]].value.prefix(60).debugDescription)"
            + " holds a value that is not finite at token \(place[1]); use --precision fp32 or other weights"
        )
      }
      for (row, item) in group.enumerated() {
        let tokens = captions.tokens(of: row)
        let values = UnsafeBufferPointer(
          start: captions.embeddings.pointer + row * captions.length * channels,
          count: tokens * channels)
        try SafetensorsWriter.write(
          [.init(name: "prompt_embeds", shape: [tokens, channels], floats: Array(values))],
          metadata: ["text": item.value], to: item.key)
      }
    }
    let parts = try files.map { path in
      guard let caption = stored(path) else {
        throw FileError("\(path): was removed while it was needed; start again")
      }
      return caption
    }
    return Captions.joined(parts)
  }

  private func opened() throws -> PromptEncoder {
    if let encoder { return encoder }
    let made = try PromptEncoder(
      pipeline: pipeline, channels: channels, precision: PrecisionRule(precision))
    encoder = made
    return made
  }

  private func file(of text: String) -> String {
    let key = ContentHash.sha256(Data("\(Self.version)\n\(identity)\n\(text)".utf8))
    return "\(cache)/prompt-\(key.prefix(40)).safetensors"
  }

  /// The caption in a cached file; nil if it is missing, damaged or of another width.
  private func stored(_ path: String) -> Captions? {
    guard let captions = try? Captions(path: path, channels: channels) else { return nil }
    return captions
  }
}
