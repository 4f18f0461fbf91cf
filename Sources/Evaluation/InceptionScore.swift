import Foundation
import TensorCore

/// Inception score exp(mean KL(p(y|x) || p(y))) of the class probabilities of any classifier
/// (Salimans et al., arXiv 1606.03498).
package struct InceptionScore: Sendable, Equatable {
  /// Mean over the splits.
  package let mean: Double
  /// Population standard deviation over the splits; 0 for one split.
  package let standardDeviation: Double

  /// Computes the score of class probabilities.
  ///
  /// - Parameters:
  ///   - probabilities: (samples, classes), every row summing to 1.
  ///   - splits: Number of consecutive parts of equal length that are scored separately; remaining
  ///     samples at the end are not used.
  /// - Throws: `FeatureMetricError` for fewer samples than splits or values outside [0, 1].
  package init(probabilities: Tensor, splits: Int = 1) throws(FeatureMetricError) {
    precondition(probabilities.shape.count == 2 && splits > 0, "InceptionScore: shapes")
    let (rows, classes) = (probabilities.shape[0], probabilities.shape[1])
    guard rows >= splits else {
      throw FeatureMetricError(
        description:
          "an Inception score over \(splits) splits needs at least as many samples, found"
          + " \(rows); evaluate more samples")
    }
    guard probabilities.values.allSatisfy({ $0 >= 0 && $0 <= 1 }) else {
      throw FeatureMetricError(
        description: "an Inception score needs class probabilities in 0 to 1, found values that are"
          + " not; look for diverged samples")
    }
    let size = rows / splits
    let scores = (0..<splits).map { part in
      Self.score(probabilities.rows((part * size)..<((part + 1) * size)), classes)
    }
    let mean = scores.reduce(0, +) / Double(splits)
    self.mean = mean
    standardDeviation =
      (scores.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(splits)).squareRoot()
  }

  private static func score(_ probabilities: Tensor, _ classes: Int) -> Double {
    let rows = probabilities.shape[0]
    var marginal = [Double](repeating: 0, count: classes)
    for i in 0..<probabilities.count { marginal[i % classes] += Double(probabilities[i]) }
    var divergence = 0.0
    for i in 0..<probabilities.count where probabilities[i] > 0 {
      let p = Double(probabilities[i])
      divergence += p * (log(p) - log(marginal[i % classes] / Double(rows)))
    }
    return exp(divergence / Double(rows))
  }
}
