import TensorCore

/// The distribution from which training draws its timesteps, 0 ..< 1000.
package struct TimestepDensity: Equatable, Sendable {
  /// Number of steps of the training process.
  package static let count = 1000

  /// Running sums of the weights; empty for the uniform density, which needs none.
  private let sums: [Double]

  /// Every timestep equally often, as upstream.
  package static let uniform = TimestepDensity(sums: [])

  private init(sums: [Double]) { self.sums = sums }

  /// Makes a piecewise linear density from knots [timestep, weight] with rising timesteps.
  ///
  /// It is constant before the first and after the last knot; nil if the knots are not of that form.
  package init?(knots: [[Double]]) {
    guard !knots.isEmpty, knots.allSatisfy({ $0.count == 2 && $0[1] >= 0 && $0[1].isFinite }),
      zip(knots, knots.dropFirst()).allSatisfy({ $0[0] < $1[0] }),
      knots[0][0] >= 0, knots[knots.count - 1][0] <= Double(Self.count - 1)
    else { return nil }
    var sums: [Double] = []
    var total = 0.0
    for step in 0..<Self.count {
      let position = Double(step)
      let above = knots.firstIndex { $0[0] >= position } ?? knots.count
      if above == 0 {
        total += knots[0][1]
      } else if above == knots.count {
        total += knots[above - 1][1]
      } else {
        let (low, high) = (knots[above - 1], knots[above])
        let share = (position - low[0]) / (high[0] - low[0])
        total += low[1] + (high[1] - low[1]) * share
      }
      sums.append(total)
    }
    guard total > 0 else { return nil }
    self.sums = sums
  }

  /// Draws a timestep.
  package func draw(_ random: inout RandomStream) -> Int {
    guard let total = sums.last else { return random.integer(below: Self.count) }
    let target = random.uniform() * total
    var (low, high) = (0, sums.count - 1)
    while low < high {
      let middle = (low + high) / 2
      if sums[middle] > target { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
