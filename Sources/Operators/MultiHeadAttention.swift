import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention over all tokens (timm `Attention`): `qkv`, `proj`.
///
/// As a graft it is the self-graft of the paper's section 4: the same operator with new weights.
package final class MultiHeadAttention: SequenceMixer {
  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let attention: Attention
  /// Number of heads.
  package let heads: Int

  package init(_ context: OperatorContext, heads: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    attention = Attention(heads: heads)
    self.heads = heads
  }

  package var parameters: [Parameter] { [qkvWeight, qkvBias, projWeight, projBias] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let qkv = tape.apply(Linear(), x, Value(qkvWeight), Value(qkvBias))
    let mixed = tape.apply(attention, qkv)
    return tape.apply(Linear(), mixed, Value(projWeight), Value(projBias))
  }

  /// The softmax weights (batch, heads, tokens, tokens) on an input (batch, tokens, dim).
  package func attentionMap(_ x: Tensor) -> Tensor {
    let tape = Tape(recording: false)
    let qkv = tape.apply(
      Linear(), Value(constant: x), Value(qkvWeight), Value(qkvBias))
    return attention.map(qkv.tensor)
  }
}
