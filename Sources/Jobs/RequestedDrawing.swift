import Files
import Models
import Plans
import Runs
import Sampling
import TensorCore

extension Drawing {
  /// Called while prompts are encoded, with the number done, their number and the layer.
  package typealias EncodingProgress = (_ done: Int, _ count: Int, _ layer: Int) throws -> Void

  /// Makes the drawing of a request; loads the model.
  ///
  /// - Parameters:
  ///   - request: What is drawn.
  ///   - source: The model.
  ///   - labels: The class of every image; unused for a text-conditional model.
  ///   - precision: Precision of large products.
  ///   - needsImages: Whether latents are decoded.
  ///   - encoding: Progress of the text encoder; may throw to stop.
  /// - Throws: `FileError` for files and settings that do not fit the model.
  package init(
    _ request: SampleRequest, of source: SourceModel, labels: [Int], precision: Precision,
    needsImages: Bool = true, encoding: EncodingProgress = { _, _, _ in }
  ) throws {
    let sampler = try LatentSampler(request.sampler)
    if let prompts = request.prompts {
      try self.init(
        prompts, request, of: source, sampler: sampler, precision: precision,
        needsImages: needsImages, encoding: encoding)
    } else {
      let network = try source.network(precision)
      let shape = network.shape
      let reuse = sampler.cache.map { _ in StepReuse() }
      let drawsPixels = try source.source.autoencoder == nil && source.files.drawsPixels
      self.init(
        count: request.count, columns: request.classes?.count ?? shape.numClasses,
        batch: request.batch, latentShape: [shape.inChannels, shape.inputSize, shape.inputSize],
        autoencoder: needsImages && !drawsPixels
          ? try source.files.autoencoder(precision, path: source.source.autoencoder) : nil
      ) { range, start, onStep in
        try sampler.sample(
          network, labels: Array(labels[range]), first: range.lowerBound, start: start,
          reuse: reuse, onStep: onStep)
      }
      (self.drawsPixels, self.reuse) = (drawsPixels, reuse)
    }
    guard let mode = AutoencoderKL.Tiling.Mode(rawValue: request.tiling) else {
      throw FileError("tiling is '\(request.tiling)', expected on, off or auto; correct it")
    }
    tiling = AutoencoderKL.Tiling(mode: mode)
  }

  /// Draws prompts: image i has prompt i / `repeats` modulo their number.
  private init(
    _ prompts: PromptSettings, _ request: SampleRequest, of source: SourceModel,
    sampler: LatentSampler, precision: Precision, needsImages: Bool, encoding: EncodingProgress
  ) throws {
    let files = source.files
    let shape = files.model.shape
    // The text encoder is gone before the model is loaded.
    let (shown, null) = try prompts.embedded(
      files, isGuided: sampler.guidance != 1, precision: precision, progress: encoding)
    let autoencoder =
      needsImages ? try files.autoencoder(precision, path: source.source.autoencoder) : nil
    let (fitted, size) = try prompts.sizes(
      shape, pixels: autoencoder?.config.spatialFactor ?? ModelShape.pixelsPerLatent)
    let network = try source.network(precision)
    let reuse = sampler.cache.map { _ in StepReuse() }
    func captions(_ range: Range<Int>) -> Captions {
      shown.selecting(
        range.map { $0 / prompts.repeats % shown.count }, length: shown.length)
    }
    self.init(
      count: request.count, columns: Int(Double(request.count).squareRoot().rounded(.up)),
      batch: request.batch, latentShape: [shape.inChannels, size.height, size.width],
      autoencoder: autoencoder
    ) { range, start, onStep in
      try sampler.sample(
        network, for: .captions(captions(range), null: null), size: size, first: range.lowerBound,
        start: start, reuse: reuse, onStep: onStep)
    }
    (bytes, self.fitted, self.reuse) = (.of(shape.family), fitted, reuse)
    self.captions = captions
  }
}

extension PromptSettings {
  /// Number of the prompts, or of their embeddings.
  ///
  /// - Throws: `FileError` for embeddings that do not fit the model.
  package func promptCount(of files: ModelFiles) throws -> Int {
    guard texts.isEmpty, let captions else { return texts.count }
    return try Captions(path: captions, channels: try files.captionChannels()).count
  }

  /// Embeds the prompts, or reads their embeddings, and that of the unconditional prediction.
  fileprivate func embedded(
    _ files: ModelFiles, isGuided: Bool, precision: Precision, progress: Drawing.EncodingProgress
  ) throws -> (shown: Captions, null: Captions?) {
    let channels = try files.captionChannels()
    let given = try nullCaption.map { try Captions(path: $0, channels: channels) }
    guard texts.isEmpty, let captions else {
      let encoder = try files.promptEmbeddings(precision, path: textEncoder)
      func embed(_ texts: [String]) throws -> Captions {
        try encoder.captions(texts, cleans: cleans, progress: progress)
      }
      return (
        try embed(texts), try !isGuided ? nil : given ?? embed([negative ?? ""])
      )
    }
    return (
      try Captions(path: captions, channels: channels),
      try !isGuided ? nil : given ?? files.model.nullCaption()
    )
  }

  /// Size of the images in pixels, if they are scaled to it, and of the latents.
  ///
  /// - Throws: `FileError` for a size that the model cannot draw.
  package func sizes(
    _ shape: ModelShape, pixels: Int
  ) throws(FileError) -> (
    fitted: (height: Int, width: Int)?, latents: (height: Int, width: Int)
  ) {
    let own = shape.inputSize * pixels
    let (height, width) = (height ?? own, width ?? own)
    if isBinned, let bin = AspectRatioBins.nearest(height: height, width: width, base: own) {
      return ((height, width), (bin.height / pixels, bin.width / pixels))
    }
    let unit = pixels * shape.patchSize
    for (name, side) in [("--height", height), ("--width", width)] where side % unit != 0 {
      throw FileError("\(name) is \(side); give a multiple of \(unit) up to 8192")
    }
    return (nil, (height / pixels, width / pixels))
  }
}
