import Autograd
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Parallel blocks")
struct ParallelBlockTests {
  init() { OperatorRegistry.fillCatalog() }

  private let config = ModelShape(
    depth: 4, hiddenSize: 24, numHeads: 3, patchSize: 2, inputSize: 6, inChannels: 2, numClasses: 5)
  private let pair = BlockPair(first: 1)

  /// All parameters N(0, 0.2^2) but those under a prefix, which are as in a fresh model or zero.
  private struct Noise: WeightSource {
    var fresh: String?
    var zero: [String] = []

    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 9, name)
      if zero.contains(where: name.hasPrefix) { return .zeros(shape) }
      if name == "pos_embed" || fresh.map(name.hasPrefix) ?? false {
        return initializer.tensor(shape, random)
      }
      return Initializer.normal(0.2).tensor(shape, random)
    }
  }

  private func model(
    _ merge: ParallelMerge?, edits: [SlotID: OperatorSpec] = [:], _ weights: Noise = Noise()
  ) throws -> DiT {
    try DiT(
      config: config, edits: edits, parallel: merge.map { [pair: $0] } ?? [:], weights: weights)
  }

  private let x = {
    var random = RandomSequence(seed: 2)
    return random.normal([2, 2, 6, 6])
  }()
  private let conditioning = Conditioning(timesteps: [7, 640], labels: [0, 5])

  private func activations(of model: DiT) -> [String: [Float]] {
    var seen: [String: [Float]] = [:]
    _ = model(
      Value(constant: x), conditioning, on: Tape(recording: false),
      observe: { seen[$0] = $1.tensor.values })
    return seen
  }

  private func distance(_ first: [Float]?, _ second: [Float]?) -> Float {
    guard let first, let second, first.count == second.count else { return .infinity }
    return zip(first, second).map { abs($0 - $1) }.max() ?? .infinity
  }

  @Test func parametersOfTheMerge() throws {
    let plain = try model(nil).parameters.map(\.name)
    for merge in [ParallelMerge.mean, .residual] {
      #expect(try model(merge).parameters.map(\.name) == plain)
    }
    let projected = try model(.projection)
    let own = projected.parameters.filter { !plain.contains($0.name) }
    #expect(own.map(\.name) == ["blocks.1.merge.weight", "blocks.1.merge.bias"])
    #expect(own.map(\.value.shape) == [[24, 48], [24]])
    let names = projected.parameters(of: pair).map(\.name)
    #expect(names.count == 22 && Set(names).isSubset(of: projected.parameters.map(\.name)))
    #expect(names.allSatisfy { $0.hasPrefix("blocks.1.") || $0.hasPrefix("blocks.2.") })
  }

  /// The merges by their definitions, from what each block receives and puts out.
  @Test(arguments: ParallelMerge.allCases)
  func bothBlocksReceiveTheSame(merge: ParallelMerge) throws {
    let model = try model(merge)
    let seen = activations(of: model)
    let sequential = activations(of: try self.model(nil))
    #expect(seen["blocks.1.in"] == seen["blocks.2.in"])
    #expect(seen["blocks.3.in"] == seen["blocks.1.merge.out"])
    // The first block sees what it sees in the sequential model, the second does not.
    #expect(seen["blocks.1.out"] == sequential["blocks.1.out"])
    #expect(distance(seen["blocks.2.out"], sequential["blocks.2.out"]) > 0.1)
    let input = try #require(seen["blocks.1.in"])
    let first = try #require(seen["blocks.1.out"])
    let second = try #require(seen["blocks.2.out"])
    let tensors = Dictionary(uniqueKeysWithValues: model.parameters.map { ($0.name, $0.value) })
    let expected: [Float] =
      switch merge {
      case .mean: zip(first, second).map { ($0 + $1) / 2 }
      case .residual: input.indices.map { first[$0] + second[$0] - input[$0] }
      case .projection:
        try projected(
          first, second, weight: #require(tensors["blocks.1.merge.weight"]),
          bias: #require(tensors["blocks.1.merge.bias"]))
      }
    #expect(distance(seen["blocks.1.merge.out"], expected) < 1e-4)
  }

  private func projected(
    _ first: [Float], _ second: [Float], weight: Tensor, bias: Tensor
  ) -> [Float] {
    let dim = bias.count
    return first.indices.map { index in
      let (token, output) = (index / dim, index % dim)
      var sum = Double(bias[output])
      for channel in 0..<dim {
        sum += Double(weight[output * 2 * dim + channel]) * Double(first[token * dim + channel])
        sum +=
          Double(weight[output * 2 * dim + dim + channel])
          * Double(second[token * dim + channel])
      }
      return Float(sum)
    }
  }

  /// A block whose mixers put out zeros adds nothing, and order does not matter for the other one.
  @Test(arguments: [1, 2])
  func aBlockThatAddsNothing(idle: Int) throws {
    let skips = Dictionary(
      uniqueKeysWithValues: Slot.allCases.map {
        (SlotID(block: idle, slot: $0), OperatorSpec("skip"))
      })
    let sequential = activations(of: try model(nil, edits: skips))
    let residual = activations(of: try model(.residual, edits: skips))
    for name in ["blocks.3.in", "blocks.3.out", "final_layer.out"] {
      #expect(distance(residual[name], sequential[name]) < 1e-4, "\(name)")
    }
    // The mean halves what the other block adds.
    let mean = activations(of: try model(.mean, edits: skips))
    let input = try #require(mean["blocks.1.in"])
    let output = try #require(sequential["blocks.3.in"])
    let halfway = zip(input, output).map { ($0 + $1) / 2 }
    #expect(distance(mean["blocks.3.in"], halfway) < 1e-5)
  }

  /// adaLN-Zero: with closed gates both blocks pass their input on, and so does every fresh merge.
  @Test(arguments: ParallelMerge.allCases)
  func closedGatesPassTheInputOn(merge: ParallelMerge) throws {
    let closed = Noise(
      fresh: "blocks.1.merge.",
      zero: pair.blocks.map { "blocks.\($0).adaLN_modulation." })
    let seen = activations(of: try model(merge, closed))
    #expect(distance(seen["blocks.3.in"], seen["blocks.1.in"]) < 1e-6)
  }

  @Test func aFreshProjectionIsTheMean() throws {
    let weights = Noise(fresh: "blocks.1.merge.")
    let projection = activations(of: try model(.projection, weights))
    let mean = activations(of: try model(.mean, weights))
    #expect(distance(projection["final_layer.out"], mean["final_layer.out"]) < 1e-5)
    #expect(projection["blocks.1.out"] == mean["blocks.1.out"])
  }

  @Test(arguments: ParallelMerge.allCases)
  func thePairAloneIsThatOfTheModel(merge: ParallelMerge) throws {
    let model = try model(merge)
    var inputs: [Tensor] = []
    var merged: Tensor?
    _ = model(
      Value(constant: x), conditioning, on: Tape(recording: false),
      observe: { if $0 == "blocks.1.merge.out" { merged = $1.tensor } },
      observeBlock: { block, seen in if block == 1 { inputs.append(seen.input) } })
    let tape = Tape(recording: false)
    let found = model.output(
      of: pair, Value(constant: try #require(inputs.first)),
      model.condition(conditioning, on: tape), on: tape)
    #expect(found.tensor.values == merged?.values)
  }

  @Test(arguments: ParallelMerge.allCases)
  func gradientsAreSlopes(merge: ParallelMerge) throws {
    let edits = [SlotID(block: 2, slot: .attention): OperatorSpec("hyena_x")]
    let model = try model(merge, edits: edits)
    var random = RandomSequence(seed: 3)
    let tape = Tape()
    let output = model(Value(constant: x), conditioning, on: tape)
    let cotangent = random.normal(output.shape)
    tape.backward(output, cotangent)
    try expectSlopes(along: model.parameters.filter { !$0.isFrozen }, cotangent) {
      model.predict(x, conditioning)
    }
  }

  @Test func diffusersHasNoNameForIt() throws {
    let path = NSTemporaryDirectory() + "parallel-\(UUID().uuidString)"
    let error = #expect(throws: FileError.self) {
      try ModelWriter.write(
        try model(.mean), metadata: [:], classNames: [], as: .init(naming: .diffusers), to: path)
    }
    #expect(error?.message.contains("diffusers knows no parallel blocks") == true)
    #expect(!FileManager.default.fileExists(atPath: path))
  }
}
