import Files
import Foundation

/// Settings of a sampler, with the names that the command line has.
package struct SamplerSettings: Codable, Equatable, Sendable {
  package var method: String
  package var steps: Int
  package var guidance: Double
  package var seed: UInt64
  package var eta = 0.0
  /// Leading latent channels that are guided; nil selects those of the model's pipeline.
  package var guidedChannels: Int?
  /// Times of a velocity model at which guidance acts, and the shift of its steps; nil are all and none.
  package var guidanceLow, guidanceHigh, timeShift: Double?
  /// Diffusion coefficient and last step of the stochastic samplers of velocities.
  package var diffusionForm = "sigma"
  package var diffusionNorm = 1.0
  package var lastStep = "mean"
  package var lastStepSize = 0.04
  /// Threshold of step caching, and whether it forecasts; nil is none.
  package var cache: Double?
  package var forecastsCache: Bool?

  package init(method: String, steps: Int, guidance: Double, seed: UInt64) {
    (self.method, self.steps, self.guidance, self.seed) = (method, steps, guidance, seed)
  }

  private enum CodingKeys: String, CodingKey {
    case method, steps, guidance, seed, eta, cache
    case forecastsCache = "forecasts_cache"
    case guidedChannels = "guided_channels"
    case guidanceLow = "guidance_low"
    case guidanceHigh = "guidance_high"
    case timeShift = "time_shift"
    case diffusionForm = "diffusion_form"
    case diffusionNorm = "diffusion_norm"
    case lastStep = "last_step"
    case lastStepSize = "last_step_size"
  }

  func checkNumbers() throws(FileError) {
    try FileNumber.check("sampler.steps", steps, 1...1000)
    try FileNumber.check("sampler.guidance", guidance, -1e6...1e6)
    try FileNumber.check("sampler.eta", eta, 0...1)
    try FileNumber.check("sampler.cache", cache, 0...10)
    try FileNumber.check("sampler.guided_channels", guidedChannels, 1...4096)
    try FileNumber.check("sampler.guidance_low", guidanceLow, 0...1)
    try FileNumber.check("sampler.guidance_high", guidanceHigh, (guidanceLow ?? 0)...1)
    try FileNumber.check("sampler.time_shift", timeShift, 1e-3...1e3)
    try FileNumber.check("sampler.diffusion_norm", diffusionNorm, 0...1e6)
    try FileNumber.check("sampler.last_step_size", lastStepSize, 0...1)
  }
}

/// What a text-conditional model draws.
package struct PromptSettings: Codable, Equatable, Sendable {
  /// The prompts; empty if their embeddings are given.
  package var texts: [String] = []
  /// Images of each prompt before the next one.
  package var repeats = 1
  /// What guidance leads away from; nil for the empty text.
  package var negative: String?
  /// Whether prompts are cleaned as in the pipelines of diffusers.
  package var cleans = true
  /// Folder of tokenizer and text encoder, files of embeddings of the captions and of the empty one.
  package var textEncoder, captions, nullCaption: String?
  /// Size of the images in pixels; nil selects that of the model.
  package var height, width: Int?
  /// Whether images are drawn at the nearest size of the model's training, then scaled and cut.
  package var isBinned = true

  package init() {}

  private enum CodingKeys: String, CodingKey {
    case texts, repeats, negative, cleans, captions, height, width
    case textEncoder = "text_encoder"
    case nullCaption = "null_caption"
    case isBinned = "binned"
  }
}

/// A model with what is done to it before it is used.
package struct ModelSource: Codable, Equatable, Sendable {
  /// The model's file, or `demo`.
  package var path: String
  /// The plan's file, relative to the run directory; nil uses the model as it is.
  package var planPath: String?
  /// Whether the model is a graft without a plan in its file, made with that plan.
  package var isBareGraft = false
  /// Checkpoints of grafted operators, or runs that have them; later ones override earlier ones.
  package var weights: [String] = []
  /// Whether operators without trained weights may stand beside trained ones.
  package var allowsFresh = true
  /// LoRA adapters that are added to the weights, and the factor of their scales.
  package var adapters: [String] = []
  package var adapterScale = 1.0
  /// The autoencoder's file or folder; nil selects the model's own.
  package var autoencoder: String?

  package init(path: String) { self.path = path }

  private enum CodingKeys: String, CodingKey {
    case path, weights, adapters, autoencoder
    case planPath = "plan_path"
    case isBareGraft = "bare_graft"
    case adapterScale = "adapter_scale"
    case allowsFresh = "allows_fresh"
  }
}

/// Request for a set of images, `arr_0` of an `.npz`.
package struct SampleRequest: Codable, Equatable, Sendable {
  /// How classes are assigned to images.
  package enum Labels: String, Codable, CaseIterable, Sendable {
    /// In turn, so that every class has as many images as any other.
    case cyclic
    /// Drawn uniformly with the seed.
    case random
    /// Those of a file.
    case file
  }

  package var model: ModelSource
  package var sampler: SamplerSettings
  package var prompts: PromptSettings?
  /// Whether large images are decoded in tiles: on, off or auto.
  package var tiling = "auto"
  /// Number of images.
  package var count: Int
  package var labels = Labels.cyclic
  /// Classes that are assigned; nil for all.
  package var classes: [Int]?
  /// File of integers, one for each image, and its digest.
  package var labelsPath, labelsDigest: String?
  /// The absolute path of the archive; nil writes `samples.npz` in the run.
  package var output: String?
  /// Whether the archive also has the labels, `arr_1`.
  package var writesLabels = false
  /// Images of a file in `chunks`, and of a forward pass; the images do not depend on either.
  package var chunk: Int
  package var batch: Int

  /// Allowed numbers of images.
  package static let countRange = 1...10_000_000

  package init(
    model: ModelSource, sampler: SamplerSettings, count: Int, chunk: Int = 20, batch: Int = 20
  ) {
    (self.model, self.sampler, self.count) = (model, sampler, count)
    (self.chunk, self.batch) = (chunk, batch)
  }

  private enum CodingKeys: String, CodingKey {
    case model, sampler, prompts, tiling, count, labels, classes, output, chunk, batch
    case labelsPath = "labels_path"
    case labelsDigest = "labels_digest"
    case writesLabels = "writes_labels"
  }

  func checkNumbers() throws(FileError) {
    try FileNumber.check("count", count, Self.countRange)
    try FileNumber.check("chunk", chunk, 1...1_000_000)
    try FileNumber.check("batch", batch, 1...4096)
    for label in classes ?? [] { try FileNumber.check("classes", label, FileNumber.counts) }
    try FileNumber.check("prompts.repeats", prompts?.repeats, 1...1_000_000)
    for side in [prompts?.height, prompts?.width] {
      try FileNumber.check("prompts.height and width", side, 1...8192)
    }
    try sampler.checkNumbers()
  }

  /// First images of all chunks.
  package var chunkStarts: StrideTo<Int> { stride(from: 0, to: count, by: chunk) }

  /// Images of the chunk that begins at an image.
  package func images(at first: Int) -> Range<Int> { first..<min(count, first + chunk) }
}

extension RunDirectory {
  /// Finished parts of a set of images, each in one file that appears at once.
  package var chunksPath: String { "\(path)/chunks" }
  /// The chunk whose first image is `first`: 8-bit RGB (count, height, width, 3).
  package func chunkPath(at first: Int) -> String {
    let digits = String(first)
    return "\(chunksPath)/\(String(repeating: "0", count: max(0, 8 - digits.count)))\(digits).npy"
  }
  /// The class, or index of the prompt, of every image: int64.
  package var labelsPath: String { "\(path)/labels.npy" }
  /// What the finished set is, and how it was drawn.
  package var setPath: String { "\(path)/set.json" }
  /// The growing contact sheet, relative to the run.
  package static let sheet = "samples/sheet.png"

  /// The archive of a run that draws a set.
  ///
  /// - Throws: `FileError` for another run, one that is not done, and an archive that is gone.
  package func finishedSet() throws -> String {
    guard case .sample(let request) = try request().job else {
      throw FileError("\(path): draws no set of images; name a run of 'espalier sample --npz'")
    }
    let state = summary().state
    guard state == .done else {
      throw FileError(
        "\(path): its set is not finished, the run is \(state.name); 'espalier runs resume \(id)' goes on"
      )
    }
    let output = request.output ?? "\(path)/samples.npz"
    guard access(output, R_OK) == 0 else {
      throw FileError("\(output): the set of run \(id) is no longer there; name the file itself")
    }
    return output
  }
}
