import Plans

/// Hyena-Y: y = out_proj(q * inner(k * v)) with q, k, v = in_proj(x) (keshik6/grafting `hyena_y`):
/// `in_proj`, `inner_filter`, `out_proj`.
enum HyenaY {
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
      try HyenaMixer(context, shortTaps: nil, innerTaps: spec.count("inner_filter_len"))
    }, transfer: { _ in .gatedValues(hasShortFilter: false) },
    settings: { shapes in
      guard shapes.have("in_proj", "inner_filter", "out_proj") else { return nil }
      return shapes.taps(of: "inner_filter").map { ["inner_filter_len": $0] }
    })
}
