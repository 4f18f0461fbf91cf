import Autograd
import Plans

/// Settings, cost and initial filters of the Hyena operators of keshik6/grafting.
enum HyenaParts {
  /// Depth of the recurrence; always 2, because the official classes split the projection into q, k
  /// and v.
  static let order = Setting(
    "order", 2, in: 2...2, "depth of the recurrence: q, k and v", .implied)

  /// Setting for the number of taps of a convolution.
  static func taps(
    _ key: String, _ summary: String, _ traits: SettingTraits = []
  ) -> Setting<Int> {
    Setting(key, 4, in: 1...64, summary, traits)
  }

  /// Appends the number of taps to a name if it is not the official default.
  static func label(_ name: String, taps: Int) -> String { taps == 4 ? name : "\(name) k\(taps)" }

  /// Cost of a Hyena operator with D x D projections, by the rules of the paper's Table 4.
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
  /// Returns the weight (channels, 1, taps) and bias of a depthwise convolution initialised to the
  /// identity: the last tap, which reads the current token, is 1.
  func identityFilter(_ name: String, channels: Int, taps: Int) throws -> (Parameter, Parameter) {
    let filter = [Float](repeating: 0, count: taps - 1) + [1]
    let table = (0..<channels).flatMap { _ in filter }
    return (
      try parameter("\(name).weight", [channels, 1, taps], .table(table)),
      try parameter("\(name).bias", [channels], .zeros)
    )
  }
}
