import Autograd
import Foundation
import TensorCore
import Testing

@MainActor @Suite("Tape")
struct TapeTests {
  private func close(_ found: Tensor?, _ expected: [Float], _ tolerance: Float = 1e-6) -> Bool {
    guard let found, found.count == expected.count else { return false }
    return zip(found.values, expected).allSatisfy { abs($0 - $1) <= tolerance }
  }

  @Test func aValueUsedTwiceByOneOperation() {
    let tape = Tape()
    let x = tape.leaf(Tensor([1, 2, 3], shape: [1, 1, 3]))
    let sum = tape.apply(Add(), x, x)
    tape.backward(sum, Tensor([1, 10, 100], shape: [1, 1, 3]))
    #expect(close(tape.gradient(of: x), [2, 20, 200]))

    let second = Tape()
    let y = second.leaf(Tensor([1, 2, 3], shape: [1, 1, 3]))
    let gate = Tensor([5, 6, 7], shape: [1, 3])
    let gated = second.apply(GatedResidual(gateChunk: 0), y, y, Value(constant: gate))
    second.backward(gated, .full([1, 1, 3], 1))
    #expect(close(second.gradient(of: y), [6, 7, 8]))
  }

  @Test func branchesMeet() {
    // z = (x + x) + GELU(x) + x, the shape of a residual block with a shared input.
    let tape = Tape()
    let x = tape.leaf(Tensor([0.5, -1], shape: [2]))
    let double = tape.apply(Add(), x, x)
    let bent = tape.apply(GELU(), x)
    let z = tape.apply(Add(), tape.apply(Add(), double, bent), x)
    tape.backward(z, Tensor([1, 1], shape: [2]))
    func slope(_ x: Double) -> Float {
      func gelu(_ x: Double) -> Double {
        0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
      }
      return Float(3 + (gelu(x + 1e-5) - gelu(x - 1e-5)) / 2e-5)
    }
    #expect(close(tape.gradient(of: x), [slope(0.5), slope(-1)], 1e-5))
  }

  @Test func severalOutputsAreSeededAtOnce() {
    let tape = Tape()
    let x = tape.leaf(Tensor([1, 2], shape: [2]))
    let first = tape.apply(Add(), x, Value(constant: Tensor([1, 1], shape: [2])))
    let second = tape.apply(Add(), first, first)
    let seed = Tensor([1, 3], shape: [2])
    tape.backward([(first, seed), (second, seed), (first, seed)])
    // 1 + 2 + 1 times the seed.
    #expect(close(tape.gradient(of: x), [4, 12]))
    #expect(seed.values == [1, 3])
  }

  @Test func nothingIsRecordedWithoutNeed() {
    let parameter = Parameter("w", Tensor([1, 2], shape: [2]))
    let silent = Tape(recording: false)
    let out = silent.apply(Add(), Value(parameter), Value(parameter))
    silent.backward(out, .full([2], 1))
    #expect(parameter.gradient == nil && out.tensor.values == [2, 4])

    parameter.isFrozen = true
    let tape = Tape()
    let frozen = tape.apply(SiLU(), tape.apply(Add(), Value(parameter), Value(parameter)))
    tape.backward(frozen, .full([2], 1))
    #expect(parameter.gradient == nil)
  }

  @Test func unusedLeavesHaveNoGradient() {
    let tape = Tape()
    let used = tape.leaf(Tensor([1], shape: [1]))
    let unused = tape.leaf(Tensor([1], shape: [1]))
    let aside = tape.apply(SiLU(), unused)
    tape.backward(tape.apply(SiLU(), used), .full([1], 1))
    #expect(tape.gradient(of: used) != nil && tape.gradient(of: unused) == nil)
    #expect(aside.tensor.count == 1)
  }

  @Test func backwardReleasesTheRecord() {
    BufferPool.trim()
    let before = BufferPool.bytes
    var parameter: Parameter? = Parameter("w", .full([1000, 37], 1))
    for _ in 0..<3 {
      let tape = Tape()
      var value = tape.apply(
        Add(), Value(constant: .full([1000, 37], 1)), Value(parameter ?? .init("", .zeros([1]))))
      for _ in 0..<20 { value = tape.apply(SiLU(), value) }
      tape.backward(value, .full([1000, 37], 1))
      parameter?.clearGradient()
    }
    parameter = nil
    BufferPool.trim()
    #expect(BufferPool.bytes == before)
  }
}
