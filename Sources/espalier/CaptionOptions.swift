import ArgumentParser
import Autograd
import Files
import Models
import Sampling
import TensorCore

/// Caption options of text-conditional models.
struct CaptionOptions: ParsableArguments {
  @Option(
    help:
      "Text embeddings for a PixArt model: .npy, or safetensors with prompt_embeds, prompt_attention_mask."
  )
  var captions: String?

  @Option(help: "Embedding of the empty caption (default: the one in the model's file, if any).")
  var nullCaption: String?

  @Option(help: "The model's autoencoder, a file or a folder (default: the one beside it).")
  var autoencoder: String?

  @Option(help: "Height of a PixArt model's images in pixels (default: the model's own).")
  var height: Int?

  @Option(help: "Width of a PixArt model's images in pixels (default: the model's own).")
  var width: Int?

  /// Throws if an option for text-conditional models is given.
  func requireNone() throws {
    let given = [
      ("--captions", captions != nil), ("--null-caption", nullCaption != nil),
      ("--height", height != nil),
      ("--width", width != nil),
    ]
    if let (name, _) = given.first(where: \.1) {
      throw ValidationError("\(name) belongs to a PixArt model, not to a class-conditional one")
    }
  }

  /// Makes the drawing of a PixArt model, with batch size 1; image i uses caption i modulo the
  /// number of captions.
  ///
  /// - Parameters:
  ///   - files: The model.
  ///   - count: Number of images; nil is one per caption.
  ///   - sampler: The sampling loop.
  ///   - precision: Precision of the products in large linear layers and convolutions.
  /// - Returns: The drawing.
  /// - Throws: `FileError`, and `ValidationError` for options that do not fit.
  func drawing(
    _ files: PixArtFiles, count: Int?, sampler: LatentSampler, precision: Precision
  ) throws -> Drawing {
    guard let captions else {
      throw ValidationError("a PixArt model needs --captions, a file of text embeddings")
    }
    let config = files.transformer.config
    let texts = try Captions(path: captions, channels: config.captionChannels)
    let null = try nullCaption.map { try Captions(path: $0, channels: config.captionChannels) }
    let stored = try files.transformer.nullCaption().map {
      Captions(embeddings: $0.reshaped([1] + $0.shape))
    }
    let autoencoder = try files.autoencoder(autoencoder, precision)
    let pixels = autoencoder.config.spatialFactor
    func latents(_ side: Int?, _ name: String) throws -> Int {
      guard let side else { return config.inputSize }
      guard (1...8192).contains(side), side % (pixels * config.patchSize) == 0 else {
        throw ValidationError(
          "\(name) is \(side); give a multiple of \(pixels * config.patchSize) up to 8192")
      }
      return side / pixels
    }
    let (rows, columns) = (try latents(height, "--height"), try latents(width, "--width"))
    let model = try files.transformer.load(forInference: precision)
    let count = count ?? texts.count
    return Drawing(
      count: count, columns: Int(Double(count).squareRoot().rounded(.up)), batch: 1,
      latentShape: [config.inChannels, rows, columns], autoencoder: autoencoder
    ) { range, start, onStep in
      try sampler.sample(
        model,
        captions: texts.selecting(range.map { $0 % texts.count }, length: texts.length),
        null: null ?? stored, height: rows, width: columns, first: range.lowerBound, start: start,
        onStep: onStep)
    }
  }
}
