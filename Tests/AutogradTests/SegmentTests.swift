import Autograd
import Nn
import TensorCore
import TestSupport
import Testing

/// Parts of a network that are run again on the way back, and low-rank additions to its layers.
@MainActor @Suite struct SegmentTests {
  /// A small residual network whose parts share a condition, as the blocks of a transformer do.
  private struct Network {
    let weights, biases: [Parameter]
    private let width = 9

    init() {
      var random = RandomSequence(seed: 5)
      weights = (0..<4).map { Parameter("w\($0)", random.normal([9, 9])) }
      biases = (0..<4).map { Parameter("b\($0)", random.normal([9])) }
    }

    var parameters: [Parameter] { weights + biases }

    func callAsFunction(_ x: Value, _ condition: Value, on tape: Tape) -> Value {
      var hidden = x
      for index in weights.indices {
        let input = hidden
        hidden = tape.segment { tape in
          let mixed = tape.apply(Add(), input, condition)
          let bent = tape.apply(GELU(), tape.linear(mixed, weights[index], biases[index]))
          return tape.apply(Add(), input, bent)
        }
      }
      return hidden
    }
  }

  /// The gradients of inputs and parameters.
  private func gradients(_ network: Network, recomputing: Bool, store: GradientStore? = nil)
    -> (output: [Float], inputs: [[Float]?], parameters: [[Float]?])
  {
    var random = RandomSequence(seed: 6)
    let tape = Tape(gradients: store, recomputing: recomputing)
    let (x, condition) = (tape.leaf(random.normal([5, 9])), tape.leaf(random.normal([5, 9])))
    let output = network(x, condition, on: tape)
    tape.backward(output, random.normal([5, 9]))
    let found = network.parameters.map { (store?.gradient(of: $0) ?? $0.gradient)?.values }
    for parameter in network.parameters { parameter.clearGradient() }
    return (
      output.tensor.values, [x, condition].map { tape.gradient(of: $0)?.values }, found
    )
  }

  @Test func recomputedGradientsAreTheSameToTheLastBit() {
    let network = Network()
    let kept = gradients(network, recomputing: false)
    #expect(kept.inputs.allSatisfy { $0 != nil } && kept.parameters.allSatisfy { $0 != nil })
    for store in [nil, GradientStore()] {
      let again = gradients(network, recomputing: true, store: store)
      #expect(again.output == kept.output)
      #expect(again.inputs == kept.inputs)
      #expect(again.parameters == kept.parameters)
    }
    // Frozen parts, at the front and in between.
    for index in [0, 2] {
      network.weights[index].isFrozen = true
      network.biases[index].isFrozen = true
    }
    let (some, same) = (
      gradients(network, recomputing: false), gradients(network, recomputing: true)
    )
    #expect(some.inputs == same.inputs && some.parameters == same.parameters)
    #expect(some.parameters.count { $0 != nil } == 4)
  }

  @Test func segmentsThatNeedNoGradientAreNotRunAgain() {
    let parameter = Parameter("w", .full([2, 2], 1))
    parameter.isFrozen = true
    var runs = 0
    func run(_ x: Tensor, on tape: Tape) {
      let output = tape.segment { tape in
        runs += 1
        return tape.linear(Value(constant: x), parameter)
      }
      tape.backward(output, .full([1, 2], 1))
    }
    run(.full([1, 2], 1), on: Tape(recomputing: true))
    #expect(runs == 1)
    parameter.isFrozen = false
    run(.full([1, 2], 1), on: Tape(recomputing: true))
    #expect(runs == 3 && parameter.gradient?.values == [1, 1, 1, 1])
    run(.full([1, 2], 1), on: Tape())
    #expect(runs == 4 && parameter.gradient?.values == [2, 2, 2, 2])
    run(.full([1, 2], 1), on: Tape(recording: false, recomputing: true))
    #expect(runs == 5 && parameter.gradient?.values == [2, 2, 2, 2])
  }

  @Test(.enabled(if: BufferPool.keepsBuffers))
  func recomputingKeepsOnePartAlive() {
    let parameters = (0..<30).map { Parameter("w\($0)", .full([8, 8], 0.1)) }
    func peak(recomputing: Bool) -> Int {
      BufferPool.trim()
      let before = BufferPool.bytes
      let tape = Tape(recomputing: recomputing)
      var hidden = Value(constant: .full([4096, 8], 1))
      for parameter in parameters {
        let input = hidden
        hidden = tape.segment { tape in
          var value = input
          for _ in 0..<6 { value = tape.apply(GELU(), tape.linear(value, parameter)) }
          return value
        }
      }
      tape.backward(hidden, .full([4096, 8], 1))
      let peak = BufferPool.bytes - before
      for parameter in parameters { parameter.clearGradient() }
      return peak
    }
    let (kept, recomputed) = (peak(recomputing: false), peak(recomputing: true))
    // Twelve activations of each of thirty parts against one of each and twelve of one.
    #expect(Double(recomputed) < 0.25 * Double(kept), "\(recomputed) of \(kept)")
  }

  @Test func lowRankAddition() {
    var random = RandomSequence(seed: 8)
    let (rows, inputs, outputs, rank) = (6, 5, 7, 3)
    let weight = Parameter("w", random.normal([outputs, inputs]))
    let bias = Parameter("b", random.normal([outputs]))
    let adapter = LowRankAdapter(
      down: Parameter("a", random.normal([rank, inputs])),
      up: Parameter("b", random.normal([outputs, rank])), scale: 1.75)
    let x = random.normal([rows, inputs])
    let cotangent = random.normal([rows, outputs])
    weight.isFrozen = true
    bias.isFrozen = true
    weight.adapter = adapter
    #expect(weight.trained.map(\.name) == ["a", "b"] && bias.trained.isEmpty)

    let tape = Tape()
    let leaf = tape.leaf(x)
    let output = tape.linear(leaf, weight, bias)
    tape.backward(output, cotangent)
    #expect(weight.gradient == nil && bias.gradient == nil)

    // The same with one merged weight, whose gradient G gives s B^T G and s G A^T.
    let merged = Parameter("m", weight.mergedValue)
    let plain = Tape()
    let plainLeaf = plain.leaf(x)
    let expected = plain.linear(plainLeaf, merged, bias)
    plain.backward(expected, cotangent)
    func close(_ found: [Float]?, _ expected: [Float]) -> Bool {
      guard let found, found.count == expected.count else { return false }
      return zip(found, expected).allSatisfy { abs($0 - $1) < 1e-4 * max(1, abs($1)) }
    }
    #expect(close(output.tensor.values, expected.tensor.values))
    #expect(close(tape.gradient(of: leaf)?.values, plain.gradient(of: plainLeaf)?.values ?? []))
    let gradient = merged.gradient?.values ?? []
    let (a, b) = (adapter.down.value.values, adapter.up.value.values)
    var (forDown, forUp) = (
      [Float](repeating: 0, count: a.count), [Float](repeating: 0, count: b.count)
    )
    for out in 0..<outputs {
      for column in 0..<inputs {
        for k in 0..<rank {
          let g = 1.75 * gradient[out * inputs + column]
          forDown[k * inputs + column] += b[out * rank + k] * g
          forUp[out * rank + k] += g * a[k * inputs + column]
        }
      }
    }
    #expect(close(adapter.down.gradient?.values, forDown))
    #expect(close(adapter.up.gradient?.values, forUp))
  }
}
