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

  @Argument(help: modelHelp)
  var model = "demo"
  @Option(help: "The PNG file to write.") var output: String?
  @Option(help: "The .npz file to write: arr_0, uint8 (count, height, width, 3), for evaluators.")
  var npz: String?
  @Option(help: "Classes, separated by commas (default: all in turn).") var classes: String?
  @Option(help: "Number of images; a batch is streamed, so it may be any size.") var count = 40
  @Option(help: "Images a row (default: one per class).") var columns: Int?
  @Option(help: "Graft this plan onto the model, with fresh weights or those of --weights.")
  var plan: String?
  @Option(help: "Operators or checkpoint of a run for --plan.") var weights: String?
  @OptionGroup var sampling: SamplerOptions
  @OptionGroup var format: OutputOptions

  func validate() throws {
    guard output != nil || npz != nil else {
      throw ValidationError("there is nothing to write; give --output, --npz or both")
    }
    guard output == nil || output != npz else {
      throw ValidationError("--output and --npz name the same file; give two")
    }
    guard (1...100_000).contains(count) else {
      throw ValidationError("--count is \(count); give 1 to 100000")
    }
    guard columns.map({ (1...1000).contains($0) }) ?? true else {
      throw ValidationError("--columns is \(columns ?? 0); give 1 to 1000")
    }
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  func run() throws {
    for path in [output, npz].compactMap({ $0 }) { try AtomicFile.requireDestination(path) }
    let files = try ModelFiles(model)
    let network = try GraftedModel.load(files, plan: plan, weights: weights)
    let numClasses = network.config.numClasses
    let chosen = try classes.map { try Self.parse($0, numClasses) } ?? Array(0..<numClasses)
    let autoencoder = try files.autoencoder()
    let labels = (0..<count).map { chosen[$0 % chosen.count] }
    // The grid needs all images at once; a batch alone keeps none.
    var kept: [RGBImage] = []
    func draw(_ batch: ImageBatchWriter?) throws {
      try self.draw(network, autoencoder, labels) { images throws(CheckpointError) in
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
    if let output {
      try PNG.write(RGBImage.grid(kept, columns: columns ?? chosen.count, gap: 2), to: output)
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
    _ network: DiT, _ autoencoder: AutoencoderKL, _ labels: [Int],
    _ take: ([RGBImage]) throws -> Void
  ) throws {
    let console = ProgressLine()
    for first in stride(from: 0, to: count, by: 20) {
      let range = first..<min(count, first + 20)
      let latents = try sampling.latentSampler.sample(
        network, labels: Array(labels[range]), first: first,
        onStep: { step, steps, _ in
          console.update(
            "images \(first)-\(range.upperBound - 1) of \(count), step \(step)/\(steps)")
        })
      try take(autoencoder.rgbImages(ofScaled: latents))
    }
    console.finish()
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

/// Loads what commands sample and evaluate.
enum GraftedModel {
  /// The model of a file; with a plan, that plan's graft of it.
  static func load(_ files: ModelFiles, plan: String?, weights: String?) throws -> DiT {
    let teacher = try files.open().load()
    guard let plan else { return teacher }
    let loaded = try GraftPlan.load(path: plan, for: files)
    let graft = try Graft(plan: loaded, teacher: teacher, checkpoints: weights.map { [$0] } ?? [])
    if let weights, let slot = graft.freshSlots.first {
      throw CheckpointError(
        "\(weights): holds no trained operator of slot \(slot) as \(plan) has it; "
          + "give the checkpoint of a run of this plan, or leave out --weights for fresh ones")
    }
    return graft.model
  }
}
