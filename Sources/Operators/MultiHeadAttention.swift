import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention over all tokens (timm `Attention`): `qkv`, `proj`.
///
/// As a replacement it is the self-graft of the paper's section 4: the same operator with new
/// weights.
package final class MultiHeadAttention: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "mha", title: "MHA", summary: "multi-head attention, fresh weights (self-graft)",
      slots: [.attention],
      fields: [
        HeadsSetting.field,
        Setting(
          "qkv_bias", 1, in: 0...1, "1 with biases of queries, keys and values, 0 without",
          .implied),
      ],
      cost: { spec, shape in
        var cost = AttentionCost.attention(
          shape, span: Double(shape.tokens),
          heads: HeadsSetting.heads(spec, model: shape.numHeads))
        if spec.value("qkv_bias") == 0 {
          let biases = 3 * shape.hiddenSize
          cost.parameters -= biases
          cost.projectionFlops -= 2 * Double(shape.tokens * biases)
          cost.bytes -= 4 * Double(biases)
        }
        return cost
      },
      label: { "mha\(HeadsSetting.label($0))" },
      fit: HeadsSetting.refusal),
    sequenceMixer: { spec, context in
      try MultiHeadAttention(
        context, heads: HeadsSetting.heads(spec, model: context.numHeads),
        hasQKVBias: spec.value("qkv_bias") == 1)
    }, transfer: { _ in .attention("qkv", "proj") },
    settings: { shapes in
      if shapes.have("qkv", "proj") { return ["qkv_bias": 1] }
      return shapes.have("proj", and: ["qkv.weight"]) ? ["qkv_bias": 0] : nil
    })

  private let qkvWeight, projWeight, projBias: Parameter
  private let qkvBias: Parameter?
  private let queryKeys: QueryKeys
  private let attention: Attention
  /// Number of heads.
  package let heads: Int

  /// Makes the operator; without `hasQKVBias` queries, keys and values have no bias.
  package init(_ context: OperatorContext, heads: Int, hasQKVBias: Bool = true) throws {
    let dim = context.hiddenSize
    if hasQKVBias {
      (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    } else {
      (qkvWeight, qkvBias) = (try context.weight("qkv", inputs: dim, outputs: 3 * dim), nil)
    }
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    attention = Attention(heads: heads)
    queryKeys = try QueryKeys(context, heads: heads)
    self.heads = heads
  }

  package var parameters: [Parameter] {
    [qkvWeight, qkvBias, projWeight, projBias].compactMap(\.self) + queryKeys.parameters
  }

  package var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    return tape.apply(attention, queryKeys(qkv, grid: grid, on: tape))
  }

  /// Computes the softmax weights (batch, heads, tokens, tokens) of an input (batch, tokens, dim).
  package func attentionMap(_ x: Tensor) -> Tensor {
    let tape = Tape(recording: false)
    let qkv = tape.linear(Value(constant: x), qkvWeight, qkvBias)
    let grid = TokenGrid(tokens: x.shape[1])
    return attention.map(queryKeys(qkv, grid: grid, on: tape).tensor)
  }
}
