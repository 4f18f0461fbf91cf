import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Cross-attention and merged keys")
struct CrossAttentionTests {
  private let check = GradientCheck()

  /// By definition; queries in the first dim columns of rows of `width`.
  nonisolated private static func attention(
    _ q: [Double], width: Int, _ kv: [Double], bias: [Double]?, batch: Int, queries: Int, keys: Int,
    heads: Int, headDim: Int
  ) -> [Double] {
    let dim = heads * headDim
    var result = [Double](repeating: 0, count: batch * queries * dim)
    for item in 0..<batch {
      for head in 0..<heads {
        for query in 0..<queries {
          let scores = (0..<keys).map { key -> Double in
            let from = (item * queries + query) * width + head * headDim
            let to = (item * keys + key) * 2 * dim + head * headDim
            let dot = (0..<headDim).reduce(0.0) { $0 + q[from + $1] * kv[to + $1] }
            return dot / Double(headDim).squareRoot() + (bias?[item * keys + key] ?? 0)
          }
          let top = scores.max() ?? 0
          let total = scores.reduce(0) { $0 + exp($1 - top) }
          for key in 0..<keys {
            let weight = exp(scores[key] - top) / total
            for i in 0..<headDim {
              result[(item * queries + query) * dim + head * headDim + i] +=
                weight * kv[(item * keys + key) * 2 * dim + dim + head * headDim + i]
            }
          }
        }
      }
    }
    return result
  }

  @Test(arguments: [(1, 3, 1), (5, 3, 2), (7, 37, 1), (61, 18, 2)], [(1, 3), (3, 12), (2, 20)])
  func queriesAndKeysOfAnyNumber(sizes: (Int, Int, Int), heads: (Int, Int)) {
    let (queries, keys, batch) = sizes
    let dim = heads.0 * heads.1
    var random = RandomSequence(seed: UInt64(queries * 100 + keys))
    for width in [dim, 3 * dim, dim + 1] {
      let inputs = [
        random.normal([batch, queries, width]), random.normal([batch, keys, 2 * dim]),
      ]
      for masked in [false, true] {
        let bias = random.normal([batch, keys])
        // One key of every item is left out.
        for item in 0..<batch { bias[item * keys + item % keys] = -10_000 }
        let values = masked ? bias.values.map(Double.init) : nil
        check(
          CrossAttention(heads: heads.0, bias: masked ? bias : nil), inputs,
          "\(queries) to \(keys), width \(width) of \(dim), masked \(masked)"
        ) { inputs in
          Self.attention(
            inputs[0], width: width, inputs[1], bias: values, batch: batch, queries: queries,
            keys: keys, heads: heads.0, headDim: heads.1)
        }
      }
    }
  }

  @Test func aSingleKeyGivesItsValue() {
    var random = RandomSequence(seed: 8)
    let kv = random.normal([1, 1, 24])
    let op = CrossAttention(heads: 3, bias: .full([1, 1], -10_000))
    let out = op.forward([random.normal([1, 4, 12]), kv].map(MixedTensor.float32)).output.float32
      .values
    for query in 0..<4 {
      #expect(Array(out[(query * 12)..<(query * 12 + 12)]) == Array(kv.values[12...]))
    }
  }

  @Test func maskedKeysChangeNothing() {
    var random = RandomSequence(seed: 8)
    let (q, kv) = (random.normal([2, 9, 24]), random.normal([2, 6, 48]))
    let bias = Tensor([0, 0, -10_000, 0, 0, 0, -10_000, 0, 0, 0, 0, -10_000], shape: [2, 6])
    func output(_ bias: Tensor?) -> [Float] {
      let op = CrossAttention(heads: 4, bias: bias)
      return op.forward([q, kv].map(MixedTensor.float32)).output.float32.values
    }
    let before = output(bias)
    for i in 0..<48 {
      kv[2 * 48 + i] += 3
      kv[(6 + 0) * 48 + i] -= 3
      kv[(6 + 5) * 48 + i] *= 2
    }
    #expect(output(bias) == before)
    #expect(output(nil) != before)
  }

  @Test(arguments: [(1, 2, 2, 2, 3), (2, 4, 6, 2, 5), (1, 5, 7, 3, 4), (3, 3, 4, 2, 70)])
  func tokenCompression(batch: Int, rows: Int, columns: Int, factor: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(rows * columns))
    let inputs = [
      random.normal([batch, rows * columns, 3 * dim]), random.normal([dim, 1, factor, factor]),
      random.normal([dim]),
    ]
    check(TokenCompression(rows: rows, columns: columns, factor: factor), inputs) { inputs in
      var result: [Double] = []
      for item in 0..<batch {
        for row in 0..<(rows / factor) {
          for column in 0..<(columns / factor) {
            for channel in dim..<(3 * dim) {
              var sum = inputs[2][channel % dim]
              for y in 0..<factor {
                for x in 0..<factor {
                  let token = (row * factor + y) * columns + column * factor + x
                  sum +=
                    inputs[1][(channel % dim * factor + y) * factor + x]
                    * inputs[0][(item * rows * columns + token) * 3 * dim + channel]
                }
              }
              result.append(sum)
            }
          }
        }
      }
      return result
    }
  }

  @Test(arguments: [(1, 1, 4), (3, 2, 5), (130, 2, 12), (1100, 1, 8)])
  func layerNorm(rows: Int, runs: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(rows))
    let inputs = [random.normal([rows, runs * dim]), random.normal([dim]), random.normal([dim])]
    check(LayerNorm(epsilon: 1e-5), inputs) { inputs in
      var result: [Double] = []
      for row in 0..<(rows * runs) {
        let x = inputs[0][(row * dim)..<((row + 1) * dim)]
        let mean = x.reduce(0, +) / Double(dim)
        let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(dim)
        for (i, value) in x.enumerated() {
          result.append(
            (value - mean) / (variance + 1e-5).squareRoot() * inputs[1][i] + inputs[2][i])
        }
      }
      return result
    }
  }

  @Test func repeatColumns() {
    var random = RandomSequence(seed: 1)
    check(RepeatColumns(3), [random.normal([2, 5])]) { inputs in
      (0..<30).map { inputs[0][$0 / 15 * 5 + $0 % 5] }
    }
  }
}
