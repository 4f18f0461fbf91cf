import Plans

/// Hyena-X: y = out_proj(q * (k * v)) with q, k, v from a short causal convolution of in_proj(x)
/// (keshik6/grafting `hyena_x`): `in_proj`, `short_filter`, `out_proj`.
enum HyenaX {
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
      try HyenaMixer(context, shortTaps: spec.count("short_filter_order"), innerTaps: nil)
    }, transfer: { _ in .gatedValues(hasShortFilter: true) },
    settings: { shapes in
      guard shapes.have("in_proj", "short_filter", "out_proj") else { return nil }
      return shapes.taps(of: "short_filter").map { ["short_filter_order": $0] }
    })
}
