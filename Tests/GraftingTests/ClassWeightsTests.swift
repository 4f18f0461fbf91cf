import Datasets
import TensorCore
import Testing

@MainActor @Suite("Class weights")
struct ClassWeightsTests {
  /// Three samples of class 0 for each of class 1; the samples are their own numbers.
  private let dataset = LatentDataset(
    latents: Tensor((0..<40).map { Float($0) }, shape: [40, 1, 1, 1]),
    labels: (0..<40).map { $0 % 4 == 3 ? 1 : 0 })

  private func shareOfClass1(_ weights: [Double]?) -> Double {
    var random = RandomStream(seed: 5)
    let batch = dataset.batch(
      4000, random: &random, classWeights: weights, nullClass: 2, labelDropout: 0)
    // Labels stay with their samples, whatever was drawn.
    #expect(
      zip(batch.latents.values, batch.labels).allSatisfy { $1 == (Int($0) % 4 == 3 ? 1 : 0) })
    return Double(batch.labels.count { $0 == 1 }) / 4000
  }

  @Test func weightsMultiplyTheShareOfAClass() {
    // Standard deviation of a share: below 0.008.
    #expect(abs(shareOfClass1(nil) - 0.25) < 0.03)
    #expect(abs(shareOfClass1([1, 1]) - 0.25) < 0.03)
    #expect(abs(shareOfClass1([1, 3]) - 0.5) < 0.03)
    #expect(abs(shareOfClass1([2, 0.5]) - 0.25 / 3.25) < 0.03)
  }
}
