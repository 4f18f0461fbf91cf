import Foundation
import Plans
import Sampling

/// The recipe of `espalier pretrain`, a JSON file.
package struct PretrainingConfig: Codable, Equatable, Sendable {
  /// Where the latents come from.
  package struct Data: Codable, Equatable, Sendable {
    /// Seed of the procedural source.
    package var seed: UInt64
    /// Number of distinct images.
    package var count: Int
  }

  /// A stretch of training on one grid; early phases on coarser latents learn what is where cheaply.
  package struct Phase: Codable, Equatable, Sendable {
    /// Side of the latent grid; smaller than `inputSize` means averaged latents.
    package var grid: Int
    package var steps: Int
    package var batch: Int
    /// Rows per forward pass; gradients of the parts add up.
    package var microBatch: Int
    /// Learning rates at the phase's first and last step; a cosine leads from one to the other.
    package var learningRate, finalLearningRate: Double
    package var warmupSteps: Int
  }

  /// What steps the weights.
  package enum OptimizerName: String, Codable, Sendable {
    case adamw
    /// Muon for the matrices of attention and MLP, AdamW for everything else.
    case muon
  }

  package var name: String
  /// Size and shape of the network.
  package var model: ModelShape
  /// Path of the autoencoder, relative to the recipe.
  package var autoencoder: String
  package var data: Data
  package var phases: [Phase]
  package var clipNorm: Float
  package var emaDecay: Float
  package var labelDropout: Double
  /// Standard deviation of fresh label and timestep embeddings.
  package var embedderStd: Float
  package var seed: UInt64
  package var checkpointEvery: Int
  /// A model file to start from instead of fresh weights, relative to the recipe.
  package var initialModel: String?
  /// The optimizer; AdamW if left out.
  package var optimizer: OptimizerName?
  /// Relative density of the training timesteps as knots [timestep, weight], linear in between;
  /// uniform if left out.
  package var timestepDensity: [[Double]]?
  /// Relative frequency of every class among the training samples; equal if left out.
  package var classWeights: [Double]?

  /// Reads a recipe.
  ///
  /// - Throws: `PretrainingError` naming the file and the key that is wrong.
  package static func load(path: String) throws -> PretrainingConfig {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    guard let data = FileManager.default.contents(atPath: path) else {
      throw PretrainingError(
        "\(path): cannot be read; give the path of a pretraining recipe (JSON)")
    }
    let config: PretrainingConfig
    do {
      config = try decoder.decode(PretrainingConfig.self, from: data)
    } catch let error as DecodingError {
      throw PretrainingError("\(path): \(error.sentence)")
    }
    try config.validate(path)
    return config
  }

  private func validate(_ path: String) throws {
    func check(_ condition: Bool, _ text: String) throws {
      if !condition { throw PretrainingError("\(path): \(text)") }
    }
    try check(!phases.isEmpty, "key 'phases' is empty; give at least one phase")
    try check(data.count > 0, "key 'data.count' is \(data.count); give a positive number")
    do throws(ModelShape.Fault) {
      try model.validate()
    } catch {
      try check(false, "key 'model.\(error.key)': \(error.message); correct it")
    }
    if let knots = timestepDensity, DiscreteDistribution(timestepKnots: knots) == nil {
      try check(
        false,
        "key 'timestep_density' must be a list of [timestep, weight] with rising timesteps from 0 to "
          + "999 and weights of at least 0, one of them positive")
    }
    if let weights = classWeights {
      try check(
        weights.count == model.numClasses && weights.allSatisfy { $0 > 0 && $0.isFinite },
        "key 'class_weights' must hold \(model.numClasses) positive numbers, one per class")
    }
    for (index, phase) in phases.enumerated() {
      try check(
        phase.grid > 0 && model.inputSize % phase.grid == 0 && phase.grid % model.patchSize == 0,
        "key 'phases[\(index)].grid' is \(phase.grid); it must divide input_size \(model.inputSize) "
          + "and be a multiple of patch_size")
      try check(
        phase.batch > 0 && phase.microBatch > 0 && phase.steps >= 0,
        "key 'phases[\(index)]': steps, batch and micro_batch must be positive")
    }
  }

  /// Steps of all phases together.
  package var totalSteps: Int { phases.reduce(0) { $0 + $1.steps } }

  /// The phase of a global step, and the learning rate there.
  package func phase(at step: Int) -> (index: Int, rate: Double) {
    var start = 0
    for (index, phase) in phases.enumerated() {
      if step < start + phase.steps || index == phases.count - 1 {
        let local = step - start
        let warm =
          local < phase.warmupSteps ? Double(local + 1) / Double(phase.warmupSteps) : 1
        let progress = min(1, Double(local) / Double(max(1, phase.steps)))
        let rate =
          phase.finalLearningRate + (phase.learningRate - phase.finalLearningRate) * 0.5
          * (1 + cos(.pi * progress))
        return (index, rate * warm)
      }
      start += phase.steps
    }
    return (0, 0)
  }
}

/// What is wrong with a recipe or a training checkpoint, in one sentence.
package struct PretrainingError: Error, CustomStringConvertible {
  package let description: String

  package init(_ description: String) { self.description = description }
}

extension DecodingError {
  /// The key and what was wrong with it.
  fileprivate var sentence: String {
    func name(_ path: [any CodingKey]) -> String {
      path.map(\.stringValue).joined(separator: ".")
    }
    switch self {
    case .keyNotFound(let key, let context):
      return "key '\(name(context.codingPath + [key]))' is missing; add it"
    case .typeMismatch(let type, let context), .valueNotFound(let type, let context):
      return "key '\(name(context.codingPath))' must be a \(type)"
    case .dataCorrupted(let context) where context.codingPath.isEmpty:
      return "not valid JSON; check its braces, commas and quotes"
    case .dataCorrupted(let context):
      return "key '\(name(context.codingPath))': \(context.debugDescription); correct it"
    @unknown default: return "\(self)"
    }
  }
}
