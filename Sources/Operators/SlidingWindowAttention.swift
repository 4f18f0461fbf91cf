import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention inside a window along the raster sequence (flash-attn `MHA` with window_size):
/// `Wqkv`, `out_proj`.
package final class SlidingWindowAttention: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "swa", title: "Sliding-window attention",
      summary: "attention to the nearest tokens of the raster sequence",
      slots: [.attention],
      fields: [
        Setting("window_left", 4, in: 0...65536, "tokens seen before each token"),
        Setting("window_right", 4, in: 0...65536, "tokens seen after each token"),
        HeadsSetting.field,
      ],
      cost: { spec, shape in
        let window = spec.value("window_left") + spec.value("window_right") + 1
        return AttentionCost.attention(
          shape, span: min(window, Double(shape.tokens)),
          heads: HeadsSetting.heads(spec, model: shape.numHeads))
      },
      label: { spec in
        let (left, right) = (spec.count("window_left"), spec.count("window_right"))
        let reach = left == right ? "\(left)" : "\(left):\(right)"
        return "swa w\(reach)\(HeadsSetting.label(spec))"
      },
      fit: HeadsSetting.refusal),
    sequenceMixer: { spec, context in
      try SlidingWindowAttention(
        context, heads: HeadsSetting.heads(spec, model: context.numHeads),
        left: spec.count("window_left"), right: spec.count("window_right"))
    }, transfer: { _ in .attention("Wqkv", "out_proj") },
    settings: { $0.have("Wqkv", "out_proj") ? [:] : nil })

  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let attention: Attention
  private let queryKeys: QueryKeys

  /// Makes the operator; each query attends to `left` keys before and `right` keys after its own.
  package init(_ context: OperatorContext, heads: Int, left: Int, right: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("Wqkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
    attention = Attention(heads: heads, window: (left, right))
    queryKeys = try QueryKeys(context, heads: heads)
  }

  package var parameters: [Parameter] {
    [qkvWeight, qkvBias, projWeight, projBias] + queryKeys.parameters
  }

  package var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    return tape.apply(attention, queryKeys(qkv, grid: grid, on: tape))
  }
}
