import Nn
import TensorCore
import Testing

@testable import Autograd

/// Linear layers in bfloat16, in hardware or emulated.
struct PrecisionTests {
  private let rows = 40
  private let inputs = 96
  private let outputs = 72

  private func parameters() -> (weight: Parameter, bias: Parameter, x: Tensor, cotangent: Tensor) {
    var random = RandomStream(seed: 11)
    return (
      Parameter("weight", random.normal([outputs, inputs])),
      Parameter("bias", random.normal([outputs])), random.normal([rows, inputs]),
      random.normal([rows, outputs])
    )
  }

  /// Output and gradients of the weight, the bias and the input.
  private func run(_ precision: Precision) throws -> [Tensor] {
    let (weight, bias, x, cotangent) = parameters()
    [weight, bias].use(precision, smallest: 1)
    let tape = Tape()
    let leaf = tape.leaf(x)
    let y = tape.linear(leaf, weight, bias)
    tape.backward(y, cotangent)
    return [
      y.tensor, try #require(weight.gradient), try #require(bias.gradient),
      try #require(tape.gradient(of: leaf)),
    ]
  }

  @Test func bfloat16StaysNearFloat32() throws {
    for (index, (rounded, exact)) in zip(try run(.bfloat16), try run(.float32)).enumerated() {
      let largest = exact.values.map(abs).max() ?? 0
      let error = zip(rounded.values, exact.values).map { abs($0 - $1) }.max() ?? 0
      #expect(error < 0.02 * largest, "result \(index)")
      // The bias gets no product.
      #expect((error > 1e-4 * largest) == (index != 2), "result \(index)")
    }
  }

  /// Nothing between the layers is stored in float32 then, which no result shows.
  @Test(arguments: [Precision.float32, .bfloat16])
  func silentFeedForwardIsTheRecordedOne(precision: Precision) throws {
    var random = RandomStream(seed: 3)
    let up = Parameter("up", random.normal([outputs, inputs]))
    let down = Parameter("down", random.normal([inputs, outputs]))
    let biases = (
      Parameter("up bias", random.normal([outputs])),
      Parameter("down bias", random.normal([inputs]))
    )
    [up, down].use(precision, smallest: 1)
    let x = random.normal([2, rows, inputs])
    func output(recording: Bool) -> (Tensor, Tape, Value) {
      let tape = Tape(recording: recording)
      let leaf = recording ? tape.leaf(x) : Value(constant: x)
      let y = tape.feedForward(leaf, up: (up, biases.0), down: (down, biases.1))
      return (y.tensor, tape, y)
    }
    let (recorded, tape, y) = output(recording: true)
    #expect(recorded.shape == [2, rows, inputs])
    #expect(output(recording: false).0.values == recorded.values)
    tape.backward(y, random.normal([2, rows, inputs]))
    #expect(up.gradient != nil && down.gradient != nil)
  }

  @Test func smallWeightsAndVectorsStayFloat32() {
    let (weight, bias, _, _) = parameters()
    [weight, bias].use(.bfloat16)
    #expect(weight.precision == .float32 && bias.precision == .float32)
    [weight, bias].use(.bfloat16, smallest: outputs * inputs)
    #expect(weight.precision == .bfloat16 && bias.precision == .float32)
  }

  @Test func aChangedWeightIsPackedAnew() {
    let (weight, _, x, cotangent) = parameters()
    [weight].use(.bfloat16, smallest: 1)
    func output() -> Tensor {
      Tape(recording: false).linear(Value(constant: x), weight).tensor
    }
    let before = output()
    #expect(output().values == before.values)
    weight.value = Tensor.zeros([outputs, inputs])
    #expect(output().values.allSatisfy { $0 == 0 })
    weight.assign(Tensor.full([outputs, inputs], 1))
    #expect(output().values != before.values && output().values.contains { $0 != 0 })
    let after = output()
    let tape = Tape()
    tape.backward(tape.linear(Value(constant: x), weight), cotangent)
    AdamW([weight]).step(rate: 0.1)
    #expect(output().values != after.values)
  }

  @Test func tapesShareAWeightAtOnce() {
    let (weight, bias, x, _) = parameters()
    [weight].use(.bfloat16, smallest: 1)
    let wanted = Tape(recording: false).linear(Value(constant: x), weight, bias).tensor.values
    weight.noteChange()
    var found = [[Float]](repeating: [], count: 6)
    found.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let results = buffer
      Parallel.tasks(6) { index in
        results[index] =
          Tape(recording: false).linear(Value(constant: x), weight, bias).tensor.values
      }
    }
    #expect(found.allSatisfy { $0 == wanted })
  }
}
