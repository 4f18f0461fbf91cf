import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention to near tokens and linear attention to all others, normalised together: `qkv`, `mix`,
/// `proj`.
///
/// A near token weighs m exp(q . k head_dim^-1/2), a far one (1 - m) phi(q) . phi(k) / head_dim with phi = elu
/// + 1 and m = sigmoid(mix) of the head (after LoLCATs, arXiv 2410.10254). Near is a window of the token grid
/// or of the raster sequence.
final class HybridAttention: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "hybrid", title: "Hybrid attention",
      summary: "softmax attention to near tokens, linear attention to the others",
      slots: [.attention],
      fields: [
        WindowSetting.field("extent of the near window along each axis"),
        Setting("axes", 2, in: 1...2, "1 takes neighbours in the sequence, 2 on the grid"),
        HeadsSetting.field,
      ],
      cost: { spec, shape in
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        let heads = HeadsSetting.heads(spec, model: shape.numHeads)
        let span =
          spec.count("axes") == 2
          ? WindowSetting.span(spec, shape) : min(spec.value("window"), tokens)
        var cost = AttentionCost.attention(shape, span: span, heads: heads)
        // Near keys have both scores; linear attention over all as in `linear_attention`.
        cost.parameters += heads
        cost.bytes += 4 * Double(heads)
        cost.coreFlops +=
          2 * tokens * span * dim + 4 * tokens * dim * dim / Double(heads) + 4 * tokens * dim
        return cost
      },
      label: { spec in
        let window = spec.count("window") == 7 ? "" : " k\(spec.count("window"))"
        return "hybrid\(spec.count("axes") == 1 ? " 1-D" : "")\(window)\(HeadsSetting.label(spec))"
      },
      fit: { spec, shape in WindowSetting.refusal(spec) ?? HeadsSetting.refusal(spec, shape) }),
    sequenceMixer: { spec, context in try HybridAttention(context, spec) },
    transfer: { _ in .attention("qkv", "proj") },
    settings: { shapes in
      shapes.have("qkv", "proj", and: ["mix"])
        ? shapes["mix", 0].map { ["num_heads": Double($0)] } : nil
    })

  private let qkvWeight, qkvBias, mix, projWeight, projBias: Parameter
  private let heads, window: Int
  private let isOnGrid: Bool
  private let queryKeys: QueryKeys

  init(_ context: OperatorContext, _ spec: OperatorSpec) throws {
    let dim = context.hiddenSize
    heads = HeadsSetting.heads(spec, model: context.numHeads)
    (window, isOnGrid) = (spec.count("window"), spec.count("axes") == 2)
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    mix = try context.parameter("mix", [heads], .zeros)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    queryKeys = try QueryKeys(context, heads: heads)
  }

  var parameters: [Parameter] {
    [qkvWeight, qkvBias, mix, projWeight, projBias] + queryKeys.parameters
  }

  var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    return tape.apply(
      NeighborhoodAttention(
        heads: heads, grid: isOnGrid ? (grid.rows, grid.columns) : (1, grid.tokens),
        window: isOnGrid ? (window, window) : (1, window)),
      queryKeys(qkv, grid: grid, on: tape), Value(mix))
  }
}
