import Foundation
import TensorCore

/// Sliced Wasserstein distance of feature sets: the mean over random directions of the distance of projections.
package enum SlicedWasserstein {
  /// Squared distance of order two.
  ///
  /// - Parameters:
  ///   - first: Features (samples, d).
  ///   - second: Features (samples, d), of any number.
  ///   - directions: Number of random directions.
  ///   - seed: Seed of the directions.
  /// - Returns: The mean of the squared distances of the sorted projections, and its standard error over the
  ///   directions.
  /// - Throws: `FeatureMetricError` for empty sets or features of another width.
  package static func squared(
    _ first: Tensor, _ second: Tensor, directions: Int = 512, seed: UInt64 = 0
  ) throws(FeatureMetricError) -> (value: Double, standardError: Double) {
    guard first.shape[1] == second.shape[1], first.shape[0] > 0, second.shape[0] > 0 else {
      throw FeatureMetricError(
        description: "a sliced Wasserstein distance needs features of one kind, found sets of shape"
          + " \(first.shape) and \(second.shape); compute both with the same network")
    }
    let width = first.shape[1]
    let axes = RandomStream(seed: seed, "sliced-wasserstein").normal([directions, width])
    for row in 0..<directions {
      let axis = axes.pointer + row * width
      let length = (0..<width).reduce(0.0) { $0 + Double(axis[$1]) * Double(axis[$1]) }.squareRoot()
      for column in 0..<width { axis[column] = Float(Double(axis[column]) / length) }
    }
    func projected(_ set: Tensor) -> Tensor {
      let result = Tensor([directions, set.shape[0]])
      Gemm.run(
        transposeB: true, m: directions, n: set.shape[0], k: width, a: axes.pointer, b: set.pointer,
        c: result.pointer)
      return result
    }
    let (a, b) = (projected(first), projected(second))
    var distances = [Double](repeating: 0, count: directions)
    distances.withUnsafeMutableBufferPointer { distances in
      let target = UnsafeMutableBufferPointer(rebasing: distances[...])
      Parallel.tasks(directions) { direction in
        func sorted(_ set: Tensor) -> [Float] {
          let count = set.shape[1]
          return UnsafeBufferPointer(start: set.pointer + direction * count, count: count).sorted()
        }
        target[direction] = distance(sorted(a), sorted(b))
      }
    }
    let mean = distances.reduce(0, +) / Double(directions)
    let squares = distances.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    return (mean, (squares / Double(max(1, directions - 1)) / Double(directions)).squareRoot())
  }

  /// Integral of the squared difference of two quantile functions.
  private static func distance(_ a: [Float], _ b: [Float]) -> Double {
    var (i, j, done, sum) = (0, 0, 0.0, 0.0)
    while i < a.count, j < b.count {
      let (endA, endB) = (Double(i + 1) / Double(a.count), Double(j + 1) / Double(b.count))
      let end = min(endA, endB)
      let difference = Double(a[i]) - Double(b[j])
      sum += (end - done) * difference * difference
      done = end
      if endA <= endB { i += 1 }
      if endB <= endA { j += 1 }
    }
    return sum
  }
}
