import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// y = out_proj(filter(x)) with a causal depthwise convolution along the tokens: `filter`, `out_proj`.
final class TokenFilter: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "token_filter", title: "Token filter", summary: "a convolution without gates",
      slots: [.attention],
      fields: [
        Setting("taps", 4, in: 1...64, "tokens that the convolution spans")
      ],
      cost: { spec, shape in
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        return OperatorCost(
          parameters: shape.hiddenSize * (spec.count("taps") + shape.hiddenSize + 2),
          core: 2 * tokens * dim * spec.value("taps"), projections: 2 * tokens * dim * dim,
          activations: 2 * tokens * dim)
      },
      label: { "filter k\($0.count("taps"))" }),
    sequenceMixer: { spec, context in try TokenFilter(context, taps: spec.count("taps")) })

  private let filterWeight, filterBias, outWeight, outBias: Parameter

  init(_ context: OperatorContext, taps: Int) throws {
    let dim = context.hiddenSize
    (filterWeight, filterBias) = try context.depthwise("filter", channels: dim, taps: taps)
    (outWeight, outBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
  }

  var parameters: [Parameter] { [filterWeight, filterBias, outWeight, outBias] }

  var outputLayer: OutputLayer { OutputLayer(outWeight, outBias) }

  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    tape.apply(CausalConvolution(), x, Value(filterWeight), Value(filterBias))
  }
}
