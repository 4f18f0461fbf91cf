import Autograd
import Foundation
import Synchronization
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Operations of LightningDiT's blocks")
struct RotaryTests {
  private let check = GradientCheck()

  nonisolated static let shapes = [(1, 1, 4), (2, 3, 5), (3, 17, 12), (1, 150, 33)]

  @Test(arguments: shapes)
  func weightedNormModulate(batch: Int, tokens: Int, dim: Int) {
    var random = RandomSequence(seed: UInt64(tokens))
    let inputs = [
      random.normal([batch, tokens, dim]), random.normal([batch, 6 * dim]), random.normal([dim]),
    ]
    check(ModulatedNorm(.rootMeanSquare, shiftChunk: 3, scaleChunk: 4), inputs) { inputs in
      var result: [Double] = []
      for row in 0..<(batch * tokens) {
        let x = inputs[0][(row * dim)..<((row + 1) * dim)]
        let square = x.reduce(0) { $0 + $1 * $1 } / Double(dim)
        let condition = row / tokens * 6 * dim
        for (i, value) in x.enumerated() {
          result.append(
            value / (square + 1e-6).squareRoot() * inputs[2][i]
              * (1 + inputs[1][condition + 4 * dim + i]) + inputs[1][condition + 3 * dim + i])
        }
      }
      return result
    }
  }

  /// qkv of every head and part, normalised or not, in double precision.
  private func mapped(
    _ qkv: [Double], heads: Int, width: Int, _ body: (_ part: Int, [Double]) -> [Double]
  ) -> [Double] {
    stride(from: 0, to: qkv.count, by: width).flatMap { start -> [Double] in
      let head = Array(qkv[start..<(start + width)])
      let part = start / (heads * width) % 3
      return part < 2 ? body(part, head) : head
    }
  }

  @Test(arguments: [(1, 1, 1, 4), (2, 5, 3, 6), (1, 40, 2, 8)])
  func queryKeyNorm(batch: Int, tokens: Int, heads: Int, width: Int) {
    var random = RandomSequence(seed: 3)
    let qkv = random.normal([batch, tokens, 3 * heads * width])
    let parts = (0..<4).map { _ in random.normal([width]) }
    check(QueryKeyNorm(heads: heads, .rootMeanSquare, epsilon: 1e-6), [qkv, parts[0], parts[1]]) {
      inputs in
      mapped(inputs[0], heads: heads, width: width) { part, x in
        let root = (x.reduce(0) { $0 + $1 * $1 } / Double(width) + 1e-6).squareRoot()
        return x.indices.map { x[$0] / root * inputs[1 + part][$0] }
      }
    }
    check(QueryKeyNorm(heads: heads, .layer, epsilon: 1e-5), [qkv] + parts) { inputs in
      mapped(inputs[0], heads: heads, width: width) { part, x in
        let mean = x.reduce(0, +) / Double(width)
        let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width)
        return x.indices.map {
          (x[$0] - mean) / (variance + 1e-5).squareRoot() * inputs[1 + part][$0]
            + inputs[3 + part][$0]
        }
      }
    }
  }

  /// The rotation of pair i of a half of a head is by the coordinate over 10000^(2 i / half).
  @Test(arguments: [(2, 2, 4), (3, 5, 8), (4, 4, 12)])
  func rotation(rows: Int, columns: Int, width: Int) {
    let (heads, side) = (2, 4)
    var random = RandomSequence(seed: 4)
    let qkv = random.normal([2, rows * columns, 3 * heads * width])
    let table = RotaryTables(side: side)(rows: rows, columns: columns, headDim: width)
    check(RotateQueriesAndKeys(heads: heads, table: table), [qkv]) { inputs in
      var start = -width
      return mapped(inputs[0], heads: heads, width: width) { _, x in x }.enumerated().map {
        index, value in
        start = index / width * width
        guard start / (heads * width) % 3 < 2 else { return value }
        let token = index / (3 * heads * width) % (rows * columns)
        let place =
          index % width < width / 2
          ? Double(token / columns) * Double(side) / Double(rows)
          : Double(token % columns) * Double(side) / Double(columns)
        let pair = index % (width / 2) / 2
        let angle = place / pow(10000, 2 * Double(pair) / Double(width / 2))
        let other = inputs[0][index ^ 1]
        return index % 2 == 0
          ? value * cos(angle) - other * sin(angle) : value * cos(angle) + other * sin(angle)
      }
    }
  }

  @Test(arguments: [(1, 1), (3, 5), (70, 33)])
  func swiGLU(rows: Int, width: Int) {
    var random = RandomSequence(seed: 5)
    check(SwiGLU(), [random.normal([rows, 2 * width])]) { inputs in
      (0..<(rows * width)).map { index in
        let start = index / width * 2 * width + index % width
        let (a, b) = (inputs[0][start], inputs[0][start + width])
        return a / (1 + exp(-a)) * b
      }
    }
  }

  @Test func zeroShifts() {
    var random = RandomSequence(seed: 6)
    check(ZeroShifts(), [random.normal([3, 8])]) { inputs in
      (0..<3).flatMap { row -> [Double] in
        let x = Array(inputs[0][(8 * row)..<(8 * row + 8)])
        return [0, 0] + x[0..<4] + [0, 0] + x[4..<8]
      }
    }
  }

  /// In bfloat16 every operation gives bfloat16 values near its float32 ones.
  @Test func bfloat16() {
    var random = RandomSequence(seed: 7)
    let qkv = random.normal([1, 4, 24])
    let table = RotaryTables(side: 2)(rows: 2, columns: 2, headDim: 4)
    func compare(_ op: some MixedPrecisionOp, _ weights: [Tensor] = []) {
      let others = weights.map { MixedTensor.float32($0) }
      let whole = op.forward([.float32(qkv)] + others).output
      let rounded = op.forward([.bfloat16(BFloat16Tensor(rounding: qkv))] + others).output
      #expect(!whole.isBFloat16 && rounded.isBFloat16)
      let worst = zip(whole.float32.values, rounded.float32.values).map { abs($0 - $1) }.max()
      #expect((worst ?? 1) < 0.1)
    }
    compare(RotateQueriesAndKeys(heads: 2, table: table))
    compare(SwiGLU())
    compare(
      QueryKeyNorm(heads: 2, .rootMeanSquare, epsilon: 1e-6),
      [random.normal([4]), random.normal([4])])
  }

  /// Threads that run micro-batches of a model share its tables.
  @Test func tablesMayBeAskedForByManyThreads() {
    nonisolated(unsafe) let shared = RotaryTables(side: 4)
    let expected = (1...9).map {
      RotaryTables(side: 4)(rows: $0, columns: 3, headDim: 8).values
    }
    let wrong = Mutex(0)
    DispatchQueue.concurrentPerform(iterations: 900) { index in
      let rows = index % 9 + 1
      if shared(rows: rows, columns: 3, headDim: 8).values != expected[rows - 1] {
        wrong.withLock { $0 += 1 }
      }
    }
    #expect(wrong.withLock { $0 } == 0)
  }
}
