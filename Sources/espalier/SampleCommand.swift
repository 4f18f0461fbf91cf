import ArgumentParser
import Checkpoints
import Foundation
import Grafting
import Models
import Plans

/// `espalier sample`: images of a model as a PNG grid.
struct SampleCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sample",
    abstract: "Draw images of a model, pretrained or grafted, as a PNG grid or a batch (.npz)."
  )

  @OptionGroup var source: ModelOptions
  @Option(help: "The PNG file to write.") var output: String?
  @Option(help: "The .npz file to write: arr_0, uint8 (count, height, width, 3), for evaluators.")
  var npz: String?
  @Option(help: "Classes, separated by commas (default: all in turn).") var classes: String?
  @Option(
    help: "Number of images; a batch is streamed (default: 40; for a PixArt model one per caption)."
  )
  var count: Int?
  @Option(help: "Images a row (default: one per class).") var columns: Int?
  @Option(help: "Decode large images piece by piece: on, off, or auto where memory asks for it.")
  var tiling = AutoencoderKL.Tiling.Mode.auto
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var captions: CaptionOptions
  @OptionGroup var format: OutputOptions

  func validate() throws {
    guard output != nil || npz != nil else {
      throw ValidationError("there is nothing to write; give --output, --npz or both")
    }
    guard output == nil || output != npz else {
      throw ValidationError("--output and --npz name the same file; give two")
    }
    guard count.map({ (1...100_000).contains($0) }) ?? true else {
      throw ValidationError("--count is \(count ?? 0); give 1 to 100000")
    }
    guard columns.map({ (1...1000).contains($0) }) ?? true else {
      throw ValidationError("--columns is \(columns ?? 0); give 1 to 1000")
    }
  }

  func run() throws {
    for path in [output, npz].compactMap({ $0 }) { try AtomicFile.requireDestination(path) }
    if PixArtFile.isPixArt(source.model) { try drawTextImages() } else { try drawClassImages() }
  }

  /// Images of a text-conditional model.
  private func drawTextImages() throws {
    guard source.plan == nil, classes == nil else {
      throw ValidationError(
        "\(source.plan == nil ? "--classes" : "--plan") belongs to a class-conditional model,"
          + " not to a PixArt model")
    }
    let images = try captions.images(
      try PixArtFiles(source.model), count: count,
      sampler: try sampling.latentSampler(.pixArtDefaults),
      tiling: AutoencoderKL.Tiling(mode: tiling))
    if let npz, let first = images.first {
      try ImageBatchWriter.write(
        to: npz, count: images.count, width: first.width, height: first.height
      ) { batch in
        for image in images { try batch.add(image) }
      }
    }
    try finish(images, columns: Int(Double(images.count).squareRoot().rounded(.up)), images.count)
  }

  /// Images of a class-conditional model.
  private func drawClassImages() throws {
    try captions.requireNone()
    let files = try ModelFiles(source.model)
    let network = try source.load(files)
    let numClasses = network.config.numClasses
    let chosen = try classes.map { try Self.parse($0, numClasses) } ?? Array(0..<numClasses)
    let autoencoder = try files.autoencoder()
    let sampler = try sampling.latentSampler()
    let count = count ?? 40
    let labels = (0..<count).map { chosen[$0 % chosen.count] }
    // The grid needs all images at once; a batch alone keeps none.
    var kept: [RGBImage] = []
    func draw(_ batch: ImageBatchWriter?) throws {
      try self.draw(network, autoencoder, sampler, labels) { images throws(CheckpointError) in
        if output != nil { kept += images }
        if let batch { for image in images { try batch.add(image) } }
      }
    }
    if let npz {
      let side = network.config.inputSize * autoencoder.config.spatialFactor
      try ImageBatchWriter.write(to: npz, count: count, width: side, height: side) { try draw($0) }
    } else {
      try draw(nil)
    }
    try finish(kept, columns: chosen.count, count)
  }

  /// Writes the grid and says what was written.
  private func finish(_ images: [RGBImage], columns: Int, _ count: Int) throws {
    if let output {
      try PNG.write(RGBImage.grid(images, columns: self.columns ?? columns, gap: 2), to: output)
    }
    if format.json {
      var report = ["images": String(count)]
      report["output"] = output
      report["npz"] = npz
      try format.printJSON(report)
    } else {
      for path in [output, npz].compactMap({ $0 }) { print("\(path): \(count) images") }
    }
  }

  /// Samples and decodes some images at a time.
  private func draw(
    _ network: DiT, _ autoencoder: AutoencoderKL, _ sampler: LatentSampler, _ labels: [Int],
    _ take: ([RGBImage]) throws -> Void
  ) throws {
    let console = ProgressLine()
    defer { console.finish() }
    let count = labels.count
    for first in stride(from: 0, to: count, by: 20) {
      let range = first..<min(count, first + 20)
      let latents = try sampler.sample(
        network, labels: Array(labels[range]), first: first,
        onStep: { step, steps, _ in
          console.update(
            "images \(first)-\(range.upperBound - 1) of \(count), step \(step)/\(steps)")
        })
      try take(
        autoencoder.rgbImages(ofScaled: latents, tiling: AutoencoderKL.Tiling(mode: tiling)))
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

extension AutoencoderKL.Tiling.Mode: ExpressibleByArgument {}
