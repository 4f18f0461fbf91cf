import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention with keys and values downsampled over blocks of the token grid (PixArt-sigma
/// `AttentionKVCompress`, sampling `conv`): `qkv`, `proj`, `sr`, `norm`.
package final class CompressedAttention: SequenceMixer, LinearOutput {
  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let mergeWeight, mergeBias, normWeight, normBias: Parameter
  private let attention: CrossAttention
  private let factor: Int

  /// Makes the operator: one key and value for every factor x factor tokens.
  package init(_ context: OperatorContext, heads: Int, factor: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    // The downsampling convolution is initialised to the mean of a block.
    let mean = [Float](repeating: 1 / Float(factor * factor), count: dim * factor * factor)
    mergeWeight = try context.parameter("sr.weight", [dim, 1, factor, factor], .table(mean))
    mergeBias = try context.parameter("sr.bias", [dim], .zeros)
    normWeight = try context.parameter("norm.weight", [dim], .ones)
    normBias = try context.parameter("norm.bias", [dim], .zeros)
    attention = CrossAttention(heads: heads)
    self.factor = factor
  }

  package var parameters: [Parameter] {
    [
      qkvWeight, qkvBias, projWeight, projBias, mergeWeight, mergeBias, normWeight, normBias,
    ]
  }

  package var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias)
    let merged = tape.apply(
      TokenCompression(rows: grid.rows, columns: grid.columns, factor: factor), qkv,
      Value(mergeWeight), Value(mergeBias))
    let keysAndValues = tape.apply(LayerNorm(), merged, Value(normWeight), Value(normBias))
    return tape.apply(attention, qkv, keysAndValues)
  }
}
