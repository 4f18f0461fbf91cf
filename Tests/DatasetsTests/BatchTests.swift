import Datasets
import Sampling
import TensorCore
import Testing

@MainActor @Suite("Batches")
struct BatchTests {
  /// Three samples of class 0 for each of class 1; the latents are the samples' numbers.
  private let dataset = LatentDataset(
    latents: Tensor((0..<240).map { Float($0 / 6) }, shape: [40, 1, 2, 3]),
    labels: (0..<40).map { $0 % 4 == 3 ? 1 : 0 })

  private func batch(
    _ rows: Range<Int>, seed: UInt64 = 5, name: String = "stage2/3",
    classWeights: [Double]? = nil, labelDropout: Double = 0.1
  ) -> DiffusionBatch {
    let samples = classWeights.map { weights in
      DiscreteDistribution(weights: dataset.labels.map { weights[$0] })
    }
    return dataset.batch(
      rows, seed: seed, name: name, samples: samples, nullClass: 2, labelDropout: labelDropout)
  }

  private func shareOfClass1(_ weights: [Double]?) -> Double {
    let batch = batch(0..<4000, classWeights: weights, labelDropout: 0)
    // Labels and latents stay with their samples, whatever was drawn.
    #expect(zip(batch.samples, batch.labels).allSatisfy { $1 == ($0 % 4 == 3 ? 1 : 0) })
    #expect(
      batch.latents.values == batch.samples.flatMap { [Float](repeating: Float($0), count: 6) })
    return Double(batch.labels.count { $0 == 1 }) / 4000
  }

  @Test func weightsMultiplyTheShareOfAClass() {
    // Standard deviation of a share: below 0.008.
    #expect(abs(shareOfClass1(nil) - 0.25) < 0.03)
    #expect(abs(shareOfClass1([1, 1]) - 0.25) < 0.03)
    #expect(abs(shareOfClass1([1, 3]) - 0.5) < 0.03)
    #expect(abs(shareOfClass1([2, 0.5]) - 0.25 / 3.25) < 0.03)
  }

  @Test func numbersHaveTheirAddresses() {
    let batch = batch(0..<1000)
    func stream(_ use: String) -> RandomStream { RandomStream(seed: 5, "stage2/3/\(use)") }
    for row in 0..<1000 {
      #expect(batch.samples[row] == stream("sample").integer(below: 40, row))
      #expect(batch.steps[row] == stream("timestep").integer(below: 1000, row))
      let isDropped = stream("label").uniform(row) < 0.1
      #expect(batch.labels[row] == (isDropped ? 2 : dataset.labels[batch.samples[row]]))
    }
    #expect(batch.noise.values == stream("noise").normal([6000]).values)
    #expect(Set(batch.samples).count == 40)
    // 100 dropped labels with a standard deviation of 9.5, timesteps of mean 499.5 with one of 9.1.
    #expect(abs(batch.labels.count { $0 == 2 } - 100) < 48)
    #expect(abs(batch.steps.reduce(0, +) - 499_500) < 46_000)
  }

  /// Processes that compute parts of a batch draw just those rows.
  @Test(arguments: [nil, [1, 3]] as [[Double]?])
  func rowsCanBeDrawnApart(weights: [Double]?) {
    let whole = batch(0..<11, classWeights: weights)
    let parts = [0..<1, 1..<4, 4..<11].map { batch($0, classWeights: weights) }
    #expect(whole.samples == parts.flatMap(\.samples))
    #expect(whole.steps == parts.flatMap(\.steps))
    #expect(whole.labels == parts.flatMap(\.labels))
    #expect(whole.latents.values == parts.flatMap(\.latents.values))
    #expect(whole.noise.values == parts.flatMap(\.noise.values))
  }

  @Test func stepsAndSeedsShareNothing() {
    let batches = [
      batch(0..<50), batch(0..<50, seed: 6), batch(0..<50, name: "stage2/4"),
      batch(0..<50, name: "stage1/3"),
    ]
    // Seed 6 used to give the numbers of seed 5 moved by one.
    let noise = batches.flatMap(\.noise.values)
    #expect(Set(noise).count > noise.count - 3)
    #expect(Set(batches.map(\.samples)).count == 4 && Set(batches.map(\.steps)).count == 4)
  }
}
