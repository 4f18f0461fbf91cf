/// Categorical distribution over 0 ..< count.
package struct DiscreteDistribution: Equatable, Sendable {
  /// Number of timesteps of the training process.
  package static let timesteps = 1000

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

  /// Makes a piecewise linear distribution of timesteps from knots [timestep, weight] with rising
  /// timesteps.
  ///
  /// It is constant before the first and after the last knot; nil if the knots are not of that form.
  package init?(timestepKnots knots: [[Double]]) {
    guard !knots.isEmpty, knots.allSatisfy({ $0.count == 2 && $0[1] >= 0 && $0[1].isFinite }),
      zip(knots, knots.dropFirst()).allSatisfy({ $0[0] < $1[0] }),
      knots[0][0] >= 0, knots[knots.count - 1][0] <= Double(Self.timesteps - 1)
    else { return nil }
    let weights = (0..<Self.timesteps).map { step in
      let position = Double(step)
      let above = knots.firstIndex { $0[0] >= position } ?? knots.count
      if above == 0 { return knots[0][1] }
      if above == knots.count { return knots[above - 1][1] }
      let (low, high) = (knots[above - 1], knots[above])
      return low[1] + (high[1] - low[1]) * (position - low[0]) / (high[0] - low[0])
    }
    let total = weights.reduce(0, +)
    guard total > 0, total.isFinite else { return nil }
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
