import Autograd
import Files
import Models
import Plans
import TensorCore

extension ModelFiles {
  /// Width of the text embeddings that a text-conditional model takes.
  ///
  /// - Throws: `FileError` for a model that takes none.
  package func captionChannels() throws(FileError) -> Int {
    guard let channels = model.captionChannels else {
      throw FileError(
        "\(modelPath): is a \(model.shape.family.title), which takes classes and no captions; use a"
          + " text-conditional model")
    }
    return channels
  }

  /// Opens the model's text encoder.
  ///
  /// - Parameters:
  ///   - precision: Precision of the products in large linear layers.
  ///   - path: Folder with `tokenizer` and `text_encoder`; nil selects the one found.
  /// - Returns: Embeddings of prompts in the model's width.
  /// - Throws: `FileError` if there is none, or the model takes no captions.
  package func promptEmbeddings(
    _ precision: Precision, path: String? = nil
  ) throws -> PromptEmbeddings {
    guard let folder = path ?? textEncoderPath else { throw noTextEncoder }
    return try PromptEmbeddings(
      pipeline: folder, channels: try captionChannels(), precision: precision)
  }

  private var noTextEncoder: FileError {
    FileError(
      "\(modelPath): there is no folder 'text_encoder' with its 'tokenizer' beside it; put them there, name"
        + " their folder with --text-encoder, or give text embeddings with --captions")
  }

  /// Caption of the unconditional prediction: the embedding of the empty text as in pipelines, otherwise the
  /// null caption in the model's file; nil without either.
  package func nullCaption(_ precision: Precision, path: String? = nil) throws -> Captions? {
    if path ?? textEncoderPath != nil {
      return try promptEmbeddings(precision, path: path).captions([""])
    }
    return try model.nullCaption()
  }

  /// Conditions of images for analyses and reports, and their names: classes, or prompts, in turn.
  ///
  /// - Parameters:
  ///   - count: Number of images.
  ///   - precision: Precision of the text encoder.
  /// - Returns: Conditions of all images. Without a text encoder they are the null caption of the model's file.
  /// - Throws: `FileError` for a text-conditional model with neither, and errors of the encoder.
  package func exampleConditions(
    _ count: Int, _ precision: Precision
  ) throws -> (conditions: LatentSampler.Conditions, names: [String]) {
    guard model.shape.family.condition == .captions else {
      let labels = (0..<count).map { $0 % model.shape.numClasses }
      let names = model.classNames
      return (.labels(labels), labels.map { $0 < names.count ? names[$0] : "class \($0)" })
    }
    let stored = try model.nullCaption()
    guard textEncoderPath != nil else {
      guard let stored else { throw noTextEncoder }
      return (
        .captions(
          stored.selecting([Int](repeating: 0, count: count), length: stored.length), null: stored),
        [String](repeating: "the empty caption", count: count)
      )
    }
    let prompts = (0..<count).map {
      ModelFamily.examplePrompts[$0 % ModelFamily.examplePrompts.count]
    }
    let encoder = try promptEmbeddings(precision)
    return (
      .captions(try encoder.captions(prompts), null: try encoder.captions([""])), prompts
    )
  }
}

extension LatentSampler.Conditions {
  /// The conditions of some of the samples.
  package func rows(_ range: Range<Int>) -> LatentSampler.Conditions {
    switch self {
    case .labels(let labels): .labels(Array(labels[range]))
    case .captions(let captions, let null):
      .captions(
        captions.selecting(Array(range), length: captions.length),
        null: null.map {
          $0.count == captions.count ? $0.selecting(Array(range), length: $0.length) : $0
        })
    }
  }
}
