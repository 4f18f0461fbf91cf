import ArgumentParser
import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Pictures
import Plans
import TensorCore

/// `espalier sample`: draws images and latents of a model.
struct SampleCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sample",
    abstract: "Draw images of a model, pretrained or grafted, as a PNG grid or as NumPy arrays.",
    discussion: """
      Image i has class i of --classes, starting over after the last one. For comparisons with other \
      programs, --noise takes the start noise from a file instead of the seed, and --latents and \
      --decoded write what comes out before it is made 8-bit.
      """)

  @OptionGroup var source: ModelOptions
  @Option(help: "The PNG file to write.") var output: String?
  @Option(help: "The .npz file to write: arr_0, uint8 (count, height, width, 3), for evaluators.")
  var npz: String?
  @Option(help: "The .npy file of latents to write: float32 (count, channels, height, width).")
  var latents: String?
  @Option(help: "The .npy file of decoded images to write: float32 (count, 3, height, width).")
  var decoded: String?
  @Option(help: "Initial noise of all images, a tensor (count, channels, height, width).")
  var noise: String?
  @Option(help: "Classes, separated by commas (default: all in turn).") var classes: String?
  @Option(
    help: ArgumentHelp(
      "Number of images; they are streamed (default: as many as --noise has, else 40, for a PixArt"
        + " model one per caption)."))
  var count: Int?
  @Option(help: "Number of columns of the grid (default: one per class).") var columns: Int?
  @Option(help: "Decode large images piece by piece: on, off, or auto where memory asks for it.")
  var tiling = AutoencoderKL.Tiling.Mode.auto
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var precision: PrecisionOptions
  @OptionGroup var captions: CaptionOptions
  @OptionGroup var format: OutputOptions

  private var destinations: Drawing.Destinations {
    .init(grid: output, images: npz, latents: latents, decoded: decoded)
  }

  func validate() throws {
    let paths = destinations.paths
    guard !paths.isEmpty else {
      throw ValidationError(
        "there is nothing to write; give --output, --npz, --latents or --decoded")
    }
    if let output, !output.lowercased().hasSuffix(".png") {
      throw ValidationError("--output is \(output), but images are written as PNG; end it in .png")
    }
    guard Set(paths).count == paths.count else {
      throw ValidationError("two options name the same file to write; give different ones")
    }
    try require("--count", count, in: 1...100_000)
    try require("--columns", columns, in: 1...1000)
  }

  func run() throws {
    for path in destinations.paths { try AtomicFile.requireDestination(path) }
    let noise = try noise.map { try StartNoise(path: $0) }
    let count = count ?? noise?.count
    let weights = try ModelWeights(named: source.model)
    let drawing =
      weights.family == .pixart
      ? try textDrawing(weights, count) : try classDrawing(weights, count)
    try drawing.write(
      to: destinations, noise: try noise?.rows(drawing.count, of: drawing.latentShape),
      tiling: AutoencoderKL.Tiling(mode: tiling), columns: columns)
    if let npz { try describe(npz, weights, drawing.count) }
    if format.json {
      var report = ["images": String(drawing.count)]
      report["output"] = output
      report["npz"] = npz
      report["latents"] = latents
      report["decoded"] = decoded
      try format.printJSON(report)
    } else {
      for path in destinations.paths { print("\(path): \(drawing.count) images") }
    }
  }

  /// Writes beside an archive of images how they were drawn.
  private func describe(_ npz: String, _ weights: ModelWeights, _ count: Int) throws {
    let sampler = try sampling.latentSampler(
      weights.family == .pixart ? .pixArtDefaults : .ditDefaults)
    var entries = [
      "model": weights.path, "model_digest": try ContentHash.sha256(paths: weights.files),
      "count": String(count), "sampler": sampler.method.rawValue, "steps": String(sampler.steps),
      "guidance": short(Double(sampler.guidance)), "seed": String(sampler.seed),
      "precision": precision.working.rawValue, "program": "espalier \(espalierVersion)",
    ]
    entries["plan"] = source.graft.plan
    entries["weights"] = source.graft.weights
    entries["classes"] = classes
    try SetDescription.write(entries, beside: npz)
  }

  /// Makes the drawing of a text-conditional model.
  private func textDrawing(_ weights: ModelWeights, _ count: Int?) throws -> Drawing {
    guard source.graft.plan == nil, classes == nil else {
      throw ValidationError(
        "\(source.graft.plan == nil ? "--classes" : "--plan") belongs to a class-conditional model,"
          + " not to a PixArt model")
    }
    return try captions.drawing(
      PixArtFiles(try PixArtFile(weights)), count: count,
      sampler: try sampling.latentSampler(.pixArtDefaults), precision: precision.working)
  }

  /// Makes the drawing of a class-conditional model.
  private func classDrawing(_ weights: ModelWeights, _ count: Int?) throws -> Drawing {
    try captions.requireNone()
    let files = try ModelFiles(DiTFile(weights))
    let network = try source.graft.load(files, forInference: precision.working)
    let config = network.config
    let chosen = try classes.map { try Self.parse($0, config.numClasses) }
    let labels = chosen ?? Array(0..<config.numClasses)
    let sampler = try sampling.latentSampler(for: config)
    let drawsPixels = try captions.autoencoder == nil && files.drawsPixels
    return Drawing(
      count: count ?? 40, columns: labels.count, batch: 20,
      latentShape: [config.inChannels, config.inputSize, config.inputSize],
      autoencoder: destinations.needImages && !drawsPixels
        ? try files.autoencoder(precision.working, path: captions.autoencoder) : nil,
      drawsPixels: drawsPixels
    ) { range, start, onStep in
      try sampler.sample(
        network, labels: range.map { labels[$0 % labels.count] }, first: range.lowerBound,
        start: start, onStep: onStep)
    }
  }

  private static func parse(_ text: String, _ numClasses: Int) throws -> [Int] {
    try text.split(separator: ",", omittingEmptySubsequences: false).map { part in
      guard let label = Int(part.trimmingCharacters(in: .whitespaces)),
        (0..<numClasses).contains(label)
      else {
        throw ValidationError(
          "--classes: '\(part)' is no class; give numbers 0 to \(numClasses - 1), "
            + "separated by commas")
      }
      return label
    }
  }
}

/// Initial noise from a file with one tensor.
private struct StartNoise {
  private let file: any TensorFile
  private let entry: TensorEntry

  /// Opens the file.
  init(path: String) throws(FileError) {
    file = try Checkpoint.open(path)
    guard file.names.count == 1, let entry = file.entry(file.names[0]), entry.shape.count == 4,
      entry.count > 0
    else {
      throw FileError(
        "\(path): holds \(file.names.count == 1 ? "a tensor" : "\(file.names.count) tensors")"
          + "\(file.names.count == 1 ? " of shape \(file.entry(file.names[0])?.shape ?? [])" : ""),"
          + " expected one (count, channels, height, width) for at least one image; save the start noise"
          + " alone")
    }
    self.entry = entry
  }

  /// Number of samples.
  var count: Int { entry.shape[0] }

  /// Reads the noise of the first samples, each with the given shape.
  func rows(_ count: Int, of shape: [Int]) throws -> Tensor {
    guard Array(entry.shape.dropFirst()) == shape, count <= self.count else {
      throw FileError(
        "\(file.path): the noise has shape \(entry.shape), expected \([count] + shape);"
          + " give noise for every image, or a smaller --count")
    }
    let noise = Tensor(try file.floats(entry.name), shape: entry.shape).rows(0..<count)
    if let place = noise.firstNonFinite {
      throw FileError(
        "\(file.path): the noise of sample \(place[0]) holds a value that is not finite at channel"
          + " \(place[1]), row \(place[2]), column \(place[3]); save it again")
    }
    return noise
  }
}

extension AutoencoderKL.Tiling.Mode: ExpressibleByArgument {}
