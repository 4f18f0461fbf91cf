import Autograd
import Checkpoints
import Datasets
import Files
import Foundation
import Models
import Nn
import Sampling
import TensorCore

/// Trains a DiT from scratch on a latent data set, with exact resuming from checkpoints.
package final class Pretraining {
  private let config: PretrainingConfig
  private let dataset: LatentDataset
  private let trainer: DiffusionTrainer
  private let directory: String
  private let modelMetadata: [String: String]
  private let samples, timesteps: DiscreteDistribution?
  private var pooled: [Int: LatentDataset] = [:]
  /// Step of the last checkpoint written by this object; nil if none.
  private var lastSaved: Int?
  /// Number of steps taken so far.
  package private(set) var step = 0

  /// One line of progress.
  package struct Progress: Codable, Sendable {
    package let step, total, grid: Int
    package let loss, mse, vb, gradientNorm, rate, samplesPerSecond: Double
  }

  /// Sets up a training, resuming from `directory` if it holds a checkpoint.
  ///
  /// - Parameters:
  ///   - config: The recipe.
  ///   - dataset: Normalised latents on the grid of the model.
  ///   - directory: Folder of `checkpoint.safetensors` and `model.safetensors`.
  ///   - initialModel: Model file with initial weights; nil draws new ones.
  ///   - modelMetadata: Metadata of the model file.
  /// - Throws: `FileError` for a checkpoint that does not match the recipe.
  package init(
    config: PretrainingConfig, dataset: LatentDataset, directory: String, initialModel: String?,
    modelMetadata: [String: String]
  ) throws {
    self.config = config
    self.dataset = dataset
    self.directory = directory
    self.modelMetadata = modelMetadata
    let weights: any WeightSource =
      try initialModel.map { FileWeights(try SafetensorsFile(path: $0)) }
      ?? FreshWeights(seed: config.seed)
    let model = try DiT(
      config: config.model, weights: weights,
      initialization: .init(embedderStd: Float(config.embedderStd)))
    trainer = DiffusionTrainer(
      model: model, process: try TrainingProcess(of: config.model.family),
      emaDecay: Float(config.emaDecay),
      makeOptimizer: config.optimizer == .muon ? { Muon($0) } : { AdamW($0) })
    timesteps = config.timestepDensity.flatMap(DiscreteDistribution.init(timestepKnots:))
    samples = config.classWeights.map { weights in
      DiscreteDistribution(weights: dataset.labels.map { weights[$0] })
    }
    if FileManager.default.fileExists(atPath: checkpointPath) { try resume() }
  }

  private var checkpointPath: String { directory + "/checkpoint.safetensors" }

  /// Trains to the last step of the recipe or until `shouldStop` returns true, then saves.
  package func run(shouldStop: () -> Bool, report: (Progress) -> Void) throws {
    let total = config.totalSteps
    var lastTime = Date()
    var (loss, mse, vb, norm, count, samples) = (0.0, 0.0, 0.0, 0.0, 0, 0)
    while step < total, !shouldStop() {
      let (index, rate) = config.phase(at: step)
      let phase = config.phases[index]
      let data = pooled[phase.grid] ?? dataset.pooled(to: phase.grid)
      pooled[phase.grid] = data
      let batch = data.batch(
        0..<phase.batch, seed: config.seed, name: "pretraining/\(step)", samples: self.samples,
        timesteps: timesteps, nullClass: config.model.nullClass, labelDropout: config.labelDropout)
      let decay = min(Float(config.emaDecay), Float(step + 1) / Float(step + 10))
      let result = trainer.step(
        batch, microBatch: phase.microBatch, rate: rate, clipNorm: Float(config.clipNorm),
        emaDecay: decay)
      step += 1
      guard result.loss.isFinite else {
        throw FileError(
          "step \(step): the loss is not a number; resume from \(checkpointPath) with a lower rate")
      }
      loss += result.loss
      mse += result.mse
      vb += result.vb
      norm += result.gradientNorm
      count += 1
      samples += phase.batch
      if step % 50 == 0 || step == total {
        let now = Date()
        let scale = 1 / Double(count)
        report(
          Progress(
            step: step, total: total, grid: phase.grid, loss: loss * scale, mse: mse * scale,
            vb: vb * scale, gradientNorm: norm * scale, rate: rate,
            samplesPerSecond: Double(samples) / now.timeIntervalSince(lastTime)))
        lastTime = now
        (loss, mse, vb, norm, count, samples) = (0, 0, 0, 0, 0, 0)
      }
      if step % config.checkpointEvery == 0 { try save() }
    }
    if lastSaved != step { try save() }
  }

  /// Writes the training state and the averaged model.
  package func save() throws {
    var metadata = trainer.checkpointMetadata
    metadata["espalier_pretraining"] = "1"
    metadata["step"] = String(step)
    metadata[RandomStream.metadataKey] = RandomStream.generator
    try MappedFile.requireUnchanged()
    try trainer.saveAveragedModel(
      to: directory + "/model.safetensors",
      metadata: modelMetadata.merging(["training_steps": String(step)]) { $1 })
    try SafetensorsWriter.write(trainer.checkpointItems(), metadata: metadata, to: checkpointPath)
    lastSaved = step
  }

  private func resume() throws {
    let file = try SafetensorsFile(path: checkpointPath)
    let steps = try file.count("step", in: 0...config.totalSteps)
    try file.requireGenerator()
    try trainer.restore(from: file, stepsUpTo: config.totalSteps)
    step = steps
  }
}
