import Plans

/// FLOP and parameter counts shared by attention and its replacements, by the rules of the paper's
/// Table 4.
enum AttentionCost {
  /// Cost of attention in which each query attends to `span` keys, without correction at the ends,
  /// as in the paper.
  ///
  /// Core 4NsD + 2NsH (scores, weighted sum, softmax), featurizer 8ND^2 + 8ND (projections).
  static func attention(_ shape: ModelShape, span: Double, heads: Int) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    let core = 4 * tokens * span * dim + 2 * tokens * span * Double(heads)
    return OperatorCost(
      parameters: projectionParameters(shape), core: core, projections: projectionFlops(shape),
      activations: 5 * tokens * dim + Double(heads) * tokens * span)
  }

  /// Parameters of the four D x D projections with biases: 4D^2 + 4D.
  static func projectionParameters(_ shape: ModelShape) -> Int {
    4 * shape.hiddenSize * shape.hiddenSize + 4 * shape.hiddenSize
  }

  /// FLOPs of the four D x D projections with biases: 8ND^2 + 8ND.
  static func projectionFlops(_ shape: ModelShape) -> Double {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    return 8 * tokens * dim * dim + 8 * tokens * dim
  }
}

/// The `num_heads` setting of attention operators; 0 selects the model's number of heads.
enum HeadsSetting {
  static let field = Setting(
    "num_heads", 0, in: 0...1024, "attention heads; 0 takes the model's", .modelHeads)

  /// The number of heads of a plan entry in a model.
  static func heads(_ spec: OperatorSpec, model heads: Int) -> Int {
    let own = spec.count("num_heads")
    return own == 0 ? heads : own
  }

  /// The reason why the channels cannot be split into the heads; nil if they can.
  static func refusal(_ spec: OperatorSpec, _ shape: ModelShape) -> String? {
    let heads = heads(spec, model: shape.numHeads)
    guard !shape.hiddenSize.isMultiple(of: heads) else { return nil }
    return
      "num_heads \(heads) does not divide the hidden size \(shape.hiddenSize); choose a divisor"
  }

  /// Label suffix for a number of heads that differs from the model's, for example ` h8`.
  static func label(_ spec: OperatorSpec) -> String {
    let own = spec.count("num_heads")
    return own == 0 ? "" : " h\(own)"
  }
}
