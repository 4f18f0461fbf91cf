import Autograd
import Nn
import Plans
import TensorCore

/// MLP-Hyena-X: y = out_proj(q * (k * v)) with q, k, v (each of width r D) from a causal
/// convolution of in_proj(x) along the features, one filter per token (keshik6/grafting
/// `mlp_hyena_x`): `in_proj`, `short_filter`, `out_proj`.
///
/// The per-token filters fix the number of tokens to `l_max`.
package final class MLPHyenaX: ChannelMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "mlp_hyena_x", title: "MLP-Hyena-X",
      summary: "gated convolution along the features",
      slots: [.mlp],
      fields: [
        Setting(
          "expansion_ratio", 2, in: 1...16, "width of q, k and v relative to the hidden size (r)"),
        HyenaParts.taps("short_filter_order", "features that the convolution spans (K)"),
        Setting(
          "l_max", 256, in: 1...Double(1 << 24), "number of tokens, as the model has", .implied),
        HyenaParts.order,
      ],
      cost: { spec, shape in
        let (dim, ratio) = (shape.hiddenSize, spec.count("expansion_ratio"))
        let (tokens, width) = (Double(shape.tokens), Double(ratio * dim))
        return OperatorCost(
          parameters: 4 * dim * dim * ratio + 3 * dim * ratio + dim
            + shape.tokens * (spec.count("short_filter_order") + 1),
          // Projections 8rND^2 and gating 2rND; Table 4 does not count this convolution.
          core: 8 * tokens * Double(dim) * width + 2 * tokens * width,
          activations: tokens * (4 * width + Double(dim)))
      },
      label: { spec in
        let ratio = spec.count("expansion_ratio")
        return HyenaParts.label(
          ratio == 2 ? "hy-x" : "hy-x r\(ratio)", taps: spec.count("short_filter_order"))
      },
      fit: { spec, shape in refusal(spec, tokens: shape.tokens) }),
    channelMixer: { spec, context in
      if let message = refusal(spec, tokens: context.tokens) {
        throw PlanError(key: "config", message)
      }
      return try MLPHyenaX(
        context, expansionRatio: spec.count("expansion_ratio"),
        shortFilterOrder: spec.count("short_filter_order"))
    },
    settings: { shapes in
      guard shapes.have("in_proj", "short_filter", "out_proj"),
        let width = shapes["out_proj.weight", 1], let taps = shapes.taps(of: "short_filter")
      else { return nil }
      return [
        "expansion_ratio": Double(width / shapes.hiddenSize), "short_filter_order": taps,
      ]
    })

  private static func refusal(_ spec: OperatorSpec, tokens: Int) -> String? {
    guard let length = spec.config["l_max"], length != Double(tokens) else { return nil }
    return "l_max \(numberText(length)) differs from the \(tokens) tokens of the model, and every"
      + " token has a filter of its own; set it to \(tokens) or remove the setting"
  }

  private let inWeight, inBias, filterWeight, filterBias, outWeight, outBias: Parameter

  package init(_ context: OperatorContext, expansionRatio: Int, shortFilterOrder: Int) throws {
    let dim = context.hiddenSize
    let width = expansionRatio * dim
    (inWeight, inBias) = try context.linear("in_proj", inputs: dim, outputs: 3 * width)
    (filterWeight, filterBias) = try context.depthwise(
      "short_filter", channels: context.tokens, taps: shortFilterOrder)
    (outWeight, outBias) = try context.linear("out_proj", inputs: width, outputs: dim)
  }

  package var parameters: [Parameter] {
    [inWeight, inBias, filterWeight, filterBias, outWeight, outBias]
  }

  package var outputLayer: OutputLayer { OutputLayer(outWeight, outBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let projected = tape.linear(x, inWeight, inBias, rounds: true)
    return tape.apply(FeatureHyena(), projected, Value(filterWeight), Value(filterBias))
  }
}
