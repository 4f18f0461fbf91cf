import Autograd
import Nn
import Plans
import TensorCore

/// Hyena-X: y = out_proj(q * (k * v)) with q, k, v from a short causal convolution of in_proj(x)
/// (keshik6/grafting `hyena_x`): `in_proj`, `short_filter`, `out_proj`.
package final class HyenaX: SequenceMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "hyena_x", title: "Hyena-X",
      summary: "gated short causal convolution over the raster sequence",
      slots: [.attention],
      fields: [
        HyenaParts.taps("short_filter_order", "tokens that the convolution spans (K)"),
        HyenaParts.order,
      ],
      cost: { spec, shape in
        HyenaParts.cost(shape, shortTaps: spec.count("short_filter_order"), innerTaps: nil)
      },
      label: { HyenaParts.label("hyena-x", taps: $0.count("short_filter_order")) }),
    sequenceMixer: { spec, context in
      try HyenaX(context, shortFilterOrder: spec.count("short_filter_order"))
    }, transfer: .gatedValues(hasShortFilter: true),
    settings: { shapes in
      guard shapes.have("in_proj", "short_filter", "out_proj") else { return nil }
      return shapes.taps(of: "short_filter").map { ["short_filter_order": $0] }
    })

  private let inWeight, inBias, filterWeight, filterBias, outWeight, outBias: Parameter

  package init(_ context: OperatorContext, shortFilterOrder: Int) throws {
    let dim = context.hiddenSize
    (inWeight, inBias) = try context.linear("in_proj", inputs: dim, outputs: 3 * dim)
    (filterWeight, filterBias) = try context.depthwise(
      "short_filter", channels: 3 * dim, taps: shortFilterOrder)
    (outWeight, outBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
  }

  package var parameters: [Parameter] {
    [inWeight, inBias, filterWeight, filterBias, outWeight, outBias]
  }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let projected = tape.linear(x, inWeight, inBias, rounds: true)
    let gated = tape.apply(
      Hyena(short: true, inner: false), projected, Value(filterWeight), Value(filterBias))
    return tape.linear(gated, outWeight, outBias)
  }
}
