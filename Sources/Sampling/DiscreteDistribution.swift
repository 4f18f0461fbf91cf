import Plans

/// Categorical distribution over 0 ..< count.
package struct DiscreteDistribution: Equatable, Sendable {
  /// Number of timesteps of the training process.
  package static let timesteps = TimestepDensity.timesteps

  /// Cumulative sums of the weights.
  private let sums: [Double]

  /// Makes a distribution; the weights must be at least 0 and their sum positive.
  package init(weights: [Double]) {
    var total = 0.0
    sums = weights.map { weight in
      total += weight
      return total
    }
    precondition(total > 0, "DiscreteDistribution: weights add up to \(total)")
  }

  /// Makes a distribution of timesteps of the density that knots describe; nil if they describe none
  /// (`TimestepDensity`).
  package init?(timestepKnots knots: [[Double]]) {
    guard let weights = TimestepDensity.weights(knots) else { return nil }
    self.init(weights: weights)
  }

  /// Returns the inverse cumulative distribution at `uniform` in [0, 1).
  package func value(at uniform: Double) -> Int {
    let target = uniform * sums[sums.count - 1]
    var (low, high) = (0, sums.count - 1)
    while low < high {
      let middle = (low + high) / 2
      if sums[middle] > target { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
