import Autograd
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Models whose large weights are sealed.
struct SealedWeightsTests {
  private let config = ModelShape(
    depth: 2, hiddenSize: 256, numHeads: 4, patchSize: 2, inputSize: 8, numClasses: 300)

  init() { OperatorRegistry.fillCatalog() }

  private func prediction(_ model: DiT) -> [Float] {
    var random = RandomSequence(seed: 2)
    let latents = random.normal([2, config.inChannels, config.inputSize, config.inputSize])
    return model.predict(latents, .init(timesteps: [3, 700], labels: [299, 0])).values
  }

  private func model(_ weights: any WeightSource) throws -> DiT {
    try DiT(
      config: config,
      edits: [SlotID(block: 1, slot: .attention): OperatorSpec("swa", ["window_left": 2])],
      weights: weights)
  }

  @Test(arguments: Precision.allCases)
  func predictsWhatTheWholeModelPredicts(precision: Precision) throws {
    // Fresh modulations are zero, and nothing passes through a block.
    let fresh = try model(FreshWeights(seed: 1))
    var random = RandomSequence(seed: 5)
    for parameter in fresh.parameters {
      parameter.update { value in
        value.assign(random.normal(value.shape))
        for index in 0..<value.count { value[index] *= 0.05 }
      }
    }
    let tensors = Dictionary(uniqueKeysWithValues: fresh.parameters.map { ($0.name, $0.value) })
    let source = DictionaryWeights(tensors, origin: "test")
    let whole = try model(source)
    whole.parameters.use(precision)
    let frugal = try model(SealedWeights(source, precision))
    #expect(frugal.parameters.map(\.shape) == whole.parameters.map(\.shape))
    let (found, exact) = (prediction(frugal), prediction(fresh))
    #expect(found == prediction(frugal))
    let error = zip(found, exact).map { abs($0 - $1) }.max() ?? 0
    let largest = exact.map(abs).max() ?? 0
    switch precision {
    case .bfloat16, .int8:
      #expect(found == prediction(whole) && error > 1e-4 * largest && error < 0.1 * largest)
    // Where the library multiplies sealed weights, sums are rounded in another order.
    case .float32: #expect(error < 1e-5 * largest && (error > 0) == PackedMatrix.hasFloat32)
    }
  }

  private func sealed() throws -> Parameter {
    try SealedWeights(FreshWeights(seed: 1), .bfloat16).parameter("weight", [256, 256], .ones)
  }

  @Test func onlyMatricesThatAreLargeAreSealed() throws {
    let weights = SealedWeights(FreshWeights(seed: 1), .bfloat16)
    #expect(try sealed().isSealed && sealed().isFrozen)
    #expect(try !weights.parameter("small", [255, 256], .ones).isSealed)
    #expect(try !weights.parameter("vector", [1 << 17], .ones).isSealed)
    #expect(try !weights.table("table", [256, 256], .ones).isSealed)
    let exact = SealedWeights(FreshWeights(seed: 1), .float32)
    #expect(try exact.parameter("weight", [256, 256], .ones).isSealed == PackedMatrix.hasFloat32)
    #expect(try !exact.parameter("small", [255, 256], .ones).isSealed)
  }

  @Test func aSealedWeightIsMultiplied() throws {
    let weight = try sealed()
    let y = Tape(recording: false).linear(Value(constant: .full([1, 256], 1)), weight)
    #expect(y.tensor.values == [Float](repeating: 256, count: 256))
  }

  /// The sentence that a process leaves which asks a sealed weight for its values.
  @Test func aSealedWeightSaysThatItHasNoValues() async throws {
    let result = try #require(
      await #expect(processExitsWith: .failure, observing: [\.standardErrorContent]) {
        let weight = try SealedWeights(FreshWeights(seed: 1), .bfloat16)
          .parameter("blocks.0.attn.qkv.weight", [256, 256], .ones)
        print(weight.value[0])
      })
    let said = String(decoding: result.standardErrorContent, as: UTF8.self)
    #expect(said.contains("blocks.0.attn.qkv.weight was sealed for inference"))
  }

  /// Forward products need no other copy; the way back does.
  @Test func aSealedWeightIsNotDifferentiated() async {
    await #expect(processExitsWith: .failure) {
      let weight = try SealedWeights(FreshWeights(seed: 1), .bfloat16)
        .parameter("weight", [256, 256], .ones)
      let tape = Tape()
      let y = tape.linear(tape.leaf(.full([1, 256], 1)), weight)
      tape.backward(y, .full([1, 256], 1))
    }
  }
}
