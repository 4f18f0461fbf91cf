import Autograd
import Foundation
import Nn
import Plans
import TensorCore
import TestSupport
import Testing

@testable import Models

/// Models that keep nothing but what their products read.
struct InferenceWeightsTests {
  private let config = ModelShape(
    depth: 2, hiddenSize: 256, numHeads: 4, patchSize: 2, inputSize: 8, numClasses: 300)

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

  @Test(arguments: [Precision.float32, .bfloat16])
  func predictsWhatTheWholeModelPredicts(precision: Precision) throws {
    // Fresh modulations are zero, and nothing passes through a block.
    let fresh = try model(FreshWeights(seed: 1))
    var random = RandomSequence(seed: 5)
    for parameter in fresh.parameters {
      parameter.assign(random.normal(parameter.value.shape))
      for index in 0..<parameter.value.count { parameter.value[index] *= 0.05 }
    }
    let tensors = Dictionary(uniqueKeysWithValues: fresh.parameters.map { ($0.name, $0.value) })
    let source = DictionaryWeights(tensors, origin: "test")
    let whole = try model(source)
    whole.parameters.use(precision)
    let frugal = try model(InferenceWeights(source, precision))
    #expect(frugal.parameters.map(\.value.shape) == whole.parameters.map(\.value.shape))
    #expect(prediction(frugal) == prediction(whole))
    #expect(prediction(frugal) == prediction(whole))
    let exact = prediction(fresh)
    #expect((prediction(frugal) == exact) == (precision == .float32))
  }

  @Test func nothingElseIsLeftOfAWeightInBfloat16() async {
    await #expect(processExitsWith: .signal(SIGSEGV)) {
      let weight = try InferenceWeights(FreshWeights(seed: 1), .bfloat16)
        .parameter("weight", [256, 256], .ones)
      let tape = Tape(recording: false)
      let y = tape.linear(Value(constant: .full([1, 256], 1)), weight)
      precondition(y.tensor.values.allSatisfy { $0 == 256 })
      print(weight.value[0])
    }
  }
}
