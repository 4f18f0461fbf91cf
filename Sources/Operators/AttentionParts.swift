import Plans

/// The accounting of the paper's Table 4 for what attention and its replacements share.
enum AttentionCost {
  /// Attention in which each query sees `span` keys; the paper makes no correction at the ends.
  ///
  /// Core 4NsD + 2NsH (scores, weighted sum, softmax), featurizer 8ND^2 + 8ND (projections).
  static func attention(_ shape: ModelShape, span: Double, heads: Int) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    let core = 4 * tokens * span * dim + 2 * tokens * span * Double(heads)
    return OperatorCost(
      parameters: projectionParameters(shape), core: core, projections: projectionFlops(shape),
      activations: 5 * tokens * dim + Double(heads) * tokens * span)
  }

  /// The four D x D projections with their biases: 4D^2 + 4D.
  static func projectionParameters(_ shape: ModelShape) -> Int {
    4 * shape.hiddenSize * shape.hiddenSize + 4 * shape.hiddenSize
  }

  /// The four D x D projections with their biases: 8ND^2 + 8ND.
  static func projectionFlops(_ shape: ModelShape) -> Double {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    return 8 * tokens * dim * dim + 8 * tokens * dim
  }
}

/// The `num_heads` setting of attention operators; 0 stands for the model's number of heads.
enum HeadsSetting {
  static let field = ConfigField(
    key: "num_heads", summary: "attention heads; 0 takes the model's", defaultValue: 0,
    range: 0...1024, isInteger: true, modelValue: { Double($0.numHeads) })

  /// The number of heads of a plan entry in a model.
  static func heads(_ spec: OperatorSpec, model heads: Int) -> Int {
    let own = spec.count("num_heads")
    return own == 0 ? heads : own
  }

  /// Why the heads cannot share out the channels, if so.
  static func refusal(_ spec: OperatorSpec, _ shape: ModelShape) -> String? {
    let heads = heads(spec, model: shape.numHeads)
    guard !shape.hiddenSize.isMultiple(of: heads) else { return nil }
    return
      "num_heads \(heads) does not divide the hidden size \(shape.hiddenSize); choose a divisor"
  }

  /// What a label adds for heads other than the model's, for example ` h8`.
  static func label(_ spec: OperatorSpec) -> String {
    let own = spec.count("num_heads")
    return own == 0 ? "" : " h\(own)"
  }
}
