import TensorCore
import Testing
import Sampling

@Suite("Timestep density")
struct TimestepDensityTests {
  @Test func uniformDrawsAllTimesteps() {
    var random = RandomStream(seed: 1)
    let draws = (0..<20_000).map { _ in TimestepDensity.uniform.draw(&random) }
    #expect(draws.min() == 0 && draws.max() == 999)
    #expect(abs(Double(draws.reduce(0, +)) / 20_000 - 499.5) < 10)
  }

  @Test func knotsShapeTheDensity() throws {
    let density = try #require(
      TimestepDensity(knots: [[100, 0], [200, 1], [600, 1], [700, 0]]))
    var random = RandomStream(seed: 2)
    let draws = (0..<20_000).map { _ in density.draw(&random) }
    #expect(draws.allSatisfy { $0 > 100 && $0 < 700 })
    // Of the mass 50 + 400 + 50, the flat part holds four fifths.
    let flat = Double(draws.count { (200...600).contains($0) }) / 20_000
    #expect(abs(flat - 0.8) < 0.02)
  }

  @Test(arguments: [
    [], [[0.0]], [[0, 1], [0, 1]], [[5, 1], [2, 1]], [[0, -1], [9, 1]], [[0, 0]],
    [[0, 1], [1000, 1]],
  ])
  func badKnotsAreRefused(knots: [[Double]]) {
    #expect(TimestepDensity(knots: knots) == nil)
  }
}
