import Foundation
import TensorCore

/// Distances of feature sets by kernels, in double precision.
package enum KernelDistances {
  /// Kernel inception distance: the unbiased squared maximum mean discrepancy under the kernel
  /// (x.y / d + 1)³ (arXiv 1801.01401).
  ///
  /// - Parameters:
  ///   - first: Features (samples, d).
  ///   - second: Features (samples, d).
  ///   - rows: Rows of both that are compared; nil for all.
  /// - Returns: The estimate, which may be negative.
  /// - Throws: `FeatureMetricError` for fewer than two samples or features of another width.
  package static func kernelInceptionDistance(
    _ first: Tensor, _ second: Tensor, rows: (first: [Int], second: [Int])? = nil
  ) throws(FeatureMetricError) -> Double {
    try requireSamePlace(first, second)
    let width = Double(first.shape[1])
    let (a, b) = (
      rows?.first ?? Array(0..<first.shape[0]), rows?.second ?? Array(0..<second.shape[0])
    )
    guard a.count > 1, b.count > 1 else {
      throw FeatureMetricError(
        description:
          "a kernel inception distance needs at least 2 samples per set, found \(a.count) and"
          + " \(b.count); evaluate more samples")
    }
    func kernel(_ product: Double) -> Double {
      let base = product / width + 1
      return base * base * base
    }
    let within = unbiased(first, a, kernel) + unbiased(second, b, kernel)
    return within - 2 * mean(first, a, second, b, kernel)
  }

  /// Mean and population standard deviation of the kernel inception distance over random subsets.
  ///
  /// Subsets have at most half of the smaller set: the deviation of halves is the standard error of the whole, and
  /// larger subsets have ever more samples in common.
  ///
  /// - Parameters:
  ///   - first: Features (samples, d).
  ///   - second: Features (samples, d).
  ///   - subsets: Number of subsets; 100 in torch-fidelity.
  ///   - size: Samples of each, drawn without replacement; 1000 there.
  ///   - seed: Seed of the draws.
  /// - Returns: Mean and deviation; the deviation is nil for sets of fewer than four.
  /// - Throws: `FeatureMetricError` as for one estimate.
  package static func kernelInceptionDistance(
    _ first: Tensor, _ second: Tensor, subsets: Int, size: Int, seed: UInt64
  ) throws(FeatureMetricError) -> (mean: Double, standardDeviation: Double?) {
    let half = min(first.shape[0], second.shape[0]) / 2
    guard half > 1 else { return (try kernelInceptionDistance(first, second), nil) }
    let size = min(size, half)
    var values: [Double] = []
    for subset in 0..<subsets {
      func rows(_ name: String, _ count: Int) -> [Int] {
        Array(RandomStream(seed: seed, "kid/\(subset)/\(name)").permutation(count).prefix(size))
      }
      values.append(
        try kernelInceptionDistance(
          first, second, rows: (rows("first", first.shape[0]), rows("second", second.shape[0]))))
    }
    let mean = values.reduce(0, +) / Double(max(1, values.count))
    let variance =
      values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(max(1, values.count))
    return (mean, variance.squareRoot())
  }

  /// CLIP maximum mean discrepancy (arXiv 2401.09603): 1000 times the biased estimate under the Gaussian kernel
  /// of width 10.
  ///
  /// - Parameters:
  ///   - first: Embeddings (samples, d).
  ///   - second: Embeddings (samples, d).
  ///   - normalizes: Whether rows are scaled to length one first, as the metric asks for.
  /// - Returns: The distance.
  /// - Throws: `FeatureMetricError` for empty sets, embeddings of another width or, to be normalised, of zeros.
  package static func clipDiscrepancy(
    _ first: Tensor, _ second: Tensor, normalizes: Bool = true
  ) throws(FeatureMetricError) -> Double {
    try requireSamePlace(first, second)
    let width = 10.0
    func lengths(_ set: Tensor) -> [Double] { RowProducts.squares(set, Array(0..<set.shape[0])) }
    let squares = (lengths(first), lengths(second))
    guard !normalizes || !(squares.0 + squares.1).contains(0) else {
      throw FeatureMetricError(
        description:
          "an embedding is zero and has no direction to compare; compute the embeddings again")
    }
    func mean(_ a: Tensor, _ x: [Double], _ b: Tensor, _ y: [Double]) -> Double {
      sum(a, Array(x.indices), b, Array(y.indices)) { row, column, product in
        let scale = normalizes ? (x[row] * y[column]).squareRoot() : 1
        let distance =
          normalizes ? 2 - 2 * product / scale : x[row] + y[column] - 2 * product
        return exp(-max(0, distance) / (2 * width * width))
      } / Double(x.count * y.count)
    }
    return 1000
      * (mean(first, squares.0, first, squares.0) + mean(second, squares.1, second, squares.1)
        - 2 * mean(first, squares.0, second, squares.1))
  }

  private static func requireSamePlace(_ a: Tensor, _ b: Tensor) throws(FeatureMetricError) {
    guard a.shape.count == 2, b.shape.count == 2, a.shape[1] == b.shape[1], a.shape[0] > 0,
      b.shape[0] > 0,
      a.isFinite, b.isFinite
    else {
      throw FeatureMetricError(
        description:
          "a kernel distance needs finite features of one kind, found sets of shape \(a.shape) and"
          + " \(b.shape); compute both with the same network")
    }
  }

  /// Sum of a kernel over all pairs of rows.
  private static func sum(
    _ a: Tensor, _ rows: [Int], _ b: Tensor, _ columns: [Int],
    _ kernel: (Int, Int, Double) -> Double
  ) -> Double {
    RowProducts.reduce(a, rows, b, columns) { row, products in
      products.enumerated().reduce(0) { $0 + kernel(row, $1.offset, $1.element) }
    }.reduce(0, +)
  }

  private static func mean(
    _ a: Tensor, _ rows: [Int], _ b: Tensor, _ columns: [Int], _ kernel: (Double) -> Double
  ) -> Double {
    sum(a, rows, b, columns) { _, _, product in kernel(product) }
      / Double(rows.count * columns.count)
  }

  /// Mean over pairs of different rows.
  private static func unbiased(
    _ a: Tensor, _ rows: [Int], _ kernel: (Double) -> Double
  ) -> Double {
    sum(a, rows, a, rows) { row, column, product in row == column ? 0 : kernel(product) }
      / Double(rows.count * (rows.count - 1))
  }
}
