import Evaluation
import TensorCore
import Testing

@Suite("Paired distance")
struct PairedDistanceTests {
  private func rows(_ count: Int, _ range: Range<Int>, _ name: String) -> Tensor {
    let width = 16
    return RandomStream(seed: 3, name).normal([range.count, width], from: range.lowerBound * width)
  }

  @Test func independentNoiseHasItsVarianceAsDistance() throws {
    let count = 600
    let result = try PairedDistance.measure(
      teacher: { rows(count, $0, "samples") },
      graft: { range in
        let (x, noise) = (rows(count, range, "samples"), rows(count, range, "noise"))
        for index in 0..<x.count { x[index] += 0.3 * noise[index] }
        return x
      }, samples: count, features: { x in Tensor(x.values.map { 2 * $0 }, shape: x.shape) })
    #expect(abs(result.latents.value - 0.09) < 4 * result.latents.standardError)
    #expect(result.latents.standardError > 0.0005 && result.latents.standardError < 0.003)
    // Scaling both sides changes nothing.
    let features = try #require(result.features)
    #expect(abs(features.value - result.latents.value) < 1e-6)
  }

  @Test func equalModelsHaveNone() throws {
    let result = try PairedDistance.measure(
      teacher: { rows(40, $0, "samples") }, graft: { rows(40, $0, "samples") }, samples: 40)
    #expect(result.latents.value == 0 && result.latents.standardError == 0)
    #expect(result.features == nil)
    #expect(throws: FeatureMetricError.self) {
      try PairedDistance.measure(
        teacher: { rows(1, $0, "samples") }, graft: { rows(1, $0, "samples") }, samples: 1)
    }
  }
}
