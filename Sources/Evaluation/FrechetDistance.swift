import COpenBLAS
import TensorCore

/// A feature metric that cannot be computed; the text is one sentence for the user.
package struct FeatureMetricError: Error, CustomStringConvertible, Equatable {
  /// The value found and the next step.
  package let description: String
}

/// Mean and covariance of feature vectors, in double precision.
package struct FeatureStatistics: Sendable, Equatable {
  /// Number of samples.
  package let count: Int
  /// Mean (features).
  package let mean: [Double]
  /// Sample covariance with divisor count - 1 (features x features), symmetric, row-major.
  package let covariance: [Double]

  /// Samples that are centred at a time.
  private static let block = 4096

  /// Number of features.
  package var dimension: Int { mean.count }

  /// Makes statistics from known values, for example those of a reference file.
  ///
  /// - Parameters:
  ///   - count: Number of samples.
  ///   - mean: (features).
  ///   - covariance: (features x features), symmetric.
  package init(count: Int, mean: [Double], covariance: [Double]) {
    precondition(covariance.count == mean.count * mean.count, "FeatureStatistics: sizes")
    self.count = count
    self.mean = mean
    self.covariance = covariance
  }

  /// Computes the statistics of feature vectors in two passes.
  ///
  /// - Parameter features: (samples, features).
  /// - Throws: `FeatureMetricError` for fewer than two samples or values that are not finite.
  package init(_ features: Tensor) throws(FeatureMetricError) {
    precondition(features.shape.count == 2, "FeatureStatistics: \(features.shape)")
    let (rows, width) = (features.shape[0], features.shape[1])
    guard rows >= 2 else {
      throw FeatureMetricError(
        description: "a Fréchet distance needs at least 2 samples per set, found \(rows);"
          + " evaluate more samples")
    }
    var mean = [Double](repeating: 0, count: width)
    for index in 0..<features.count { mean[index % width] += Double(features[index]) }
    for column in 0..<width { mean[column] /= Double(rows) }
    guard mean.allSatisfy(\.isFinite) else {
      throw FeatureMetricError(
        description: "a Fréchet distance needs finite features, found values that are not;"
          + " look for diverged samples")
    }
    var covariance = [Double](repeating: 0, count: width * width)
    for first in stride(from: 0, to: rows, by: Self.block) {
      let count = min(Self.block, rows - first)
      let centered = (0..<(count * width)).map { index in
        Double(features[first * width + index]) - mean[index % width]
      }
      cblas_dgemm(
        CblasRowMajor, CblasTrans, CblasNoTrans, .init(width), .init(width), .init(count),
        1 / Double(rows - 1), centered, .init(width), centered, .init(width), 1, &covariance,
        .init(width))
    }
    self.init(count: rows, mean: mean, covariance: covariance)
  }
}

/// Fréchet distance of two Gaussians fitted to features; with Inception features it is the FID.
///
/// d^2 = |m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2). The last trace uses the eigenvalues of
/// the symmetric positive semidefinite matrix S1^(1/2) S2 S1^(1/2), which equal those of S1 S2.
package enum FrechetDistance {
  /// Computes the squared distance.
  ///
  /// - Parameters:
  ///   - first: Statistics of one set.
  ///   - second: Statistics of the other, with the same number of features.
  /// - Returns: d^2, 0 for equal statistics.
  /// - Throws: `FeatureMetricError` if the dimensions differ or the eigenvalues do not converge.
  package static func squared(
    _ first: FeatureStatistics, _ second: FeatureStatistics
  ) throws(FeatureMetricError) -> Double {
    let width = first.dimension
    guard second.dimension == width else {
      throw FeatureMetricError(
        description: "a Fréchet distance needs features of one kind, found \(width) and "
          + "\(second.dimension) features; compute both sets with the same network")
    }
    let root = try squareRoot(first.covariance, width)
    let half = product(root, second.covariance, width)
    var middle = product(half, root, width)
    for row in 0..<width {
      for column in 0..<row {
        let value = (middle[row * width + column] + middle[column * width + row]) / 2
        middle[row * width + column] = value
        middle[column * width + row] = value
      }
    }
    let eigenvalues = try eigensystem(&middle, width, vectors: false)
    let overlap = eigenvalues.reduce(0) { $0 + max(0, $1).squareRoot() }
    var distance = 0.0
    var traces = 0.0
    for index in 0..<width {
      let difference = first.mean[index] - second.mean[index]
      distance += difference * difference
      traces += first.covariance[index * (width + 1)] + second.covariance[index * (width + 1)]
    }
    return distance + traces - 2 * overlap
  }

  /// Square root of a symmetric positive semidefinite matrix.
  private static func squareRoot(
    _ matrix: [Double], _ width: Int
  ) throws(FeatureMetricError) -> [Double] {
    var vectors = matrix
    let values = try eigensystem(&vectors, width, vectors: true)
    // LAPACK's column-major eigenvectors are rows here: root = sum of sqrt(value) v v^T.
    var scaled = vectors
    for row in 0..<width {
      let factor = max(0, values[row]).squareRoot()
      for column in 0..<width { scaled[row * width + column] *= factor }
    }
    var result = [Double](repeating: 0, count: width * width)
    let size = Int32(width)
    cblas_dgemm(
      CblasRowMajor, CblasTrans, CblasNoTrans, size, size, size, 1, vectors, size, scaled, size, 0,
      &result, size)
    return result
  }

  private static func product(_ a: [Double], _ b: [Double], _ width: Int) -> [Double] {
    var result = [Double](repeating: 0, count: width * width)
    let size = Int32(width)
    cblas_dgemm(
      CblasRowMajor, CblasNoTrans, CblasNoTrans, size, size, size, 1, a, size, b, size, 0, &result,
      size)
    return result
  }

  /// Returns the eigenvalues, ascending; with `vectors`, overwrites the matrix with the
  /// eigenvectors as rows.
  private static func eigensystem(
    _ matrix: inout [Double], _ width: Int, vectors: Bool
  ) throws(FeatureMetricError) -> [Double] {
    var size = Int32(width)
    var job = CChar(bitPattern: UInt8(ascii: vectors ? "V" : "N"))
    var triangle = CChar(bitPattern: UInt8(ascii: "U"))
    var values = [Double](repeating: 0, count: width)
    var status: Int32 = 0
    var work = [0.0]
    var integers: [Int32] = [0]
    // The first call queries the workspace sizes, the second computes.
    for isQuery in [true, false] {
      var workSize: Int32 = isQuery ? -1 : Int32(work.count)
      var integerSize: Int32 = isQuery ? -1 : Int32(integers.count)
      dsyevd_(
        &job, &triangle, &size, &matrix, &size, &values, &work, &workSize, &integers, &integerSize,
        &status)
      if isQuery {
        work = [Double](repeating: 0, count: max(1, Int(work[0])))
        integers = [Int32](repeating: 0, count: max(1, Int(integers[0])))
      }
    }
    guard status == 0, values.allSatisfy(\.isFinite) else {
      throw FeatureMetricError(
        description:
          "the Fréchet distance's eigenvalues did not converge (LAPACK status \(status));"
          + " look for features that are not finite")
    }
    return values
  }
}
