extension OperatorDescriptor {
  /// The two-layer perceptron with any width; the model's own ratio makes it a self-graft.
  static let multilayerPerceptron = OperatorDescriptor(
    name: "mlp", title: "MLP", summary: "two layers with GELU, of any width",
    slot: .mlp,
    fields: [
      ConfigField(
        key: "expansion_ratio", summary: "inner width relative to the hidden size (r)",
        defaultValue: 4, range: 0.25...16, isInteger: false)
    ],
    cost: { spec, shape in
      let width = mlpWidth(
        expansionRatio: spec.value("expansion_ratio"), hiddenSize: shape.hiddenSize)
      let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
      return OperatorCost(
        parameters: 2 * shape.hiddenSize * width + width + shape.hiddenSize,
        flops: 4 * tokens * dim * Double(width),
        activations: tokens * (2 * Double(width) + dim))
    },
    label: { spec in "r\(numberText(spec.value("expansion_ratio")))" },
    fit: { spec, shape in
      let ratio = spec.value("expansion_ratio")
      guard mlpWidth(expansionRatio: ratio, hiddenSize: shape.hiddenSize) < 1 else { return nil }
      return "expansion_ratio \(numberText(ratio)) of \(shape.hiddenSize) channels leaves no inner"
        + " channel; choose a larger ratio"
    })

  /// The inner width of an MLP: ratio times hidden size, cut to a whole number as in timm's `Mlp`.
  package static func mlpWidth(expansionRatio: Double, hiddenSize: Int) -> Int {
    Int(expansionRatio * Double(hiddenSize))
  }
}
