import Autograd
import Nn
import Plans
import TensorCore

/// Hyena-Y: y = out_proj(q * inner(k * v)) with q, k, v = in_proj(x) (keshik6/grafting `hyena_y`):
/// `in_proj`, `inner_filter`, `out_proj`.
package final class HyenaY: SequenceMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "hyena_y", title: "Hyena-Y",
      summary: "short causal convolution between the gates",
      slots: [.attention],
      fields: [
        HyenaParts.taps("inner_filter_len", "tokens that the convolution spans (K)"),
        HyenaParts.order,
      ],
      cost: { spec, shape in
        HyenaParts.cost(shape, shortTaps: nil, innerTaps: spec.count("inner_filter_len"))
      },
      label: { HyenaParts.label("hyena-y", taps: $0.count("inner_filter_len")) }),
    sequenceMixer: { spec, context in
      try HyenaY(context, taps: spec.count("inner_filter_len"))
    }, transfer: .gatedValues(hasShortFilter: false),
    settings: { shapes in
      guard shapes.have("in_proj", "inner_filter", "out_proj") else { return nil }
      return shapes.taps(of: "inner_filter").map { ["inner_filter_len": $0] }
    })

  private let inWeight, inBias, innerWeight, innerBias, outWeight, outBias: Parameter

  package init(_ context: OperatorContext, taps: Int) throws {
    let dim = context.hiddenSize
    (inWeight, inBias) = try context.linear("in_proj", inputs: dim, outputs: 3 * dim)
    (innerWeight, innerBias) = try context.identityFilter(
      "inner_filter", channels: dim, taps: taps)
    (outWeight, outBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
  }

  package var parameters: [Parameter] {
    [inWeight, inBias, innerWeight, innerBias, outWeight, outBias]
  }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let qkv = tape.linear(x, inWeight, inBias, rounds: true)
    let gated = tape.apply(
      Hyena(short: false, inner: true), qkv, Value(innerWeight), Value(innerBias))
    return tape.linear(gated, outWeight, outBias)
  }
}
