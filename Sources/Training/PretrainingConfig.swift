import Foundation
import Plans

/// Section `data` of a recipe: the source of the latents.
package struct PretrainingDataSchema: SettingsSchema {
  package static let table = SettingsTable(PretrainingDataSchema())

  package let seed = Setting("seed", UInt64(2), "seed of the procedural images", .required)
  package let count = Setting("count", 40_000, in: 1...1e7, "distinct images", .required)
}

/// Element of `phases`: a number of steps on one latent grid; coarser grids make early phases
/// cheaper.
package struct PretrainingPhaseSchema: SettingsSchema {
  package static let table = SettingsTable(PretrainingPhaseSchema())

  package let grid = Setting(
    "grid", 16, in: 1...4096,
    "edge of the latents, a divisor of `input_size`; a smaller one means averaged latents",
    .required)
  package let steps = Setting("steps", 7500, in: 1...1e7, "optimizer steps", .required)
  package let batch = Setting("batch", 32, in: 1...65536, "samples in each step", .required)
  package let microBatch = Setting(
    "micro_batch", 2, in: 1...65536,
    "samples in each forward pass; the gradients of the parts of a batch add up", .required)
  package let learningRate = Setting(
    "learning_rate", 1e-3, in: 1e-12...1, "learning rate at the first step after the warm-up",
    .required)
  package let finalLearningRate = Setting(
    "final_learning_rate", 1e-5, in: 0...1,
    "learning rate at the last step; a cosine leads from one to the other", .required)
  package let warmupSteps = Setting(
    "warmup_steps", 100, in: 0...1e7, "steps over which the rate rises linearly from 0", .required)
}

/// The recipe of `espalier pretrain`.
package struct PretrainingSchema: SettingsSchema {
  package static let table = SettingsTable(PretrainingSchema())

  package let name = Setting("name", "demo", "the model's name", .required)
  package let autoencoder = Setting(
    "autoencoder", "autoencoder.safetensors", "the autoencoder's file, from the recipe's folder",
    .required, .path)
  package let initialModel = Setting(
    "initial_model", String?.none,
    "a model file to start from instead of fresh weights, from the recipe's folder", .path)
  package let model = Setting("model", ModelShape(), "the network", .required)
  package let data = Setting("data", Settings<PretrainingDataSchema>(), "the images", .required)
  package let phases = Setting(
    "phases", [Settings<PretrainingPhaseSchema>](), "the stretches of the training", .required,
    refusing: { $0.isEmpty ? "expected at least one phase, found none; add one" : nil })
  package let optimizer = Setting(
    "optimizer", OptimizerName.adamw,
    "`muon` steps the matrices of attention and MLP by Muon, the rest by AdamW")
  package let clipNorm = Setting(
    "clip_norm", 1.0, in: 1e-9...1e9,
    "global gradient norm above which gradients are scaled down", .required)
  package let emaDecay = Setting(
    "ema_decay", 0.999, in: 0...1, "decay of the moving average of the weights", .required)
  package let labelDropout = Setting(
    "label_dropout", 0.1, in: 0...1, "fraction of labels replaced by the null class", .required)
  package let embedderStd = Setting(
    "embedder_std", 0.1, in: 0...1000,
    "standard deviation of fresh label and timestep embeddings", .required)
  package let seed = Setting(
    "seed", UInt64(0), "seed of the fresh weights and of the samples", .required)
  package let checkpointEvery = Setting(
    "checkpoint_every", 500, in: 1...1e7, "steps between two checkpoints", .required)
  package let timestepDensity = TrainingRows.timestepDensity
  package let classWeights = Setting(
    "class_weights", [Double]?.none, in: 1e-6...1e6,
    "relative frequency of every class among the training samples; without it equal")

  /// Checks that the grids fit the model, that every class has a weight, and that the training fits
  /// into memory.
  package static func check(_ recipe: PretrainingConfig, at key: String) throws(PlanError) {
    let model = recipe.model
    guard model.family == .dit, model.hasNullClass else {
      throw PlanError(
        key: "model.\(model.family == .dit ? "has_null_class" : "family")",
        "expected a class-conditional model with a null class; leave the key out")
    }
    for (index, phase) in recipe.phases.enumerated() {
      guard model.inputSize.isMultiple(of: phase.grid), phase.grid.isMultiple(of: model.patchSize)
      else {
        throw PlanError(
          key: "phases[\(index)].grid",
          "expected a divisor of input_size \(model.inputSize) and a multiple of patch_size"
            + " \(model.patchSize), found \(phase.grid); correct the number")
      }
    }
    if let weights = recipe.classWeights, weights.count != model.numClasses {
      throw PlanError(
        key: "class_weights",
        "expected \(model.numClasses) weights, one for each class, found \(weights.count); correct the"
          + " list")
    }
    try checkMemory(recipe)
  }

  /// Throws if memory is insufficient for weights with gradients, average and moments, activations
  /// of a forward pass with their gradients, the latents, and a batch.
  private static func checkMemory(_ recipe: PretrainingConfig) throws(PlanError) {
    let shape = recipe.model
    let cost = GraftPlan(
      named: "", model: ModelReference(path: "", shape: shape, contentHash: "")
    ).cost().original
    let weights = 4 * Double(cost.parameters)
    let latent = 4 * Double(shape.inChannels * shape.inputSize * shape.inputSize)
    let rows = recipe.phases.map { Double(min($0.batch, $0.microBatch)) }.max() ?? 0
    let batch = recipe.phases.map { Double($0.batch) }.max() ?? 0
    let available = Double(ProcessInfo.processInfo.physicalMemory)
    for (key, what, bytes) in [
      ("model", "the model's weights with what trains them", 5 * weights),
      ("phases", "a forward pass and its gradients", 2 * rows * (cost.bytes - weights)),
      ("phases", "a batch", 3 * batch * latent),
      ("data.count", "the latents", Double(recipe.data.count) * latent),
    ] where bytes > available {
      throw PlanError(
        key: key,
        "\(what) would take"
          + String(format: " %.3g GB, this machine has %.3g GB;", bytes / 1e9, available / 1e9)
          + " lower the numbers")
    }
  }
}

/// The recipe of `espalier pretrain`, a JSON file.
package typealias PretrainingConfig = Settings<PretrainingSchema>

extension Settings where Schema == PretrainingSchema {
  /// Reads and validates a recipe.
  ///
  /// - Throws: `PlanError` with file, line and key at fault.
  package static func load(path: String) throws(PlanError) -> PretrainingConfig {
    var reader = try SettingsReader(path: path)
    let recipe = try read(reader.root(), at: "", by: &reader)
    try reader.locating { () throws(PlanError) in try recipe.validate(at: "") }
    return recipe
  }

  /// Total number of steps of all phases.
  package var totalSteps: Int { self.phases.reduce(0) { $0 + $1.steps } }

  /// Returns the phase and the learning rate of a global step.
  package func phase(at step: Int) -> (index: Int, rate: Double) {
    let phases = self.phases
    var start = 0
    for (index, phase) in phases.enumerated() {
      if step < start + phase.steps || index == phases.count - 1 {
        let local = step - start
        let warm =
          local < phase.warmupSteps ? Double(local + 1) / Double(phase.warmupSteps) : 1
        let progress = min(1, Double(local) / Double(phase.steps))
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
