import ArgumentParser
import Datasets
import Files
import Foundation
import Models
import Nn
import TensorCore
import Training

/// `espalier pretrain`: trains a DiT from scratch.
struct PretrainCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "pretrain",
    abstract: "Train a DiT from scratch on the procedural images; resumes from its checkpoint.",
    discussion: "Settings of the recipe:\n\n\(SettingsTables.recipeHelp)")

  @Argument(help: "The recipe, a JSON file (see Assets/demo/pretrain.json).")
  var recipe: String

  @Option(help: "Directory for the latent cache, checkpoints and the model.")
  var output: String

  @Flag(help: "Print progress as JSON lines on standard output.")
  var json = false

  @Option(help: "Stop after this many minutes; the run resumes later.")
  var minutes: Double?

  func validate() throws {
    guard minutes.map({ $0 > 0 && $0 <= 50_000_000 }) ?? true else {
      throw ValidationError("--minutes is \(minutes ?? 0); give more than 0, to 50000000")
    }
  }

  func run() throws {
    let config = try PretrainingConfig.load(path: recipe)
    let base = URL(fileURLWithPath: recipe).deletingLastPathComponent()
    let autoencoderPath = base.appending(path: config.autoencoder).path
    let autoencoder = try AutoencoderKL(path: autoencoderPath)
    let hash = try ContentHash.sha256(path: autoencoderPath)
    try AtomicFile.makeDirectory(output)
    let console = ProgressLine()
    let dataset = try LatentDataset.encoding(
      ShapeSource(seed: config.data.seed), count: config.data.count, autoencoder: autoencoder,
      cache: output + "/latents.safetensors", identity: "autoencoder \(hash)"
    ) { done in
      console.update("encoding \(done)/\(config.data.count)")
    }
    let training = try Pretraining(
      config: config, dataset: dataset, directory: output,
      initialModel: config.initialModel.map { base.appending(path: $0).path },
      modelMetadata: try DiTFile.metadata(
        config: config.model, classNames: ShapeSource.classNames, name: config.name))
    let deadline = minutes.map { Date().addingTimeInterval($0 * 60) }
    let encoder = JSONEncoder()
    encoder.outputFormatting = .sortedKeys
    try training.run(
      shouldStop: { deadline.map { Date() >= $0 } ?? false },
      report: { progress in
        if json, let line = try? encoder.encode(progress) {
          print(json: String(decoding: line, as: UTF8.self))
        }
        console.update(
          String(
            format: "step %d/%d  grid %d  loss %.4f  mse %.4f  grad %.2f  lr %.2e  %.1f samples/s",
            progress.step, progress.total, progress.grid, progress.loss, progress.mse,
            progress.gradientNorm, progress.rate, progress.samplesPerSecond))
      })
    console.finish()
  }
}
