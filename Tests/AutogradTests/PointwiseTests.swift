import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Pointwise operations and tables")
struct PointwiseTests {
  private let check = GradientCheck()

  @Test(arguments: [1, 7, 16, 33, 20_001])
  func gelu(count: Int) {
    var random = RandomSequence(seed: UInt64(count))
    check(GELU(), [random.normal([count])]) { inputs in
      inputs[0].map {
        0.5 * $0 * (1 + tanh((2 / Double.pi).squareRoot() * ($0 + 0.044715 * $0 * $0 * $0)))
      }
    }
  }

  @Test(arguments: [1, 7, 16, 33, 20_001])
  func silu(count: Int) {
    var random = RandomSequence(seed: UInt64(count))
    check(SiLU(), [random.normal([count])]) { inputs in inputs[0].map { $0 / (1 + exp(-$0)) } }
  }

  @Test func activationsSurviveLargeArguments() {
    let x = Tensor([-200, -30, -10, -1e-30, 0, 1e-30, 10, 30, 200], shape: [9])
    let tape = Tape()
    let leaf = tape.leaf(x)
    let (gelu, silu) = (tape.apply(GELU(), leaf), tape.apply(SiLU(), leaf))
    #expect(abs(gelu.tensor[0]) < 1e-30 && abs(gelu.tensor[8] - 200) < 1e-3)
    #expect(abs(silu.tensor[0]) < 1e-6 && abs(silu.tensor[8] - 200) < 1e-3)
    tape.backward([(gelu, .full([9], 1)), (silu, .full([9], 1))])
    let slope = tape.gradient(of: leaf)?.values ?? []
    #expect(abs((slope.first ?? 9)) < 1e-6 && abs((slope.last ?? 0) - 2) < 1e-6)
    #expect(slope.count == 9 && abs(slope[4] - 1) < 1e-6)
  }

  @Test(arguments: [
    ([2, 3, 5], [2, 3, 5]), ([2, 3, 5], [3, 5]), ([4, 7], [7]), ([3, 2, 2], [1, 2, 2]),
  ])
  func add(shape: [Int], other: [Int]) {
    var random = RandomSequence(seed: 4)
    check(Add(), [random.normal(shape), random.normal(other)]) { inputs in
      inputs[0].indices.map { inputs[0][$0] + inputs[1][$0 % inputs[1].count] }
    }
  }

  @Test(arguments: [[0.5, 0.5], [1, 1, -1], [2], [0.25, -3, 7]] as [[Float]], [1, 20_001])
  func weightedSum(factors: [Float], count: Int) {
    var random = RandomSequence(seed: UInt64(count))
    func reference(_ inputs: [[Double]]) -> [Double] {
      var result = [Double](repeating: 0, count: count)
      for (input, factor) in zip(inputs, factors) {
        for index in 0..<count { result[index] += Double(factor) * input[index] }
      }
      return result
    }
    check(WeightedSum(factors), factors.map { _ in random.normal([count]) }, reference: reference)
  }

  @Test(arguments: [([2, 3], 5, 5), ([700], 9, 4), ([1], 1, 3), ([2, 2, 2], 6, 1)])
  func concatenateChannels(rows: [Int], first: Int, second: Int) {
    var random = RandomSequence(seed: 6)
    let count = rows.reduce(1, *)
    func reference(_ inputs: [[Double]]) -> [Double] {
      var result: [Double] = []
      for row in 0..<count {
        result += inputs[0][(row * first)..<((row + 1) * first)]
        result += inputs[1][(row * second)..<((row + 1) * second)]
      }
      return result
    }
    let inputs = [random.normal(rows + [first]), random.normal(rows + [second])]
    check(ConcatenateChannels(), inputs, reference: reference)
  }

  @Test func embeddingRepeatsRows() {
    var random = RandomSequence(seed: 5)
    let rows = [3, 0, 3, 3, 1]
    check(Embedding(rows), [random.normal([4, 6])]) { inputs in
      rows.flatMap { Array(inputs[0][($0 * 6)..<($0 * 6 + 6)]) }
    }
  }

  @Test(arguments: [(1, 1, 1, 1), (2, 3, 5, 4), (1, 700, 9, 11), (3, 17, 8, 33)])
  func linear(batch: Int, tokens: Int, width: Int, outputs: Int) {
    var random = RandomSequence(seed: UInt64(tokens))
    let x = random.normal([batch, tokens, width])
    let weight = random.normal([outputs, width])
    let bias = random.normal([outputs])
    func reference(_ inputs: [[Double]]) -> [Double] {
      var result: [Double] = []
      for row in 0..<(batch * tokens) {
        for output in 0..<outputs {
          var sum = inputs.count > 2 ? inputs[2][output] : 0
          for i in 0..<width { sum += inputs[0][row * width + i] * inputs[1][output * width + i] }
          result.append(sum)
        }
      }
      return result
    }
    check(Linear(), [x, weight, bias], "with bias", reference: reference)
    check(Linear(), [x, weight], "without bias", reference: reference)
  }
}
