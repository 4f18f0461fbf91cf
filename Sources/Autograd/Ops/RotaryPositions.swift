import CKernels
import Foundation
import TensorCore

/// Rotates queries and keys of every head by the positions of their tokens: qkv (batch, tokens, 3 dim) -> the same
/// shape, with the values as they are.
///
/// Channels 2i and 2i + 1 of a head are a pair that turns by the pair's angle. Source: Su et al., arXiv 2104.09864,
/// in the two-dimensional form of EVA-02 and LightningDiT.
package struct RotateQueriesAndKeys: MixedPrecisionOp {
  private let heads: Int
  private let table: Tensor

  /// Makes the operation of a table (tokens, head_dim) with cosine and sine of every pair.
  package init(heads: Int, table: Tensor) { (self.heads, self.table) = (heads, table) }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let y = inputs[0].isBFloat16 ? inputs[0].float32 : inputs[0].float32.copied()
    rotate(y, 1)
    return (inputs[0].isBFloat16 ? .bfloat16(BFloat16Tensor(rounding: y)) : .float32(y), ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let gradient = gradOutput.copied()
    rotate(gradient, -1)
    sink.pass(0, gradient)
  }

  private func rotate(_ x: Tensor, _ direction: Float) {
    let (batch, tokens, stride) = (x.shape[0], x.shape[1], x.shape[2])
    let width = table.shape[1]
    precondition(
      table.shape[0] == tokens && 3 * heads * width == stride,
      "RotateQueriesAndKeys: \(x.shape), \(heads) heads, table \(table.shape)")
    Parallel.ranges(batch * tokens, grain: max(1, 4096 / stride)) { range in
      var row = range.lowerBound
      while row < range.upperBound {
        let token = row % tokens
        let rows = min(range.upperBound - row, tokens - token)
        // Keys lie behind the queries and turn alike.
        ck_rotate_pairs_f32(
          x.pointer + row * stride, stride, table.pointer + token * width, direction, rows, heads,
          width)
        ck_rotate_pairs_f32(
          x.pointer + row * stride + heads * width, stride, table.pointer + token * width,
          direction, rows, heads, width)
        row += rows
      }
    }
  }
}

/// Angles of 2-D rotary positions on a grid of tokens, shared by the blocks of a model and by the threads that run
/// micro-batches of it.
package final class RotaryTables {
  private let side: Int
  private let lock = NSLock()
  private var made: [Key: Tensor] = [:]

  private struct Key: Hashable {
    let rows, columns, width: Int
  }

  /// Makes the tables of a model with `side` tokens along each axis; on another grid the coordinates are scaled to
  /// that.
  package init(side: Int) { self.side = side }

  /// The table (tokens, head_dim) of a grid: the first half of a head's pairs turns with the row of the token, the
  /// second half with its column, pair i of a half of w channels by the coordinate times 10000^(-2 i / w).
  package func callAsFunction(rows: Int, columns: Int, headDim: Int) -> Tensor {
    lock.withLock { table(Key(rows: rows, columns: columns, width: headDim)) }
  }

  private func table(_ key: Key) -> Tensor {
    if let table = made[key] { return table }
    let (rows, columns, headDim) = (key.rows, key.columns, key.width)
    precondition(headDim % 4 == 0, "RotaryTables: heads of \(headDim) channels")
    let half = headDim / 2
    let table = Tensor([rows * columns, headDim])
    for token in 0..<(rows * columns) {
      let places = [
        Double(token / columns) * Double(side) / Double(rows),
        Double(token % columns) * Double(side) / Double(columns),
      ]
      for pair in 0..<half {
        let (axis, index) = (pair / (half / 2), pair % (half / 2))
        let angle = places[axis] * pow(10000, -2 * Double(index) / Double(half))
        table[token * headDim + 2 * pair] = Float(cos(angle))
        table[token * headDim + 2 * pair + 1] = Float(sin(angle))
      }
    }
    if made.count > 4 { made = [:] }
    made[key] = table
    return table
  }
}
