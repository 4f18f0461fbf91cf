import Files
import Models
import TensorCore
import TextEncoders

/// Text encoder of a text-conditional model with its tokenizer, from prompts to captions.
package struct PromptEncoder {
  /// Number of tokens of a prompt in PixArt-Σ, the end token included.
  package static let mostTokens = 300

  package let tokenizer: T5Tokenizer
  package let encoder: T5Encoder

  /// Opens `tokenizer` and `text_encoder` of a pipeline's folder.
  ///
  /// - Parameters:
  ///   - pipeline: The folder of the pipeline.
  ///   - channels: Width of the embeddings that the model takes.
  ///   - precision: Precision of the products in large linear layers.
  /// - Throws: `FileError` if one is missing, damaged or of another model.
  package init(pipeline: String, channels: Int, precision: PrecisionRule) throws {
    for part in ["tokenizer", "text_encoder"] where !DiffusersFolder.isFolder("\(pipeline)/\(part)")
    {
      throw FileError(
        "\(pipeline): has no folder '\(part)'; put it there, or give text embeddings with --captions"
      )
    }
    tokenizer = try T5Tokenizer(folder: "\(pipeline)/tokenizer")
    encoder = try T5Encoder(folder: "\(pipeline)/text_encoder", precision: precision)
    guard encoder.config.modelDim == channels else {
      throw FileError(
        "\(encoder.path): its embeddings are \(encoder.config.modelDim) wide, but the model takes \(channels);"
          + " use the model's own text encoder")
    }
  }

  /// Token ids and mask of prompts.
  ///
  /// - Parameters:
  ///   - prompts: Cleaned prompts.
  ///   - length: Number of ids of each; nil for that of the longest one.
  /// - Returns: Padded ids, and 1 for tokens and 0 for padding.
  /// - Throws: `FileError` of the tokenizer.
  package func tokens(_ prompts: [String], paddedTo length: Int? = nil) throws -> (
    ids: [[Int]], mask: [[Int]]
  ) {
    let ids = try prompts.map { try tokenizer.encode($0, limit: Self.mostTokens) }
    let length = length ?? ids.map(\.count).max() ?? 0
    return (
      ids.map { $0 + [Int](repeating: T5Tokenizer.padding, count: length - $0.count) },
      ids.map { ids in (0..<length).map { $0 < ids.count ? 1 : 0 } }
    )
  }

  /// Embeddings of prompts (count, tokens of the longest prompt, channels).
  ///
  /// - Parameters:
  ///   - prompts: The prompts.
  ///   - cleans: Whether they are cleaned as PixArt's pipeline does by default, not only put in lower case.
  ///   - onLayer: Called after every layer with the number of layers done and of all; may throw to stop.
  /// - Returns: The captions.
  /// - Throws: `FileError` of tokenizer or encoder.
  package func captions(
    _ prompts: [String], cleans: Bool = true, onLayer: (Int, Int) throws -> Void = { _, _ in }
  ) throws -> Captions {
    let texts = prompts.map {
      cleans ? CaptionCleaning.cleaned($0) : CaptionCleaning.lowered($0)
    }
    let (ids, mask) = try tokens(texts)
    let embeddings = try encoder(ids, mask: mask) { layer, _ in
      try onLayer(layer + 1, encoder.config.layers)
    }
    return Captions(
      embeddings: embeddings,
      mask: Tensor(mask.flatMap { $0.map(Float.init) }, shape: Array(embeddings.shape[..<2])))
  }
}
