import ArgumentParser
import Checkpoints
import Evaluation
import Files
import Foundation
import Jobs
import Models
import Plans
import Runs
import Sampling
import TensorCore
import TorchEngine

/// `espalier sample`: draws images and latents of a model.
struct SampleCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sample",
    abstract: "Draw images of a model, pretrained or grafted, as a PNG grid or as NumPy arrays.",
    discussion: """
      --npz alone is a run: it can be paused, cancelled and queued, goes on after a failure with \
      'espalier runs resume', and ends in the same bytes; FILE.json beside it says how it was drawn. \
      Other outputs are drawn at once. \
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
  @Option(help: "Classes, separated by commas (default: all).") var classes: String?
  @Option(
    help: .init(
      "Classes of the images: cyclic, in turn; random, drawn uniformly with the seed; or a file of integers, .npy or"
        + " arr_1 of an .npz.", valueName: "cyclic|random|file"))
  var labels = SampleRequest.Labels.cyclic.rawValue
  @Flag(help: "Also write the labels, arr_1 of --npz.") var withLabels = false
  @Option(help: "Images of a finished part of --npz (default: about a minute's work).")
  var chunk: Int?
  @Option(help: "Images drawn at once for --npz (default: 1 to 20 by the model's size).")
  var batch: Int?
  @Option(
    help: ArgumentHelp(
      "Number of images; they are streamed (default: as many as --noise has, else 40, for a PixArt"
        + " model one per caption)."))
  var count: Int?
  @Option(help: "Number of columns of the grid (default: one per class).") var columns: Int?
  @Option(help: "Decode large images piece by piece: on, off, or auto where memory asks for it.")
  var tiling = AutoencoderKL.Tiling.Mode.auto
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var options: LaunchOptions
  @OptionGroup var prompts: PromptOptions
  @Option(help: "The folder to write a data set of latents with the prompts' embeddings to.")
  var dataset: String?
  @Option(
    help: .init(
      "GenEval's evaluation_metadata.jsonl: draw --count images (default 4) of every prompt in it, into folders in"
        + " --output."))
  var geneval: String?
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
    try require("--count", count, in: SampleRequest.countRange)
    try require("--chunk", chunk, in: 1...1_000_000)
    try require("--batch", batch, in: 1...4096)
    let isPlain =
      chunk == nil && batch == nil && !withLabels
      && labels == SampleRequest.Labels.cyclic.rawValue
    guard !options.hasEngine || isPlain && options.isPlain else {
      throw ValidationError(
        "--chunk, --batch, --labels, --with-labels, --detach, --queue, --after, --timeout and --on-done belong to the"
          + " native engine; leave them or --engine out")
    }
    guard
      isRun || options.hasEngine || chunk == nil && batch == nil && !withLabels && options.isPlain
    else {
      throw ValidationError(
        "--chunk, --batch, --with-labels, --detach, --queue, --after, --timeout and --on-done belong to --npz without"
          + " other outputs and --noise")
    }
    try require("--columns", columns, in: 1...1000)
  }

  func run() throws {
    if geneval == nil { for path in destinations.paths { try AtomicFile.requireDestination(path) } }
    let noise = try noise.map { try StartNoise(path: $0) }
    let files = try ModelFiles(source.name)
    let sampler = try sampling.latentSampler(for: files.model.shape)
    if options.hasEngine, let engine = options.engine {
      return try draw(
        by: Engine.named(engine).launched(by: options.launcherWords), files, sampler)
    }
    if let geneval {
      let (benchmark, images) = (try GenEval(path: geneval), count ?? 4)
      let texts = benchmark.prompts.map(\.prompt)
      var request = try textRequest(files, texts, sampler, count: texts.count * images)
      request.prompts?.repeats = images
      let model = try self.model(files)
      return try benchmark.write(
        to: output ?? "", images: images, drawnWith: try provenance(request, of: model)
      ) { try self.drawing(request, of: model) }
    }
    var request = try self.request(files, sampler, count: count ?? noise?.count)
    let model = try self.model(files)
    request.model = model.source
    if isRun { return try launch(&request, of: model) }
    let drawing = try self.drawing(request, of: model)
    if let dataset {
      var entries = try provenance(request, of: model)
      entries["program"] = nil
      let identity = entries.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        .joined(separator: "\n")
      return try drawing.writeDataset(
        to: dataset, texts: prompts.texts(),
        identity: ContentHash.sha256(Data(identity.utf8)))
    }
    let console = ProgressLine()
    try drawing.write(
      to: destinations, noise: try noise?.rows(drawing.count, of: drawing.latentShape),
      columns: columns, progress: { console.update($0) })
    console.finish()
    if let npz {
      var entries = try provenance(request, of: model)
      entries["step_cache_reused"] = drawing.reuse.map { StepReuse.text($0.share) }
      try SetDescription.write(entries, beside: npz)
    }
    if format.json {
      var report = ["images": String(drawing.count)]
      report["step_cache"] = sampler.cache?.text
      report["step_cache_reused"] = drawing.reuse.map { StepReuse.text($0.share) }
      report["output"] = output
      report["npz"] = npz
      report["latents"] = latents
      report["decoded"] = decoded
      try format.printJSON(report)
    } else {
      for path in destinations.paths { print("\(path): \(drawing.count) images") }
      if let cache = sampler.cache, let reuse = drawing.reuse {
        print("step caching \(StepCache.Use(cache, reuse).text)")
      }
    }
  }

  /// The model with the autoencoder of the options.
  private func model(_ files: ModelFiles) throws -> SourceModel {
    let model = try source.graft.model(files)
    var own = model.source
    own.autoencoder = prompts.autoencoder.map { AtomicFile.absolute($0) }
    return SourceModel(files, own, plan: model.plan, checkpoints: model.checkpoints)
  }

  /// What the images of a request depend on, and the program.
  private func provenance(
    _ request: SampleRequest, of model: SourceModel
  ) throws -> [String: String] {
    try request.provenance(
      of: model, options.precision.working, program: "espalier \(espalierVersion)")
  }

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
    guard options.precision.chosen != .int8 else {
      throw ValidationError(
        "--precision int8: it belongs to the native engine; give fp32 or bf16, or leave out --engine"
      )
    }
    let precision = options.precision.working
    try drawing.draw(
      count: count ?? 40, classes: classes, npz: npz, latents: latents, precision: precision,
      autoencoder: prompts.autoencoder, captions: prompts.captions)
    if let npz {
      let request = try self.request(files, sampler, count: count ?? 40)
      var entries = try provenance(request, of: model(files))
      entries["engine"] = engine.name
      // Autocast rounds the operands of small layers as well.
      entries["precision"] =
        precision == .float32 ? precision.rawValue : "bf16 by PyTorch's autocast"
      entries["autoencoder_precision"] = nil
      try SetDescription.write(entries, beside: npz)
    }
    for path in destinations.paths { print("\(path): \(count ?? 40) images") }
  }

  /// Whether the images are drawn by a run: an archive alone, from noise of the seed.
  private var isRun: Bool { destinations.paths == [npz] && noise == nil }

  /// Starts the run of a set and follows it.
  private func launch(_ request: inout SampleRequest, of model: SourceModel) throws {
    let npz = AtomicFile.absolute(npz ?? "")
    request.output = npz
    if request.prompts == nil {
      _ = try SampleLabels.assign(request, numClasses: model.files.model.shape.numClasses)
    }
    if try !model.files.drawsPixels, request.model.autoencoder ?? model.files.autoencoderPath == nil
    {
      // Says what is missing before a run exists.
      _ = try model.files.autoencoder(.float32)
    }
    let hash = try model.files.contentHash()
    let plan =
      model.plan
      ?? GraftPlan(
        named: "set",
        model: ModelReference(
          path: model.source.path, shape: model.files.model.shape, contentHash: hash))
    request.divide(by: plan)
    guard batch == nil || request.prompts == nil else {
      throw ValidationError("--batch is for classes; prompts are drawn one by one")
    }
    if let batch { request.batch = batch }
    if let chunk { request.chunk = chunk }
    let run = try options.begin(
      .sample(request), named: AtomicFile.stem(of: npz), seed: request.sampler.seed,
      modelHash: hash,
      plan: model.plan, root: source.graft.runs.root)
    guard options.follows else {
      if format.json { return try format.printJSON(["run": run.path]) }
      return print(run.path)
    }
    try RunReport.follow(run, output: format, tellsDone: false)
    let said = SetDescription.read(beside: npz) ?? [:]
    if format.json {
      var report = ["images": "\(request.count)", "npz": self.npz ?? "", "run": run.path]
      for key in ["step_cache", "step_cache_reused"] { report[key] = said[key] }
      return try format.printJSON(report)
    }
    print("\(self.npz ?? ""): \(request.count) images")
    if let cache = said["step_cache"], let share = said["step_cache_reused"].flatMap(Double.init) {
      print("step caching \(cache), \(percent(share)) of evaluations reused")
    }
  }

  private func drawing(_ request: SampleRequest, of model: SourceModel) throws -> Drawing {
    let console = ProgressLine()
    defer { console.finish() }
    let labels =
      request.prompts == nil
      ? try SampleLabels.assign(request, numClasses: model.files.model.shape.numClasses) : []
    return try Drawing(
      request, of: model, labels: labels, precision: options.precision.working,
      needsImages: geneval != nil || destinations.needImages
    ) { done, count, layer in
      console.update("encoding prompts, \(done)/\(count), layer \(layer)")
    }
  }

  /// What the options ask for; its model is that of the files as they are.
  private func request(
    _ files: ModelFiles, _ sampler: LatentSampler, count: Int?
  ) throws -> SampleRequest {
    if files.model.shape.family.condition == .captions {
      return try textRequest(files, try prompts.texts(), sampler, count: count)
    }
    try prompts.requireNone(files.model.shape.family)
    guard dataset == nil, geneval == nil else {
      throw ValidationError(
        "\(dataset == nil ? "--geneval" : "--dataset") needs prompts, and this model is a"
          + " \(files.model.shape.family.title)")
    }
    var request = SampleRequest(
      model: ModelSource(path: files.name), sampler: sampler.settings, count: count ?? 40)
    request.tiling = tiling.rawValue
    request.classes = try classes.map { try Self.parse($0, files.model.shape.numClasses) }
    request.writesLabels = withLabels
    if let order = SampleRequest.Labels(rawValue: labels), order != .file {
      request.labels = order
    } else {
      let path = AtomicFile.absolute(labels)
      (request.labels, request.labelsPath) = (.file, path)
      request.labelsDigest = try ContentHash.sha256(path: path)
    }
    return request
  }

  private func textRequest(
    _ files: ModelFiles, _ texts: [String], _ sampler: LatentSampler, count: Int?
  ) throws -> SampleRequest {
    guard classes == nil, labels == SampleRequest.Labels.cyclic.rawValue else {
      throw ValidationError(
        "--classes and --labels belong to a class-conditional model, and this one is a"
          + " \(files.model.shape.family.title)")
    }
    let settings = try prompts.settings(files, texts)
    var request = SampleRequest(
      model: ModelSource(path: files.name), sampler: sampler.settings,
      count: try count ?? settings.promptCount(of: files), chunk: 1, batch: 1)
    (request.prompts, request.tiling, request.writesLabels) = (
      settings, tiling.rawValue, withLabels
    )
    return request
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

extension SampleRequest {
  /// FLOPs of a batch, beyond which a larger one gains nothing, and of a chunk, about a minute's work.
  private static let (batchFlops, chunkFlops) = (4e10, 6e12)
  /// Bytes of a chunk.
  private static let chunkBytes = 64 << 20

  /// Sets the images of a batch and of a chunk by the work of one image.
  fileprivate mutating func divide(by plan: GraftPlan) {
    let flops = max(1, plan.cost().edited.flops)
    let passes = Double(sampler.steps) * (sampler.guidance == 1 ? 1 : 2)
    let own = plan.model.shape.inputSize * ModelShape.pixelsPerLatent
    let bytes = 3 * (prompts?.height ?? own) * (prompts?.width ?? own)
    let most = max(1, min(1000, Self.chunkBytes / bytes))
    batch = prompts != nil ? 1 : max(1, min(20, Int(Self.batchFlops / flops)))
    chunk = max(1, min(most, Int(Self.chunkFlops / (flops * passes))) / batch) * batch
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
    guard !entry.dtype.isInteger else {
      throw FileError(
        "\(path): the noise is of type \(entry.dtype.rawValue), expected floating point; save the start noise itself"
      )
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
