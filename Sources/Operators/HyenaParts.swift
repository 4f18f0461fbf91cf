import Autograd
import Plans

/// What the Hyena operators of keshik6/grafting share: settings, cost and initial filters.
enum HyenaParts {
  /// The depth of the recurrence: the official classes split their projection into q, k and v and so
  /// run with 2 alone.
  static let order = ConfigField(
    key: "order", summary: "depth of the recurrence: q, k and v", defaultValue: 2, range: 2...2,
    isInteger: true, isImplied: true)

  /// Taps of a convolution.
  static func taps(_ key: String, _ summary: String, isImplied: Bool = false) -> ConfigField {
    ConfigField(
      key: key, summary: summary, defaultValue: 4, range: 1...64, isInteger: true,
      isImplied: isImplied)
  }

  /// A name with the number of taps where it is not the official one.
  static func label(_ name: String, taps: Int) -> String { taps == 4 ? name : "\(name) k\(taps)" }

  /// The cost of a Hyena operator with D x D projections, by the rules of the paper's Table 4.
  ///
  /// Gating 2ND, inner convolution 2KND; featurizer: projections and the short convolution of 3D
  /// channels, 6KND.
  static func cost(_ shape: ModelShape, shortTaps: Int?, innerTaps: Int?) -> OperatorCost {
    let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
    var cost = OperatorCost(
      parameters: AttentionCost.projectionParameters(shape),
      core: 2 * tokens * dim, projections: AttentionCost.projectionFlops(shape),
      activations: 5 * tokens * dim)
    if let taps = shortTaps {
      cost =
        cost
        + OperatorCost(
          parameters: 3 * shape.hiddenSize * (taps + 1),
          projections: 6 * Double(taps) * tokens * dim, activations: 3 * tokens * dim)
    }
    if let taps = innerTaps {
      cost =
        cost
        + OperatorCost(
          parameters: shape.hiddenSize * (taps + 1), core: 2 * Double(taps) * tokens * dim,
          activations: 2 * tokens * dim)
    }
    return cost
  }
}

extension OperatorContext {
  /// A depthwise convolution's weight (channels, 1, taps) and bias that start as the identity: the
  /// last tap, which meets the present token, is 1.
  func identityFilter(_ name: String, channels: Int, taps: Int) throws -> (Parameter, Parameter) {
    let filter = [Float](repeating: 0, count: taps - 1) + [1]
    let table = (0..<channels).flatMap { _ in filter }
    return (
      try parameter("\(name).weight", [channels, 1, taps], .table(table)),
      try parameter("\(name).bias", [channels], .zeros)
    )
  }
}
