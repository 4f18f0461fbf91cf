import Foundation
import TensorCore

/// Clean latents with their labels, held in memory.
package struct LatentDataset {
  /// Normalised latents (count, channels, size, size).
  package let latents: Tensor
  package let labels: [Int]

  package init(latents: Tensor, labels: [Int]) {
    precondition(latents.shape[0] == labels.count, "LatentDataset: counts differ")
    self.latents = latents
    self.labels = labels
  }

  /// Number of samples.
  package var count: Int { labels.count }

  /// The same samples on a coarser grid: averaged over squares, each channel rescaled to unit variance.
  package func pooled(to size: Int) -> LatentDataset {
    let (channels, full) = (latents.shape[1], latents.shape[2])
    if size == full { return self }
    precondition(full % size == 0, "pooled: \(full) to \(size)")
    let factor = full / size
    let result = Tensor([count, channels, size, size])
    Parallel.ranges(count * channels) { planes in
      for plane in planes {
        let source = latents.pointer + plane * full * full
        let target = result.pointer + plane * size * size
        for y in 0..<size {
          for x in 0..<size {
            var sum: Float = 0
            for dy in 0..<factor {
              for dx in 0..<factor { sum += source[(y * factor + dy) * full + x * factor + dx] }
            }
            target[y * size + x] = sum / Float(factor * factor)
          }
        }
      }
    }
    let (mean, std) = LatentDataset(latents: result, labels: labels).channelStatistics()
    let area = size * size
    for plane in 0..<(count * channels) {
      let (m, s) = (mean[plane % channels], std[plane % channels])
      for index in (plane * area)..<((plane + 1) * area) { result[index] = (result[index] - m) / s }
    }
    return LatentDataset(latents: result, labels: labels)
  }

  /// Mean and standard deviation per channel.
  package func channelStatistics() -> (mean: [Float], std: [Float]) {
    let channels = latents.shape[1]
    let area = latents.shape[2] * latents.shape[3]
    var sums = [Double](repeating: 0, count: channels)
    var squares = [Double](repeating: 0, count: channels)
    for plane in 0..<(count * channels) {
      for index in (plane * area)..<((plane + 1) * area) {
        let value = Double(latents[index])
        sums[plane % channels] += value
        squares[plane % channels] += value * value
      }
    }
    let total = Double(count * area)
    let mean = sums.map { $0 / total }
    let std = zip(squares, mean).map { max(1e-12, $0 / total - $1 * $1).squareRoot() }
    return (mean.map { Float($0) }, std.map { Float($0) })
  }

  /// Draws a training batch: samples, timesteps, noise, and labels dropped to the null class.
  ///
  /// - Parameters:
  ///   - size: Number of rows.
  ///   - random: Decides everything.
  ///   - timesteps: How often each timestep comes up.
  ///   - classWeights: Relative frequency of every class, as a factor on its share of the data; nil
  ///     draws all samples equally often.
  ///   - nullClass: The label of dropped labels.
  ///   - labelDropout: Share of labels that are dropped.
  /// - Returns: The batch.
  package func batch(
    _ size: Int, random: inout RandomStream, timesteps: TimestepDensity = .uniform,
    classWeights: [Double]? = nil, nullClass: Int, labelDropout: Double
  ) -> DiffusionBatch {
    let width = latents.count / count
    let clean = Tensor([size] + latents.shape.dropFirst())
    var steps: [Int] = []
    var batchLabels: [Int] = []
    for row in 0..<size {
      let index = draw(&random, classWeights)
      (clean.pointer + row * width).update(from: latents.pointer + index * width, count: width)
      steps.append(timesteps.draw(&random))
      batchLabels.append(random.uniform() < labelDropout ? nullClass : labels[index])
    }
    return DiffusionBatch(
      latents: clean, noise: random.normal(clean.shape), steps: steps, labels: batchLabels)
  }

  /// A random sample; with weights, candidates are refused in proportion to their class's rarity.
  private func draw(_ random: inout RandomStream, _ classWeights: [Double]?) -> Int {
    guard let classWeights, let most = classWeights.max() else {
      return random.integer(below: count)
    }
    while true {
      let index = random.integer(below: count)
      if random.uniform() * most < classWeights[labels[index]] { return index }
    }
  }
}
