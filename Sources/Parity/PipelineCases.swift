import Autograd
import Files
import Foundation
import Models
import Sampling
import TensorCore
import TextEncoders

/// Text-to-image pipelines of PixArt-Σ from prompt to image (`pixart_pipeline`).
enum PipelineCases {
  private struct Bins: Decodable {
    struct Example: Decodable {
      let base: Int
      let requested, binned: [Int]
    }
    let tables: [String: [[Double]]]
    let examples: [Example]
  }

  /// Compares the tables of sizes and examples of snapping, exactly.
  static func bins(_ name: String, _ folder: String) -> ParityResult {
    ParityResult("\(name)/bins") { comparisons in
      let bins: Bins = try Fixture.json("\(folder)/bins.json")
      for (base, table) in bins.tables.sorted(by: { $0.key < $1.key }) {
        let found = AspectRatioBins.table(base: Int(base) ?? 0)
        comparisons.compare(
          "table \(base)", found.map { [$0.ratio, Double($0.height), Double($0.width)] }, table)
      }
      for item in bins.examples {
        guard item.requested.count == 2 else {
          throw FileError(
            "\(folder)/bins.json: an example has no height and width; copy it again")
        }
        let found = AspectRatioBins.nearest(
          height: item.requested[0], width: item.requested[1], base: item.base)
        comparisons.compare(
          "\(item.requested) at \(item.base)",
          [found.map { [Double($0.height), Double($0.width)] } ?? []],
          [item.binned.map(Double.init)])
      }
    }
  }

  /// Compares tokens, embeddings, guided predictions, latents of every step and the image of one call.
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let call = try fixture.settings.table("call")
    let tolerance = try fixture.settings.table("tolerance")
    let folder = try fixture.path(inFolder: "model")
    let transformer = try PixArtFile(ModelWeights(path: folder))
    let files = try ModelFiles(transformer)
    let model = try transformer.load()
    let encoder = try PromptEncoder(
      pipeline: folder, channels: model.config.captionChannels, precision: .float32)

    // Text: every prompt once, then repeated for its images.
    let cleans = try call.flag("clean_caption")
    let repeats = try call.integer("num_images_per_prompt", in: 1...64)
    let guidance = Float(try call.number("guidance_scale"))
    let kept = try fixture.settings.integer("embeds_rows_kept", in: 1...PromptEncoder.mostTokens)
    let embedding = try tolerance.number("embeds")
    func encode(_ texts: [String], _ name: String, repeats: Int) throws -> Captions {
      let cleaned = texts.map {
        cleans ? CaptionCleaning.cleaned($0) : CaptionCleaning.lowered($0)
      }
      let (ids, mask) = try encoder.tokens(cleaned, paddedTo: PromptEncoder.mostTokens)
      if fixture.has("out.\(name)_ids") { try check.exact("out.\(name)_ids", ids.flatMap { $0 }) }
      let states = try encoder.encoder(ids, mask: mask)
      let captions = Captions(
        embeddings: states,
        mask: Tensor(mask.flatMap { $0.map(Float.init) }, shape: Array(states.shape[..<2])))
      let chosen = texts.indices.flatMap { [Int](repeating: $0, count: repeats) }
      let all = captions.selecting(chosen, length: captions.length)
      try check.exact("out.\(name)_mask", all.mask.values.map { Int($0) })
      let shown = Tensor([all.count, kept, all.channels])
      for row in 0..<all.count {
        let rows = all.embeddings.rows(row..<(row + 1)).reshaped([all.length, all.channels])
        shown.rows(row..<(row + 1)).assign(rows.rows(0..<kept).reshaped([1, kept, all.channels]))
      }
      try check.forward("out.\(name)_embeds", shown, tolerance: embedding)
      return all
    }
    let captions = try encode(try call.texts("prompt"), "prompt", repeats: repeats)
    let isGuided = guidance > 1
    let null =
      isGuided
      ? try encode(
        [String](repeating: try call.text("negative_prompt"), count: captions.count / repeats),
        "negative",
        repeats: repeats) : nil

    // Latents.
    let autoencoder = try files.autoencoder(.float32)
    let factor = autoencoder.config.spatialFactor
    let (height, width) = (try call.integer("height"), try call.integer("width"))
    var drawn = (height: height, width: width)
    if try call.flag("use_resolution_binning") {
      guard
        let size = AspectRatioBins.nearest(
          height: height, width: width, base: model.config.inputSize * factor)
      else {
        throw FileError(
          "\(fixture.path): the model has no table of sizes; the file is damaged, copy it again")
      }
      drawn = size
    }
    let shape = [
      captions.count, model.config.inChannels, drawn.height / factor, drawn.width / factor,
    ]
    let noise = try fixture.tensor("in.noise", shape: shape)
    let steps = try call.integer("num_inference_steps", in: 1...999)
    let bound = try tolerance.number("latents")
    let shown = (null.map { captions.followed(by: $0) } ?? captions).trimmed()
    let guided = Tensor([steps] + shape)
    let latents = Tensor([steps] + shape)
    var step = 0
    let network: DenoisingModel = { latents, timesteps in
      model.predict(
        latents,
        Conditioning(
          timesteps: timesteps, caption: Value(constant: shown.embeddings), mask: shown.mask))
    }
    let prediction =
      isGuided
      ? Guidance.guided(network, channels: model.config.inChannels) { _ in guidance } : network
    let start = Tensor([shown.count] + shape.dropFirst())
    for row in 0..<shown.count {
      start.rows(row..<(row + 1)).assign(noise.rows((row % shape[0])..<(row % shape[0] + 1)))
    }
    let diffusion = try GaussianDiffusion.evenlySpread(steps)
    let size = noise.count / shape[0]
    _ = try diffusion.dpmSolverSamples(
      from: start,
      model: { current, timesteps in
        let output = try prediction(current, timesteps)
        for row in 0..<shape[0] {
          (guided.pointer + (step * shape[0] + row) * size).update(
            from: output.pointer + row * (output.count / output.shape[0]), count: size)
        }
        return output
      },
      onStep: { result in
        (latents.pointer + step * noise.count).update(
          from: result.sample.pointer, count: noise.count)
        step += 1
      })
    try check.exact("out.timesteps", diffusion.schedule.timesteps.reversed())
    try check.forward("out.guided_eps", guided, tolerance: bound)
    try check.forward("out.latents", latents, tolerance: bound)

    // The sampler that draws with these captions must end where the loop above does.
    let sampler = LatentSampler(
      method: .dpmpp, steps: steps, guidance: isGuided ? guidance : 1, seed: 0)
    let last = try sampler.sample(
      model, for: .captions(captions, null: null), size: (shape[2], shape[3]), start: noise)
    for index in 0..<noise.count { latents[(steps - 1) * noise.count + index] = last[index] }
    try check.forward("out.latents", latents, tolerance: bound, remark: "sampler")

    // Image.
    let decoded = AspectRatioBins.fitted(
      autoencoder.decode(autoencoder.unscaled(last), tiling: AutoencoderKL.Tiling(mode: .off)),
      height: height, width: width)
    let images = AutoencoderKL.rgbImages(ofDecoded: decoded, .rounded)
    let colours = Tensor([images.count, height, width, 3])
    for row in 0..<images.count {
      for channel in 0..<3 {
        for place in 0..<(height * width) {
          let value = decoded[(row * 3 + channel) * height * width + place]
          colours[(row * height * width + place) * 3 + channel] = min(1, max(0, value / 2 + 0.5))
        }
      }
    }
    try image(check, colours, tolerance: try tolerance.number("image"))
    try check.absolute(
      "out.image_u8", Tensor(images.flatMap { $0.pixels.map(Float.init) }, shape: colours.shape),
      tolerance: try tolerance.number("image_u8"))
  }

  /// Compares the image, or the part of it that the file holds.
  private static func image(_ check: ParityCheck, _ colours: Tensor, tolerance: Double) throws {
    guard check.fixture.settings.has("image_crop") else {
      return try check.absolute("out.image", colours, tolerance: tolerance)
    }
    let text = try check.fixture.settings.text("image_crop")
    guard let match = text.wholeMatch(of: #/rows (\d+)\.\.(\d+), columns (\d+)\.\.(\d+)/#),
      let top = Int(match.1), let bottom = Int(match.2), let left = Int(match.3),
      let right = Int(match.4), top <= bottom, left <= right, bottom < colours.shape[1],
      right < colours.shape[2]
    else {
      throw FileError(
        "\(check.fixture.path): config key 'image_crop' is '\(text)', expected rows and columns of the image;"
          + " the file is damaged, copy it again")
    }
    let (rows, columns) = (bottom - top + 1, right - left + 1)
    let crop = Tensor([colours.shape[0], rows, columns, 3])
    for row in 0..<(colours.shape[0] * rows) {
      let from = (row / rows * colours.shape[1] + top + row % rows) * colours.shape[2] + left
      (crop.pointer + row * columns * 3).update(
        from: colours.pointer + from * 3, count: columns * 3)
    }
    try check.absolute("out.image_crop", crop, tolerance: tolerance)
  }
}
