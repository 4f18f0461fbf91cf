import Foundation
import TensorCore

/// Inception score exp(mean KL(p(y|x) || p(y))) of the class probabilities of any classifier
/// (Salimans et al., arXiv 1606.03498).
package struct InceptionScore: Sendable, Equatable {
  /// Score of every part.
  package let scores: [Double]
  /// Mean over the parts.
  package let mean: Double
  /// Population standard deviation over the parts; 0 for one.
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
    self.init(
      (0..<splits).map { part in
        Self.score(probabilities.rows((part * size)..<((part + 1) * size)), classes)
      })
  }

  /// Computes the score of logits in consecutive blocks of samples, of which the last may be shorter, as ADM's
  /// evaluator does with blocks of 5,000.
  ///
  /// - Parameters:
  ///   - logits: (samples, classes).
  ///   - block: Samples of a block.
  /// - Throws: `FeatureMetricError` for no samples or values that are not finite.
  package init(logits: Tensor, block: Int) throws(FeatureMetricError) {
    precondition(logits.shape.count == 2 && block > 0, "InceptionScore: shapes")
    let (rows, classes) = (logits.shape[0], logits.shape[1])
    guard rows > 0, logits.isFinite else {
      throw FeatureMetricError(
        description:
          "an Inception score needs finite logits of at least one sample, found \(rows) samples;"
          + " look for diverged samples")
    }
    self.init(
      stride(from: 0, to: rows, by: block).map { first in
        Self.score((first..<min(rows, first + block)).map { Self.softmax(logits, $0, classes) })
      })
  }

  private init(_ scores: [Double]) {
    let mean = scores.reduce(0, +) / Double(scores.count)
    self.scores = scores
    self.mean = mean
    standardDeviation =
      (scores.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(scores.count)).squareRoot()
  }

  private static func softmax(_ logits: Tensor, _ row: Int, _ classes: Int) -> [Double] {
    let values = (0..<classes).map { Double(logits[row * classes + $0]) }
    let largest = values.max() ?? 0
    let powers = values.map { exp($0 - largest) }
    let sum = powers.reduce(0, +)
    return powers.map { $0 / sum }
  }

  private static func score(_ probabilities: Tensor, _ classes: Int) -> Double {
    score(
      (0..<probabilities.shape[0]).map { row in
        (0..<classes).map { Double(probabilities[row * classes + $0]) }
      })
  }

  private static func score(_ rows: [[Double]]) -> Double {
    var marginal = [Double](repeating: 0, count: rows.first?.count ?? 0)
    for row in rows { for (label, p) in row.enumerated() { marginal[label] += p } }
    var divergence = 0.0
    for row in rows {
      for (label, p) in row.enumerated() where p > 0 {
        divergence += p * (log(p) - log(marginal[label] / Double(rows.count)))
      }
    }
    return exp(divergence / Double(rows.count))
  }
}
