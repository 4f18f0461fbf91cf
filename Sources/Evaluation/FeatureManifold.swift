import TensorCore

/// Union of balls around feature vectors, each with the distance to the k-th nearest neighbour as
/// radius (Kynkäänniemi et al., "Improved Precision and Recall Metric", arXiv 1904.06991).
///
/// Precision is the fraction of generated features inside the manifold of real ones, recall the
/// fraction of real features inside the manifold of generated ones.
package struct FeatureManifold {
  /// Distance of every point to its k-th nearest other point.
  package let radii: [Double]
  private let features: Tensor

  /// Computes the radii.
  ///
  /// - Parameters:
  ///   - features: (samples, features).
  ///   - neighbor: Rank k of the neighbour at the radius.
  /// - Throws: `FeatureMetricError` for `neighbor` samples or fewer, or values that are not finite.
  package init(_ features: Tensor, neighbor: Int = 3) throws(FeatureMetricError) {
    precondition(features.shape.count == 2 && neighbor > 0, "FeatureManifold: \(features.shape)")
    guard features.shape[0] > neighbor else {
      throw FeatureMetricError(
        description: "precision and recall need more than \(neighbor) samples per set, found"
          + " \(features.shape[0]); evaluate more samples")
    }
    try Self.requireFinite(features)
    self.features = features
    radii = Self.collect(features, features) { index, squares in
      // The k smallest squared distances, ascending.
      var nearest = [Double](repeating: .infinity, count: neighbor)
      for (other, square) in squares.enumerated()
      where other != index && square < nearest[neighbor - 1] {
        var place = neighbor - 1
        while place > 0, nearest[place - 1] > square {
          nearest[place] = nearest[place - 1]
          place -= 1
        }
        nearest[place] = square
      }
      return nearest[neighbor - 1].squareRoot()
    }
  }

  /// Returns the fraction of points that lie in at least one closed ball.
  ///
  /// - Parameter points: (samples, features), of the same network.
  /// - Returns: 0 ... 1.
  /// - Throws: `FeatureMetricError` for no points, another number of features or non-finite values.
  package func share(of points: Tensor) throws(FeatureMetricError) -> Double {
    guard points.shape[0] > 0, points.shape[1] == features.shape[1] else {
      throw FeatureMetricError(
        description: "precision and recall need features of one kind, found sets of shape"
          + " \(points.shape) and \(features.shape); compute both with the same network")
    }
    try Self.requireFinite(points)
    let inside = Self.collect(points, features) { _, squares in
      zip(squares, radii).contains { $0.squareRoot() <= $1 } ? 1 : 0
    }
    return inside.reduce(0, +) / Double(points.shape[0])
  }

  /// Squared distance, relative to the vectors' squares, below which two points are one.
  private static let identical = 1e-13

  /// Reduces the squared distances of each point to all rows of `set` to one number; the distances are
  /// |u|² - 2 u.v + |v|² in double precision.
  private static func collect(
    _ points: Tensor, _ set: Tensor, _ body: (Int, UnsafeBufferPointer<Double>) -> Double
  ) -> [Double] {
    let (rows, columns) = (Array(0..<points.shape[0]), Array(0..<set.shape[0]))
    let lengths = (RowProducts.squares(points, rows), RowProducts.squares(set, columns))
    return RowProducts.reduce(points, rows, set, columns) { row, products in
      withUnsafeTemporaryAllocation(of: Double.self, capacity: products.count) { squares in
        for (column, product) in products.enumerated() {
          let sum = lengths.0[row] + lengths.1[column]
          let distance = sum - 2 * product
          squares[column] = distance < identical * sum ? 0 : distance
        }
        return body(row, UnsafeBufferPointer(squares))
      }
    }
  }

  private static func requireFinite(_ features: Tensor) throws(FeatureMetricError) {
    guard features.values.allSatisfy(\.isFinite) else {
      throw FeatureMetricError(
        description: "precision and recall need finite features, found values that are not;"
          + " look for diverged samples")
    }
  }
}
