import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention inside a window along the raster sequence (flash-attn `MHA` with window_size):
/// `Wqkv`, `out_proj`.
package final class SlidingWindowAttention: SequenceMixer {
  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let attention: Attention

  /// Makes the operator: each query sees `left` keys before and `right` keys after its own.
  package init(_ context: OperatorContext, heads: Int, left: Int, right: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("Wqkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
    attention = Attention(heads: heads, window: (left, right))
  }

  package var parameters: [Parameter] { [qkvWeight, qkvBias, projWeight, projBias] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let qkv = tape.apply(Linear(), x, Value(qkvWeight), Value(qkvBias))
    let mixed = tape.apply(attention, qkv)
    return tape.apply(Linear(), mixed, Value(projWeight), Value(projBias))
  }
}
