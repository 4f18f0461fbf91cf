import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention over all tokens (timm `Attention`): `qkv`, `proj`.
///
/// As a graft it is the self-graft of the paper's section 4: the same operator with new weights.
package final class MultiHeadAttention: SequenceMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "mha", title: "MHA", summary: "multi-head attention, fresh weights (self-graft)",
      slots: [.attention], fields: [HeadsSetting.field],
      cost: { spec, shape in
        AttentionCost.attention(
          shape, span: Double(shape.tokens),
          heads: HeadsSetting.heads(spec, model: shape.numHeads))
      },
      label: { "mha\(HeadsSetting.label($0))" },
      fit: HeadsSetting.refusal),
    sequenceMixer: { spec, context in
      try MultiHeadAttention(context, heads: HeadsSetting.heads(spec, model: context.numHeads))
    }, transfer: .attention("qkv", "proj"))

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
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    let mixed = tape.apply(attention, qkv)
    return tape.linear(mixed, projWeight, projBias)
  }

  /// The softmax weights (batch, heads, tokens, tokens) on an input (batch, tokens, dim).
  package func attentionMap(_ x: Tensor) -> Tensor {
    let tape = Tape(recording: false)
    let qkv = tape.linear(Value(constant: x), qkvWeight, qkvBias)
    return attention.map(qkv.tensor)
  }
}
