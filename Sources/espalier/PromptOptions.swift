import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Sampling
import TensorCore

/// Options of text-conditional models: prompts or their embeddings, and the size of the images.
struct PromptOptions: ParsableArguments {
  @Option(help: "A prompt of a text-conditional model; repeatable.") var prompt: [String] = []
  @Option(help: "A file with a prompt in every line.") var prompts: String?
  @Option(help: "What guidance leads away from (default: the empty text).") var negative: String?
  @Flag(
    help: "Put prompts in lower case alone instead of cleaning them as diffusers' pipeline does.")
  var noCleaning = false
  @Option(
    help: "Folder of 'tokenizer' and 'text_encoder' (default: those of the model's folder).")
  var textEncoder: String?

  @Option(
    help:
      "Text embeddings in place of prompts: .npy, or safetensors with prompt_embeds, prompt_attention_mask."
  )
  var captions: String?
  @Option(help: "Embedding of the empty caption (default: the one in the model's file, if any).")
  var nullCaption: String?

  @Option(help: "The model's autoencoder, a file or a folder (default: the one beside it).")
  var autoencoder: String?
  @Option(help: "Height of a text-conditional model's images in pixels (default: its own).")
  var height: Int?
  @Option(help: "Width of a text-conditional model's images in pixels (default: its own).")
  var width: Int?
  @Flag(
    help: .init(
      "Draw at the size that is asked for instead of at the nearest one of the model's training, which is then scaled"
        + " and cut."))
  var noBinning = false

  /// Throws if an option for text-conditional models is given.
  func requireNone(_ family: ModelFamily) throws {
    let given = [
      ("--prompt", !prompt.isEmpty), ("--prompts", prompts != nil), ("--negative", negative != nil),
      ("--text-encoder", textEncoder != nil), ("--captions", captions != nil),
      ("--null-caption", nullCaption != nil), ("--height", height != nil),
      ("--width", width != nil), ("--no-binning", noBinning), ("--no-cleaning", noCleaning),
    ]
    if let (name, _) = given.first(where: \.1) {
      throw ValidationError(
        "\(name) belongs to a text-conditional model, and this one is a \(family.title)")
    }
  }

  /// The prompts of the options, in order.
  func texts() throws -> [String] {
    guard let prompts else { return prompt }
    guard prompt.isEmpty else { throw ValidationError("give --prompt or --prompts, not both") }
    let bytes = try AtomicFile.read(prompts, limit: 256 << 20)
    let lines = String(decoding: bytes, as: UTF8.self).split(whereSeparator: \.isNewline)
      .map { $0.trimmingCharacters(in: .whitespaces) }.filter { !$0.isEmpty }
    guard !lines.isEmpty else {
      throw FileError("\(prompts): holds no prompts, expected one in every line; add some")
    }
    return lines
  }

  /// Embeds the prompts, or reads their embeddings.
  ///
  /// - Returns: One caption per prompt, and that of the unconditional prediction.
  /// - Throws: `FileError`, and `ValidationError` without prompts and embeddings.
  func embedded(
    _ files: ModelFiles, _ texts: [String], isGuided: Bool, precision: Precision
  ) throws -> LatentSampler.Conditions {
    let channels = try files.captionChannels()
    let null = try nullCaption.map { try Captions(path: $0, channels: channels) }
    guard texts.isEmpty else {
      guard captions == nil else {
        throw ValidationError("give prompts or --captions, not both")
      }
      let encoder = try files.promptEmbeddings(precision, path: textEncoder)
      let console = ProgressLine()
      defer { console.finish() }
      func embed(_ texts: [String]) throws -> Captions {
        try encoder.captions(texts, cleans: !noCleaning) { done, count, layer in
          console.update("encoding prompts, \(done)/\(count), layer \(layer)")
        }
      }
      return .captions(
        try embed(texts), null: try !isGuided ? nil : null ?? embed([negative ?? ""]))
    }
    guard let captions else {
      throw ValidationError(
        "a \(files.model.shape.family.title) needs --prompt TEXT, --prompts FILE or --captions FILE"
      )
    }
    guard negative == nil else {
      throw ValidationError(
        "--negative belongs to --prompt and --prompts; give its embedding with --null-caption")
    }
    let shown = try Captions(path: captions, channels: channels)
    return .captions(shown, null: try !isGuided ? nil : null ?? files.model.nullCaption())
  }

  /// Makes the drawing of a text-conditional model, with batch size 1; image i uses prompt i / `repeats` modulo
  /// the number of prompts.
  ///
  /// - Returns: The drawing.
  /// - Throws: `FileError`, and `ValidationError` for options that do not fit.
  func drawing(
    _ files: ModelFiles, _ texts: [String], count: Int?, repeats: Int = 1, sampler: LatentSampler,
    precision: Precision, needsImages: Bool = true, load: () throws -> any DiffusionTransformer
  ) throws -> Drawing {
    let config = files.model.shape
    let conditions = try embedded(
      files, texts, isGuided: sampler.guidance != 1, precision: precision)
    let autoencoder =
      needsImages ? try files.autoencoder(precision, path: autoencoder) : nil
    let (fitted, size) = try sizes(
      config, pixels: autoencoder?.config.spatialFactor ?? ModelShape.pixelsPerLatent)
    guard case .captions(let shown, let null) = conditions else {
      preconditionFailure("PromptOptions: captions")
    }
    let model = try load()
    let count = count ?? repeats * shown.count
    func captions(_ range: Range<Int>) -> Captions {
      shown.selecting(range.map { $0 / repeats % shown.count }, length: shown.length)
    }
    let reuse = sampler.cache.map { _ in StepReuse() }
    var drawing = Drawing(
      count: count, columns: Int(Double(count).squareRoot().rounded(.up)), batch: 1,
      latentShape: [config.inChannels, size.height, size.width], autoencoder: autoencoder
    ) { range, start, onStep in
      try sampler.sample(
        model, for: .captions(captions(range), null: null), size: size, first: range.lowerBound,
        start: start, reuse: reuse, onStep: onStep)
    }
    drawing.reuse = reuse
    (drawing.bytes, drawing.fitted) = (.of(config.family), fitted)
    drawing.captions = captions
    return drawing
  }

  /// Size of the images in pixels, if they are scaled to it, and of the latents.
  private func sizes(
    _ config: ModelShape, pixels: Int
  ) throws -> (fitted: (height: Int, width: Int)?, latents: (height: Int, width: Int)) {
    let own = config.inputSize * pixels
    let (height, width) = (height ?? own, width ?? own)
    for (name, side) in [("--height", height), ("--width", width)]
    where !(1...8192).contains(side) {
      throw ValidationError("\(name) is \(side); give 1 to 8192")
    }
    if !noBinning, let bin = AspectRatioBins.nearest(height: height, width: width, base: own) {
      return ((height, width), (bin.height / pixels, bin.width / pixels))
    }
    let unit = pixels * config.patchSize
    for (name, side) in [("--height", height), ("--width", width)] where side % unit != 0 {
      throw ValidationError("\(name) is \(side); give a multiple of \(unit) up to 8192")
    }
    return (nil, (height / pixels, width / pixels))
  }
}
