import Sampling
import TensorCore
import TestSupport
import Testing

@Suite("Discrete distribution")
struct DiscreteDistributionTests {
  /// Number i stands for the interval between the running sums before and at it.
  @Test func valuesFollowTheWeights() {
    let distribution = DiscreteDistribution(weights: [0, 1, 0, 2, 1, 0])
    let found = [0, 0.2499, 0.25, 0.5, 0.7499, 0.75, 1 - 0x1p-53].map(distribution.value(at:))
    #expect(found == [1, 1, 3, 3, 3, 4, 4])
  }

  @Test func knotsShapeTheDensity() throws {
    let density = try #require(
      DiscreteDistribution(timestepKnots: [[100, 0], [200, 1], [600, 1], [700, 0]]))
    var random = RandomSequence(seed: 2)
    let draws = (0..<20_000).map { _ in density.value(at: random.uniform()) }
    #expect(draws.allSatisfy { $0 > 100 && $0 < 700 })
    // Of the mass 50 + 400 + 50, the flat part holds four fifths.
    let flat = Double(draws.count { (200...600).contains($0) }) / 20_000
    #expect(abs(flat - 0.8) < 0.02)
  }

  @Test(arguments: [
    [], [[0.0]], [[0, 1], [0, 1]], [[5, 1], [2, 1]], [[0, -1], [9, 1]], [[0, 0]],
    [[0, 1], [1000, 1]], [[0, 1e308], [9, 1e308]],
  ])
  func badKnotsAreRefused(knots: [[Double]]) {
    #expect(DiscreteDistribution(timestepKnots: knots) == nil)
  }
}
