import Autograd
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Attention")
struct AttentionTests {
  /// Softmax weights (batch, heads, tokens, tokens) by definition, scores outside the window masked.
  nonisolated private static func weights(
    _ qkv: [Double], batch: Int, tokens: Int, heads: Int, headDim: Int, left: Int, right: Int
  ) -> [Double] {
    let dim = heads * headDim
    var result: [Double] = []
    for item in 0..<batch {
      for head in 0..<heads {
        for query in 0..<tokens {
          let scores = (0..<tokens).map { key -> Double in
            if key < query - left || key > query + right { return -.infinity }
            let q = (item * tokens + query) * 3 * dim + head * headDim
            let k = (item * tokens + key) * 3 * dim + dim + head * headDim
            let product = (0..<headDim).reduce(0.0) { $0 + qkv[q + $1] * qkv[k + $1] }
            return product / Double(headDim).squareRoot()
          }
          let largest = scores.max() ?? 0
          let powers = scores.map { exp($0 - largest) }
          let total = powers.reduce(0, +)
          result += powers.map { $0 / total }
        }
      }
    }
    return result
  }

  nonisolated private static func attention(
    _ qkv: [Double], batch: Int, tokens: Int, heads: Int, headDim: Int, left: Int, right: Int
  ) -> [Double] {
    let dim = heads * headDim
    let map = weights(
      qkv, batch: batch, tokens: tokens, heads: heads, headDim: headDim, left: left, right: right)
    var result = [Double](repeating: 0, count: batch * tokens * dim)
    for item in 0..<batch {
      for head in 0..<heads {
        for query in 0..<tokens {
          for key in 0..<tokens {
            let weight = map[((item * heads + head) * tokens + query) * tokens + key]
            let v = (item * tokens + key) * 3 * dim + 2 * dim + head * headDim
            let out = (item * tokens + query) * dim + head * headDim
            for i in 0..<headDim { result[out + i] += weight * qkv[v + i] }
          }
        }
      }
    }
    return result
  }

  private func run(
    batch: Int = 1, tokens: Int, heads: Int = 2, headDim: Int, window: (left: Int, right: Int)?,
    scale: Float = 1
  ) {
    var random = RandomSequence(seed: UInt64(tokens * 100 + headDim))
    let qkv = random.normal([batch, tokens, 3 * heads * headDim])
    for i in 0..<qkv.count { qkv[i] *= scale }
    let (left, right) = (window?.left ?? tokens, window?.right ?? tokens)
    let op = Attention(heads: heads, window: window)
    GradientCheck()(op, [qkv], "\(tokens) tokens, head \(headDim), window \(left):\(right)") {
      Self.attention(
        $0[0], batch: batch, tokens: tokens, heads: heads, headDim: headDim, left: left,
        right: right)
    }
    let map = op.map(qkv)
    let expected = Self.weights(
      qkv.values.map(Double.init), batch: batch, tokens: tokens, heads: heads, headDim: headDim,
      left: left, right: right)
    let worst = zip(map.values, expected).map { abs(Double($0) - $1) }.max() ?? .infinity
    #expect(map.shape == [batch, heads, tokens, tokens] && worst < 2e-6)
  }

  @Test(arguments: [1, 5, 37], [3, 12, 20])
  func fullAttention(tokens: Int, headDim: Int) {
    run(tokens: tokens, headDim: headDim, window: nil)
  }

  @Test(arguments: [1, 5, 37], [3, 12, 20])
  func windowedAttention(tokens: Int, headDim: Int) {
    for window in [(0, 0), (4, 4), (2, 5), (7, 0), (0, 3), (100, 1)] {
      run(tokens: tokens, headDim: headDim, window: window)
    }
  }

  @Test func severalItemsAndHeads() {
    run(batch: 3, tokens: 9, heads: 5, headDim: 4, window: nil)
    run(batch: 3, tokens: 9, heads: 5, headDim: 4, window: (1, 2))
    run(batch: 2, tokens: 70, heads: 1, headDim: 16, window: nil)
    // Longer than the 48 queries that the backward pass takes at a time.
    for window in [(0, 0), (3, 20), (20, 3), (64, 1)] {
      run(tokens: 113, heads: 1, headDim: 5, window: window)
    }
  }

  @Test func sharpScoresStayFinite() {
    run(tokens: 11, headDim: 8, window: nil, scale: 5)
    var random = RandomSequence(seed: 2)
    let qkv = random.normal([1, 6, 3 * 8])
    for i in 0..<qkv.count { qkv[i] *= 100 }
    let tape = Tape()
    let leaf = tape.leaf(qkv)
    let out = tape.apply(Attention(heads: 2), leaf)
    #expect(out.tensor.values.allSatisfy { $0.isFinite })
    tape.backward(out, .full(out.shape, 1))
    #expect(tape.gradient(of: leaf)?.values.allSatisfy { $0.isFinite } == true)
  }

  @Test func aWindowAsWideAsTheSequenceIsFullAttention() {
    var random = RandomSequence(seed: 6)
    let qkv = random.normal([2, 13, 3 * 24])
    let full = Attention(heads: 4).forward([.float32(qkv)]).output.float32.values
    let wide = Attention(heads: 4, window: (12, 12)).forward([.float32(qkv)]).output
      .float32.values
    #expect(zip(full, wide).allSatisfy { abs($0 - $1) < 1e-6 })
  }
}
