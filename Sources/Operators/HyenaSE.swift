import Plans

/// Hyena-SE: y = out_proj(q * inner(k * v)) with q, k, v from a short causal convolution of in_proj(x)
/// (keshik6/grafting `hyena_se`): `in_proj`, `short_filter`, `inner_filter`, `out_proj`.
///
/// The official class gives the inner filter `short_filter_order` taps and ignores
/// `inner_filter_len`; a plan may set `inner_filter_len` only to the same value.
enum HyenaSE {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "hyena_se", title: "Hyena-SE",
      summary: "short convolutions around and between gates",
      slots: [.attention],
      fields: [
        HyenaParts.taps("short_filter_order", "tokens that each convolution spans (K)"),
        HyenaParts.taps("inner_filter_len", "as short_filter_order", .implied),
        HyenaParts.order,
      ],
      cost: { spec, shape in
        let taps = spec.count("short_filter_order")
        return HyenaParts.cost(shape, shortTaps: taps, innerTaps: taps)
      },
      label: { HyenaParts.label("hyena-se", taps: $0.count("short_filter_order")) },
      fit: { spec, _ in
        let (inner, short) = (spec.config["inner_filter_len"], spec.value("short_filter_order"))
        guard let inner, inner != short else { return nil }
        return "inner_filter_len \(numberText(inner)) differs from short_filter_order"
          + " \(numberText(short)), but the official Hyena-SE has one length for both filters; set"
          + " them alike"
      }),
    sequenceMixer: { spec, context in
      let taps = spec.count("short_filter_order")
      return try HyenaMixer(context, shortTaps: taps, innerTaps: taps)
    }, transfer: { _ in .gatedValues(hasShortFilter: true) },
    settings: { shapes in
      guard shapes.have("in_proj", "short_filter", "inner_filter", "out_proj") else { return nil }
      return shapes.taps(of: "short_filter").map { ["short_filter_order": $0] }
    })
}
