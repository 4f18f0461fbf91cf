import Autograd
import Datasets
import Models
import Nn
import Operators
import Plans
import TensorCore

/// A small DiT with open gates, its latents and a plan for it.
@MainActor
package enum TinyModel {
  package static let config = {
    OperatorRegistry.fillCatalog()
    return ModelShape(
      depth: 2, hiddenSize: 24, numHeads: 3, patchSize: 1, inputSize: 4, inChannels: 2,
      numClasses: 3)
  }()

  /// Random numbers, so that no gate is closed.
  package struct Noise: WeightSource {
    package init() {}

    package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 9, name)
      if case .table = initializer { return initializer.tensor(shape, random) }
      return Initializer.normal(0.2).tensor(shape, random)
    }
  }

  package static func make() throws -> DiT { try DiT(config: config, weights: Noise()) }

  /// A model of the family that a sampler is for.
  package static func make(_ prediction: ModelFamily.Prediction) throws -> DiT {
    var config = config
    config.family = prediction == .velocity ? .sit : .dit
    return try DiT(config: config, weights: Noise())
  }

  package static func latents(seed: UInt64, count: Int = 40) -> LatentDataset {
    LatentDataset(
      latents: RandomStream(seed: seed, "latents").normal([count, 2, 4, 4]),
      labels: (0..<count).map { $0 % 3 })
  }

  package static var reference: ModelReference {
    ModelReference(
      path: "tiny.safetensors", shape: config, contentHash: "0")
  }

  package static func plan(_ edits: [SlotID: OperatorSpec]) -> GraftPlan {
    var plan = GraftPlan(named: "tiny", model: reference)
    plan.edits = edits
    plan.seed = 11
    plan.stage1.batchSize = 20
    plan.stage1.steps = 40
    plan.stage1.warmupSteps = 4
    plan.stage1.heldOutSamples = 24
    return plan
  }
}
