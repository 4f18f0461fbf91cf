extension OperatorDescriptor {
  /// Attention inside a window of the raster sequence.
  static let slidingWindowAttention = OperatorDescriptor(
    name: "swa", title: "Sliding-window attention",
    summary: "attention to the nearest tokens of the raster sequence",
    slot: .attention,
    fields: [
      windowField("window_left", "tokens seen before each token"),
      windowField("window_right", "tokens seen after each token"),
    ],
    cost: { spec, shape in
      let window = spec.value("window_left") + spec.value("window_right") + 1
      return attentionCost(shape, span: min(window, Double(shape.tokens)))
    },
    label: { spec in
      let (left, right) = (spec.value("window_left"), spec.value("window_right"))
      let reach = left == right ? numberText(left) : "\(numberText(left)):\(numberText(right))"
      return "swa w\(reach)"
    })

  private static func windowField(_ key: String, _ summary: String) -> ConfigField {
    ConfigField(
      key: key, summary: summary, defaultValue: 4, range: 0...65536, isInteger: true)
  }
}
