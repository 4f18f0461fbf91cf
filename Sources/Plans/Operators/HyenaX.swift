extension OperatorDescriptor {
  /// Hyena-X: gating of short causal convolutions, no attention.
  static let hyenaX = OperatorDescriptor(
    name: "hyena_x", title: "Hyena-X",
    summary: "gated short causal convolution over the raster sequence",
    slot: .attention,
    fields: [
      ConfigField(
        key: "short_filter_order", summary: "tokens that the convolution spans (K)",
        defaultValue: 4, range: 1...64, isInteger: true)
    ],
    cost: { spec, shape in
      let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
      let taps = spec.value("short_filter_order")
      let width = shape.hiddenSize
      return OperatorCost(
        parameters: 4 * width * width + 4 * width + 3 * width * (Int(taps) + 1),
        // Gating 2ND; featurizer: projections and the short convolution of 3D channels.
        flops: 2 * tokens * dim + projectionFlops(shape) + 6 * taps * tokens * dim,
        activations: 8 * tokens * dim)
    },
    label: { spec in
      let taps = spec.value("short_filter_order")
      return taps == 4 ? "hyena-x" : "hyena-x k\(numberText(taps))"
    })
}
