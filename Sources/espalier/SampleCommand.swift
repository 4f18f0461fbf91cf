import ArgumentParser
import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Pictures
import Plans
import Sampling
import TensorCore
import TorchEngine

/// `espalier sample`: draws images and latents of a model.
struct SampleCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sample",
    abstract: "Draw images of a model, pretrained or grafted, as a PNG grid or as NumPy arrays.",
    discussion: """
      Image i has class i of --classes, starting over after the last one. For comparisons with other \
      programs, --noise takes the start noise from a file instead of the seed, and --latents and \
      --decoded write what comes out before it is made 8-bit. A text-conditional model (PixArt-Σ) draws \
      --prompt or --prompts; their embeddings are kept in the cache. --dataset writes a data set of latents \
      and captions that plans train on, and --geneval the folders that GenEval's evaluator reads; both go \
      on where they stopped.
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
  @OptionGroup var prompts: PromptOptions
  @Option(help: "The folder to write a data set of latents with the prompts' embeddings to.")
  var dataset: String?
  @Option(
    help: .init(
      "GenEval's evaluation_metadata.jsonl: draw --count images (default 4) of every prompt in it, into folders in"
        + " --output."))
  var geneval: String?
  @Option(help: "Engine that draws: native, or one of 'espalier engines', for --npz and --latents.")
  var engine: String?
  @Option(
    help: .init(
      "Program and arguments that start the engine's ranks in place of its own launcher, divided at spaces.",
      valueName: "words"))
  var launcher: String?
  @OptionGroup var format: OutputOptions

  private var destinations: Drawing.Destinations {
    .init(grid: output, images: npz, latents: latents, decoded: decoded)
  }

  func validate() throws {
    let paths = destinations.paths
    guard !paths.isEmpty || dataset != nil else {
      throw ValidationError(
        "there is nothing to write; give --output, --npz, --latents, --decoded or --dataset")
    }
    guard dataset == nil || (paths.isEmpty && geneval == nil && noise == nil) else {
      throw ValidationError("--dataset writes latents and captions alone; give no other output")
    }
    if geneval != nil {
      guard let output, paths.count == 1, noise == nil, !output.lowercased().hasSuffix(".png")
      else {
        throw ValidationError("--geneval needs --output FOLDER and no other output")
      }
      guard prompts.prompt.isEmpty, prompts.prompts == nil, prompts.captions == nil else {
        throw ValidationError("--geneval brings the prompts; give no others")
      }
    } else if let output, !output.lowercased().hasSuffix(".png") {
      throw ValidationError("--output is \(output), but images are written as PNG; end it in .png")
    }
    guard Set(paths).count == paths.count else {
      throw ValidationError("two options name the same file to write; give different ones")
    }
    try require("--count", count, in: 1...100_000)
    try require("--columns", columns, in: 1...1000)
    guard launcher == nil || engine.map({ $0 != Engine.native }) ?? false else {
      throw ValidationError("--launcher starts the ranks of another engine; name it by --engine")
    }
  }

  func run() throws {
    if geneval == nil { for path in destinations.paths { try AtomicFile.requireDestination(path) } }
    let noise = try noise.map { try StartNoise(path: $0) }
    let count = count ?? noise?.count
    let files = try ModelFiles(source.name)
    let sampler = try sampling.latentSampler(for: files.model.shape)
    if let engine, engine != Engine.native {
      return try draw(by: Engine.named(engine).launched(by: launcherWords), files, sampler)
    }
    if let geneval {
      return try GenEvalFolder(metadata: geneval, images: count ?? 4).write(
        to: output ?? "", tiling: AutoencoderKL.Tiling(mode: tiling)
      ) { texts, images in
        try textDrawing(files, texts, count: nil, repeats: images, sampler)
      }
    }
    let drawing =
      files.model.shape.family.condition == .captions
      ? try textDrawing(files, prompts.texts(), count: count, repeats: 1, sampler)
      : try classDrawing(files, count, sampler)
    if let dataset {
      let identity = try [
        files.contentHash(), prompts.texts().joined(separator: "\n"), "\(sampler)",
        source.graft.plan ?? "", source.graft.weights ?? "",
      ].joined(separator: "\n")
      return try drawing.writeDataset(
        to: dataset, texts: prompts.texts(),
        identity: ContentHash.sha256(Data(identity.utf8)))
    }
    try drawing.write(
      to: destinations, noise: try noise?.rows(drawing.count, of: drawing.latentShape),
      tiling: AutoencoderKL.Tiling(mode: tiling), columns: columns)
    if let npz { try describe(npz, files.model.weights, sampler, drawing.count) }
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
  private func describe(
    _ npz: String, _ weights: ModelWeights, _ sampler: LatentSampler, _ count: Int
  ) throws {
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

  private var launcherWords: [String]? { launcher?.split(separator: " ").map(String.init) }

  /// Lets another engine draw, over its ranks.
  ///
  /// - Throws: `FileError` for what it cannot do, before anything is drawn.
  private func draw(by engine: Engine, _ files: ModelFiles, _ sampler: LatentSampler) throws {
    let native = [
      ("--output", output), ("--decoded", decoded), ("--noise", noise), ("--dataset", dataset),
      ("--geneval", geneval), ("--plan", source.graft.plan), ("--lora", source.graft.lora.first),
      ("--prompt", prompts.prompt.first), ("--prompts", prompts.prompts),
    ].first { $0.1 != nil }?.0
    let drawing = EngineDrawing(engine: engine, files: files, sampler: sampler)
    if let reason = drawing.refusal ?? native.map({ "\($0) is done by the native engine alone" }) {
      throw FileError("the engine \(engine.name) cannot do it: \(reason); leave out --engine")
    }
    try drawing.draw(
      count: count ?? 40, classes: classes, npz: npz, latents: latents,
      precision: precision.working,
      autoencoder: prompts.autoencoder, captions: prompts.captions)
    if let npz { try describe(npz, files.model.weights, sampler, count ?? 40) }
    for path in destinations.paths { print("\(path): \(count ?? 40) images") }
  }

  /// Makes the drawing of a text-conditional model.
  private func textDrawing(
    _ files: ModelFiles, _ texts: [String], count: Int?, repeats: Int, _ sampler: LatentSampler
  ) throws -> Drawing {
    guard classes == nil else {
      throw ValidationError(
        "--classes belongs to a class-conditional model, and this one is a"
          + " \(files.model.shape.family.title)")
    }
    return try prompts.drawing(
      files, texts, count: count, repeats: repeats, sampler: sampler, precision: precision.working,
      needsImages: destinations.needImages
    ) { try source.graft.load(files, forInference: precision.working) }
  }

  /// Makes the drawing of a class-conditional model.
  private func classDrawing(
    _ files: ModelFiles, _ count: Int?, _ sampler: LatentSampler
  ) throws -> Drawing {
    try prompts.requireNone(files.model.shape.family)
    guard dataset == nil, geneval == nil else {
      throw ValidationError(
        "\(dataset == nil ? "--geneval" : "--dataset") needs prompts, and this model is a"
          + " \(files.model.shape.family.title)")
    }
    let network = try source.graft.load(files, forInference: precision.working)
    let config = network.shape
    let chosen = try classes.map { try Self.parse($0, config.numClasses) }
    let labels = chosen ?? Array(0..<config.numClasses)
    let drawsPixels = try prompts.autoencoder == nil && files.drawsPixels
    return Drawing(
      count: count ?? 40, columns: labels.count, batch: 20,
      latentShape: [config.inChannels, config.inputSize, config.inputSize],
      autoencoder: destinations.needImages && !drawsPixels
        ? try files.autoencoder(precision.working, path: prompts.autoencoder) : nil,
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
