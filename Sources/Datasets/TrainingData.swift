import Checkpoints
import Files
import Foundation
import Models
import Plans
import TensorCore

/// Training and held-out data of a plan.
package struct TrainingData {
  package let training: LatentDataset
  /// Held-out samples, never trained on.
  package let heldOut: LatentDataset
  /// One line per file that was skipped because it is not a readable image.
  package let skipped: [String]
  /// Warnings about the data, in sentences.
  package let notes: [String]

  /// Maximum number of procedural images; a short training encodes only as many as it draws.
  private static let proceduralImages = 16_384
  /// Seeds of the procedural source.
  private static let (trainingSeed, heldOutSeed): (UInt64, UInt64) = (1, 2)
  /// Numbers of a model's own samples for fits in closed form, beside the pool of its steps.
  private static let ownSamples = 256...2048

  /// Opens the data of a plan and encodes images that are not cached.
  ///
  /// - Parameters:
  ///   - settings: The plan's data; nil for the procedural images.
  ///   - files: The model that is trained, and its autoencoder.
  ///   - teacher: The network of that model, which draws the samples of data that are its own.
  ///   - samples: Number of samples that the training draws.
  ///   - heldOut: Number of samples for the held-out loss.
  ///   - checkpoint: Checkpoint that the training resumes from; changed data are refused before
  ///     they are encoded.
  ///   - progress: Called with the number done, the total and the activity; may throw to stop.
  /// - Throws: `FileError` for data that cannot be read or do not fit the model, and errors of
  ///   `progress`.
  package init(
    _ settings: DataSettings?, for files: ModelFiles,
    teacher: @autoclosure () throws -> any DiffusionTransformer,
    samples: Int, heldOut: Int, checkpoint: String? = nil,
    progress: (Int, Int, String) throws -> Void = { _, _, _ in }
  ) throws {
    let saved = try checkpoint.map { path in
      let file = try SafetensorsFile(path: path)
      try file.requireGenerator()
      return (path, file.metadata)
    }
    func requireSame(_ key: String, _ path: String) -> (String) throws -> Void {
      { identity in
        // The identity of a split set begins with that of the whole set.
        guard let (checkpoint, metadata) = saved, let before = metadata[key],
          before != identity, !before.hasPrefix("\(identity) ")
        else { return }
        throw Self.changed(path, checkpoint: checkpoint, from: before, to: identity)
      }
    }
    try Self.require(settings, for: files)
    guard let settings else {
      func images(_ seed: UInt64, _ count: Int, _ label: String) throws -> LatentDataset {
        try files.latents(seed: seed, count: count) { try progress($0, count, label) }
      }
      training = try images(
        Self.trainingSeed, min(Self.proceduralImages, samples), "encoding images")
      self.heldOut = try images(Self.heldOutSeed, heldOut, "encoding held-out images")
      (skipped, notes) = ([], [])
      return
    }
    if settings.isSelf {
      let source = try TeacherLatents(teacher: try teacher(), settings: settings)
      let hash = try files.reference().contentHash
      training = source.dataset(
        count: min(max(samples, Self.ownSamples.lowerBound), Self.ownSamples.upperBound),
        seed: Self.trainingSeed, modelHash: hash, isPool: true)
      if let path = settings.heldOut {
        let (other, left, note) = try Self.open(
          path, settings, for: files, check: requireSame("held_out", path), progress: progress)
        (self.heldOut, skipped, notes) = (other, left, [note].compactMap(\.self))
        return
      }
      self.heldOut = source.dataset(
        count: heldOut, seed: Self.heldOutSeed, modelHash: hash, isPool: false)
      for first in stride(from: 0, to: heldOut, by: 8) {
        try progress(first, heldOut, "drawing held-out samples")
        _ = self.heldOut.latents(first..<min(heldOut, first + 8))
      }
      (skipped, notes) = ([], [])
      return
    }
    let (dataset, skipped, note) = try Self.open(
      settings.path, settings, for: files, check: requireSame("data", settings.path),
      progress: progress)
    if let path = settings.heldOut {
      let (other, more, otherNote) = try Self.open(
        path, settings, for: files, check: requireSame("held_out", path), progress: progress)
      (training, self.heldOut) = (dataset, other)
      self.skipped = skipped + more
      notes = [note, otherNote].compactMap(\.self)
      return
    }
    guard dataset.count > 1 else {
      throw FileError(
        "\(settings.path): holds a single sample, and one is set aside for the held-out loss;"
          + " add more or name others with \"held_out\"")
    }
    (training, self.heldOut) = dataset.split(heldOut: heldOut)
    self.skipped = skipped
    notes = [note].compactMap(\.self)
  }

  /// Names in the cache of the latents of the procedural images that a training draws.
  package static func proceduralCaches(samples: Int, heldOut: Int) -> [String] {
    [(trainingSeed, min(proceduralImages, samples)), (heldOutSeed, heldOut)]
      .map { ModelFiles.latentsName(seed: $0, count: $1) }
  }

  /// Makes the error for data that differ from those of a checkpoint.
  ///
  /// - Returns: The error to throw.
  package static func changed(
    _ path: String?, checkpoint: String, from before: String, to now: String
  ) -> FileError {
    FileError(
      "\(path ?? "the procedural images"): the training data have changed since \(checkpoint) was"
        + " written, their hash was \(before.prefix(12)) and is \(now.prefix(12)); restore them, or"
        + " start a new run")
  }

  /// Checks what is known of the data of a plan without reading samples.
  ///
  /// - Throws: `FileError` for data that are missing, of no known kind, or of another kind than the model takes.
  package static func check(_ settings: DataSettings?, for files: ModelFiles) throws {
    try require(settings, for: files)
    let paths = [settings?.isSelf == false ? settings?.path : nil, settings?.heldOut]
    for path in paths.compactMap(\.self) { _ = try source(path, for: files) }
  }

  /// Throws for a plan without captions of a model that takes them.
  private static func require(_ settings: DataSettings?, for files: ModelFiles) throws(FileError) {
    guard files.model.shape.family.condition == .captions else { return }
    let (path, title) = (files.modelPath, files.model.shape.family.title)
    let remedy = "'espalier sample --prompts FILE --dataset FOLDER'"
    if settings == nil {
      throw FileError(
        "\(path): a \(title) is trained on images with captions, and the plan names no data; set \"data.path\" to a"
          + " folder, or make some by \(remedy)")
    }
    if settings?.isSelf == true {
      throw FileError(
        "\(path): a \(title) draws images of captions, and data \"self\" has none; make a set by \(remedy)"
      )
    }
  }

  /// An open data set.
  private enum Source {
    /// Images in class folders, with the label of each.
    case images(ImageFolder, [Int])
    case captioned(CaptionedImages)
    case latents(LatentFiles)
  }

  /// Opens a data set of any kind.
  private static func source(_ path: String, for files: ModelFiles) throws -> Source {
    let model = files.model
    if model.shape.family.condition == .captions {
      if CaptionedImages.isPresent(at: path) { return .captioned(try CaptionedImages(path: path)) }
      let latents = try LatentFiles.open(path)
      guard latents.texts != nil else {
        throw FileError(
          "\(path): its latents have labels and no captions, and a \(model.shape.family.title) takes captions; save"
            + " text embeddings as 'prompt_embeds' beside 'latents'")
      }
      return .latents(latents)
    }
    var isFolder: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
    guard exists, isFolder.boolValue, !LatentFiles.isPresent(at: path) else {
      return .latents(try LatentFiles.open(path))
    }
    let folder = try ImageFolder(path: path)
    return .images(
      folder,
      try folder.labels(numClasses: model.shape.numClasses, classNames: model.classNames))
  }

  /// Opens a data set, encodes its images, and checks it against the model.
  private static func open(
    _ path: String, _ settings: DataSettings, for files: ModelFiles,
    check: (String) throws -> Void,
    progress: (Int, Int, String) throws -> Void
  ) throws -> (LatentDataset, skipped: [String], note: String?) {
    let config = files.model.shape
    let cache = try ModelFiles.cacheDirectory()
    // float32, because runs of any precision share the cached latents.
    func encoder() throws -> (model: AutoencoderKL, hash: String, size: Int) {
      let autoencoder = try files.autoencoder(.float32)
      return (
        autoencoder, try files.autoencoderHash(),
        config.inputSize * autoencoder.config.spatialFactor
      )
    }
    var (dataset, skipped): (LatentDataset, [String])
    var note: String?
    switch try source(path, for: files) {
    case .images(let folder, let labels):
      let encoder = try encoder()
      (dataset, skipped) = try LatentDataset.encoding(
        folder, labels: labels, size: encoder.size, flip: settings.flip, autoencoder: encoder.model,
        autoencoderHash: encoder.hash, cache: cache, check: check
      ) { try progress($0, folder.items.count, $1) }
    case .captioned(let images):
      let encoder = try encoder()
      (dataset, skipped) = try LatentDataset.encoding(
        images, size: encoder.size, flip: settings.flip,
        autoencoder: (encoder.model, encoder.hash),
        prompts: try files.promptEmbeddings(.fastest), cache: cache, check: check
      ) { try progress($0, images.items.count, $1) }
    case .latents(let latents):
      dataset = try LatentDataset(latents, cache: cache) {
        try progress($0, latents.files.count, "reading latents")
      }
      skipped = []
      try check(dataset.identity)
      note = scaleNote(dataset, latents, path)
    }
    try require(dataset, fits: config, path)
    guard config.family.condition == .captions else { return (dataset, skipped, note) }
    let channels = try files.captionChannels()
    if let texts = dataset.texts, texts.channels != channels {
      throw FileError(
        "\(path): its text embeddings are \(texts.channels) wide, but the model takes \(channels); use those"
          + " of the model's own text encoder")
    }
    dataset.texts?.null = try files.nullCaption(.fastest)
    if dataset.texts?.null == nil {
      let dropout =
        "\(files.modelPath): has no embedding of the empty caption and no text encoder beside it, so no captions"
        + " are dropped in training"
      note = note.map { "\($0); \(dropout)" } ?? dropout
    }
    return (dataset, skipped, note)
  }

  /// Warns if the latents do not seem to be scaled, and says by what they are normalised; nil otherwise.
  ///
  /// Estimated from samples spread over the set. Latents multiplied by their autoencoder's
  /// `scaling_factor` have a standard deviation of about 1, unscaled ones 4 or more.
  private static func scaleNote(
    _ dataset: LatentDataset, _ latents: LatentFiles, _ path: String
  ) -> String? {
    let source = latents.statistics.map { "\(path): its latents are normalised by \($0.path)" }
    let indices = stride(from: 0, to: dataset.count, by: max(1, dataset.count / 128))
    let (mean, deviation) = dataset.subset(Array(indices), identity: "").channelStatistics()
    let scale = deviation.reduce(0, +) / Float(deviation.count)
    guard scale.isFinite, !(0.4...2.5).contains(scale) else { return source }
    let centre = mean.reduce(0, +) / Float(mean.count)
    let advice =
      source.map { "\($0), which does not belong to them; remove or correct it" }
      ?? "multiply them by the autoencoder's scaling_factor, or put \(LatentStatistics.fileName) beside them,"
      + " unless the model was trained on such latents"
    return
      "warning: \(path): its latents have a mean of \(rounded(centre)) and a standard deviation of"
      + " \(rounded(scale)), expected about 0 and 1; \(advice)"
  }

  private static func rounded(_ value: Float) -> String { String(format: "%.3g", value) }

  /// Throws if latents or labels do not fit the model.
  private static func require(
    _ dataset: LatentDataset, fits config: ModelShape, _ path: String
  ) throws(FileError) {
    let expected = [config.inChannels, config.inputSize, config.inputSize]
    guard dataset.shape == expected else {
      func text(_ shape: [Int]) -> String { shape.map(String.init).joined(separator: " x ") }
      throw FileError(
        "\(path): its latents are \(text(dataset.shape)), the model takes \(text(expected))"
          + " (channels x height x width); encode the images for this model")
    }
    if config.family.condition == .classes, dataset.texts != nil {
      throw FileError(
        "\(path): its latents have captions and no labels, and a \(config.family.title) takes classes; save"
          + " 'labels' beside 'latents'")
    }
    if config.family.condition == .classes,
      let bad = dataset.labels.firstIndex(where: { $0 >= config.numClasses })
    {
      throw FileError(
        "\(path): sample \(bad) has label \(dataset.labels[bad]), the model has classes 0 to"
          + " \(config.numClasses - 1); use data of the model's classes")
    }
  }
}

extension SafetensorsFile {
  /// Checks that a checkpoint was written with the current random generator.
  ///
  /// - Throws: `FileError` if the metadata do not name it.
  package func requireGenerator() throws(FileError) {
    let (key, expected) = (RandomStream.metadataKey, RandomStream.generator)
    guard let found = metadata[key] else {
      throw FileError(
        "\(path): no '\(key)' in the metadata, expected '\(expected)'; resume this training with"
          + " espalier 0.1, which drew other random numbers, or start a new run")
    }
    guard found == expected else {
      throw FileError(
        "\(path): '\(key)' in the metadata is '\(found.prefix(40))', expected '\(expected)'; resume this"
          + " training with the version of espalier that started it, or start a new run")
    }
  }
}
