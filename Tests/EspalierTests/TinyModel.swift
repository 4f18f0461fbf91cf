import Assets
import Autograd
import Checkpoints
import Datasets
import Foundation
import Models
import Nn
import Plans
import TensorCore
import Testing

/// Random numbers even where a fresh model starts with zeros, so that every part matters.
private struct RandomWeights: WeightSource {
  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    var drawn = initializer
    if case .zeros = initializer { drawn = .normal(0.05) }
    return FreshWeights(seed: 1).tensor(name, shape, drawn)
  }
}

extension Scratch {
  /// Writes a DiT of two blocks on the shipped autoencoder's latents, with autoencoder and judge
  /// beside it, and gives its file name.
  func tinyModel(
    _ name: String = "model.safetensors", classNames: [String] = ShapeSource.classNames,
    learnSigma: Bool = true, hiddenSize: Int = 32
  ) throws -> String {
    let config = ModelShape(
      depth: 2, hiddenSize: hiddenSize, numHeads: 2, patchSize: 4, inputSize: 16,
      numClasses: classNames.count, learnSigma: learnSigma)
    let model = try DiT(config: config, weights: RandomWeights())
    try SafetensorsWriter.write(
      model.parameters.map { .init(name: $0.name, shape: $0.value.shape, floats: $0.value.values) },
      metadata: DiTFile.metadata(config: config, classNames: classNames, name: "tiny"),
      to: "\(path)/\(name)")
    for companion in ["autoencoder.safetensors", "judge.safetensors"] where !exists(companion) {
      try FileManager.default.createSymbolicLink(
        atPath: "\(path)/\(companion)",
        withDestinationPath: try #require(DemoAssets.directory).appending(path: companion).path)
    }
    return name
  }

  /// Writes a small data set of latents for the tiny model, which need no encoding, and names it.
  func tinyLatents(
    count: Int = 40, _ value: (Int) -> Float = { Float($0 % 17) / 8 - 1 }
  ) throws -> DataSettings {
    try FileManager.default.createDirectory(
      atPath: "\(path)/data", withIntermediateDirectories: true)
    try SafetensorsWriter.write(
      [
        .init(
          name: "latents", shape: [count, 4, 16, 16],
          floats: (0..<(count * 1024)).map(value)),
        .init(name: "labels", shape: [count], floats: (0..<count).map { Float($0 % 10) }),
      ], metadata: [:], to: "\(path)/data/latents.safetensors")
    return DataSettings(path: "\(path)/data")
  }

  /// Writes `plan.json` for the tiny model: Hyena-X in block 1, a narrow MLP in block 0; both stages of
  /// the same length.
  func tinyPlan(
    steps: Int = 3, batch: Int = 2, checkpointEvery: Int = 5,
    _ change: (inout GraftPlan) -> Void = { _ in }
  ) throws {
    let model = try tinyModel()
    var plan = GraftPlan(named: "tiny", model: try ModelFiles("\(path)/\(model)").reference())
    plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec(
      "hyena_x", ["short_filter_order": 4])
    plan.edits[SlotID(block: 0, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 2])
    plan.stage1.steps = steps
    plan.stage1.batchSize = batch
    plan.stage1.warmupSteps = 1
    plan.stage1.heldOutSamples = 4
    plan.stage1.heldOutEvery = 50
    plan.stage1.checkpointEvery = checkpointEvery
    plan.stage2.steps = steps
    plan.stage2.batchSize = batch
    plan.stage2.warmupSteps = 1
    plan.stage2.heldOutSamples = 4
    plan.stage2.heldOutEvery = 50
    plan.stage2.checkpointEvery = checkpointEvery
    change(&plan)
    try plan.save(to: "\(path)/plan.json")
  }
}
