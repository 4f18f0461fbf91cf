extension OperatorDescriptor {
  /// Multi-head attention as in the model itself, with fresh weights: a self-graft.
  static let multiHeadAttention = OperatorDescriptor(
    name: "mha", title: "MHA", summary: "multi-head attention, fresh weights (self-graft)",
    slot: .attention, fields: [],
    cost: { _, shape in attentionCost(shape, span: Double(shape.tokens)) },
    label: { _ in "mha" })

  /// Attention in which each query sees `span` keys; the paper makes no correction at the ends.
  ///
  /// Core 4NsD + 2NsH (scores, weighted sum, softmax), featurizer 8ND^2 + 8ND (projections).
  static func attentionCost(_ shape: ModelShape, span: Double) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    let heads = Double(shape.numHeads)
    let core = 4 * tokens * span * dim + 2 * tokens * span * heads
    return OperatorCost(
      parameters: 4 * shape.hiddenSize * shape.hiddenSize + 4 * shape.hiddenSize,
      flops: core + projectionFlops(shape),
      activations: 5 * tokens * dim + heads * tokens * span)
  }

  /// The four D x D projections with their biases: 8ND^2 + 8ND.
  static func projectionFlops(_ shape: ModelShape) -> Double {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    return 8 * tokens * dim * dim + 8 * tokens * dim
  }
}
