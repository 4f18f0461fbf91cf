import Autograd
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("DiT")
struct DiTTests {
  init() { OperatorRegistry.fillCatalog() }

  private let config = ModelShape(
    depth: 2, hiddenSize: 24, numHeads: 3, patchSize: 2, inputSize: 6, inChannels: 2, numClasses: 5,
    mlpRatio: 3)

  /// All parameters N(0, 0.2^2), so that no gate is closed.
  private struct Noise: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 9, name)
      if case .table = initializer { return initializer.tensor(shape, random) }
      return Initializer.normal(0.2).tensor(shape, random)
    }
  }

  private func conditioning(_ rows: Int) -> Conditioning {
    Conditioning(
      timesteps: (0..<rows).map { Float($0 * 333) }, labels: (0..<rows).map { $0 % 6 })
  }

  @Test func parametersHaveTheOfficialNamesAndShapes() throws {
    let model = try DiT(config: config, weights: FreshWeights(seed: 1))
    var expected: [String: [Int]] = [
      "pos_embed": [1, 9, 24], "x_embedder.proj.weight": [24, 2, 2, 2],
      "x_embedder.proj.bias": [24], "t_embedder.mlp.0.weight": [24, 256],
      "t_embedder.mlp.0.bias": [24], "t_embedder.mlp.2.weight": [24, 24],
      "t_embedder.mlp.2.bias": [24], "y_embedder.embedding_table.weight": [6, 24],
      "final_layer.linear.weight": [16, 24], "final_layer.linear.bias": [16],
      "final_layer.adaLN_modulation.1.weight": [48, 24],
      "final_layer.adaLN_modulation.1.bias": [48],
    ]
    for block in 0..<2 {
      let prefix = "blocks.\(block)."
      expected[prefix + "attn.qkv.weight"] = [72, 24]
      expected[prefix + "attn.qkv.bias"] = [72]
      expected[prefix + "attn.proj.weight"] = [24, 24]
      expected[prefix + "attn.proj.bias"] = [24]
      expected[prefix + "mlp.fc1.weight"] = [72, 24]
      expected[prefix + "mlp.fc1.bias"] = [72]
      expected[prefix + "mlp.fc2.weight"] = [24, 72]
      expected[prefix + "mlp.fc2.bias"] = [24]
      expected[prefix + "adaLN_modulation.1.weight"] = [144, 24]
      expected[prefix + "adaLN_modulation.1.bias"] = [144]
    }
    let found = model.parameters.map { ($0.name, $0.value.shape) }
    #expect(found.count == expected.count)
    #expect(Dictionary(found, uniquingKeysWith: { first, _ in first }) == expected)
    #expect(model.parameters.filter(\.isFrozen).map(\.name) == ["pos_embed"])
  }

  @Test func aFreshModelPredictsZero() throws {
    // adaLN-Zero: gates, final modulation and final layer start at zero.
    let model = try DiT(config: config, weights: FreshWeights(seed: 1))
    var random = RandomSequence(seed: 2)
    let out = model.predict(random.normal([3, 2, 6, 6]), conditioning(3))
    #expect(out.shape == [3, 4, 6, 6] && out.values.allSatisfy { $0 == 0 })
  }

  @Test func thePositionTableOfDiTXL() {
    let table = ModelShape(
      depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 2, inputSize: 32, numClasses: 1000
    ).positionTable()
    #expect(abs(table.reduce(0) { $0 + Double($1) } - 134598.94780) < 1e-2)
    let token = Array(table[1152..<2304])
    let expected: [(Int, Float)] = [
      (0, 0.84147098), (1, 0.82405135), (2, 0.80640167), (288, 0.54030231), (289, 0.56651512),
      (576, 0), (864, 1),
    ]
    for (dim, value) in expected { #expect(abs(token[dim] - value) < 1e-6, "dim \(dim)") }
  }

  @Test func theSinusoidsOfTimestep999() {
    let features = DiT.timestepFeatures([0, 999])
    #expect(features.shape == [2, 256])
    #expect(features.values.prefix(256).reduce(0, +) == 128)
    let expected: [(Int, Float)] = [
      (0, 0.99964985), (1, 0.96378531), (2, -0.39896458), (127, 0.99424317), (128, -0.02646075),
      (129, -0.26667936), (130, -0.91696634), (255, 0.10714721),
    ]
    for (dim, value) in expected {
      // One bit of the float32 angle is 6e-5.
      #expect(abs(features[256 + dim] - value) < 1e-4, "dim \(dim)")
    }
  }

  @Test func rowsOfABatchAreIndependent() throws {
    let model = try DiT(config: config, weights: Noise())
    var random = RandomSequence(seed: 2)
    let x = random.normal([5, 2, 6, 6])
    let inputs = conditioning(5)
    let together = model.predict(x, inputs)
    for row in 0..<5 {
      let alone = model.predict(
        x.rows(row..<(row + 1)),
        Conditioning(timesteps: [inputs.timesteps[row]], labels: [row % 6]))
      let worst = zip(alone.values, together.rows(row..<(row + 1)).values).map { abs($0 - $1) }
      #expect((worst.max() ?? 1) < 1e-4)
    }
    #expect(Set(together.values).count > together.count / 2)
  }

  @Test func recordingChangesNothing() throws {
    let model = try DiT(config: config, weights: Noise())
    var random = RandomSequence(seed: 2)
    let x = random.normal([2, 2, 6, 6])
    let recorded = model(Value(constant: x), conditioning(2), on: Tape()).tensor
    #expect(recorded.values == model.predict(x, conditioning(2)).values)
  }

  @Test func gradientsAreSlopes() throws {
    let model = try DiT(config: config, weights: Noise())
    var random = RandomSequence(seed: 2)
    let x = random.normal([2, 2, 6, 6])
    let tape = Tape()
    let output = model(Value(constant: x), conditioning(2), on: tape)
    let cotangent = random.normal(output.shape)
    tape.backward(output, cotangent)
    try expectSlopes(along: model.parameters.filter { !$0.isFrozen }, cotangent) {
      model.predict(x, conditioning(2))
    }
  }

  @Test func frozenParametersGetNoGradientAndChangeNoOther() throws {
    let model = try DiT(config: config, weights: Noise())
    var random = RandomSequence(seed: 2)
    let x = random.normal([2, 2, 6, 6])
    func gradients() -> [String: [Float]] {
      for parameter in model.parameters { parameter.clearGradient() }
      let tape = Tape()
      let output = model(Value(constant: x), conditioning(2), on: tape)
      tape.backward(output, .full(output.shape, 1))
      return Dictionary(
        uniqueKeysWithValues: model.parameters.compactMap { parameter in
          parameter.gradient.map { (parameter.name, $0.values) }
        })
    }
    let all = gradients()
    #expect(all.count == model.parameters.count - 1)
    for parameter in model.parameters where !parameter.name.hasPrefix("blocks.1.mlp.") {
      parameter.isFrozen = true
    }
    let few = gradients()
    #expect(few.count == 4)
    for (name, gradient) in few { #expect(gradient == all[name], "\(name)") }
  }

  @Test func editedSlotsGetTheirOperators() throws {
    let slot = SlotID(block: 1, slot: .attention)
    let plain = try DiT(config: config, weights: Noise())
    let hyena = try DiT(config: config, edits: [slot: OperatorSpec("hyena_x")], weights: Noise())
    let names = hyena.parameters.map(\.name)
    #expect(names.contains("blocks.1.attn.short_filter.weight"))
    #expect(
      !names.contains("blocks.1.attn.qkv.weight") && names.contains("blocks.0.attn.qkv.weight"))
    var random = RandomSequence(seed: 2)
    let x = random.normal([1, 2, 6, 6])
    let before = plain.predict(x, conditioning(1)).values
    #expect(hyena.predict(x, conditioning(1)).values != before)
    // The same operator with the same weights is the same model.
    let same = try DiT(config: config, edits: [slot: OperatorSpec("mha")], weights: Noise())
    #expect(same.predict(x, conditioning(1)).values == before)
  }
}
