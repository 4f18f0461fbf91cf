import Autograd
import Nn
import Plans
import TensorCore

/// Linear attention over all tokens with the feature map elu + 1: `qkv`, `proj`.
///
/// Source: Katharopoulos et al. 2020, arXiv 2006.16236; parameters are named as those of timm
/// `Attention`.
package final class LinearAttentionMixer: SequenceMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "linear_attention", title: "Linear attention",
      summary: "attention at a cost linear in the tokens",
      slots: [.attention], fields: [HeadsSetting.field],
      cost: { spec, shape in
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        let headDim = dim / Double(HeadsSetting.heads(spec, model: shape.numHeads))
        // Core: phi(k)^T v and phi(q) (phi(k)^T v), 4ND D/H; normaliser: sum, product, division,
        // 4ND.
        return OperatorCost(
          parameters: AttentionCost.projectionParameters(shape),
          core: 4 * tokens * dim * headDim + 4 * tokens * dim,
          projections: AttentionCost.projectionFlops(shape),
          activations: 5 * tokens * dim)
      },
      label: { "lin-attn\(HeadsSetting.label($0))" },
      fit: HeadsSetting.refusal),
    sequenceMixer: { spec, context in
      try LinearAttentionMixer(
        context, heads: HeadsSetting.heads(spec, model: context.numHeads))
    }, transfer: .values)

  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let attention: LinearAttention

  package init(_ context: OperatorContext, heads: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    attention = LinearAttention(heads: heads)
  }

  package var parameters: [Parameter] { [qkvWeight, qkvBias, projWeight, projBias] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    let mixed = tape.apply(attention, qkv)
    return tape.linear(mixed, projWeight, projBias)
  }
}
