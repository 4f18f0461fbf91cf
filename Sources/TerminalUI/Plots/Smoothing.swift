import Foundation

/// Exponential moving averages of curves.
package enum Smoothing {
  /// The bias-corrected exponential moving average of a curve, the value at each of its points.
  ///
  /// A value counts w^d, where w is the weight and d its distance to the present point in mean distances between
  /// points. At even distances that is Adam's bias-corrected average: m = w m + (1 - w) y, divided by 1 - w^n. Points
  /// that are not finite stay what they are and count nothing.
  ///
  /// - Parameters:
  ///   - x: Horizontal positions, ascending.
  ///   - y: Values, as many as `x`.
  ///   - weight: w, from 0 (no smoothing) to below 1.
  /// - Returns: The averages, as many as `y`.
  package static func average(x: [Double], y: [Double], weight: Double) -> [Double] {
    precondition(x.count == y.count, "a curve needs as many x as y")
    let finite = y.indices.filter { y[$0].isFinite && x[$0].isFinite }
    guard weight > 0, weight < 1, finite.count > 1, let first = finite.first,
      let last = finite.last,
      x[last] > x[first]
    else { return y }
    let spacing = (x[last] - x[first]) / Double(finite.count - 1)
    var result = y
    var (sum, count, before) = (0.0, 0.0, x[first])
    for index in finite {
      let decay = pow(weight, max(0, x[index] - before) / spacing)
      sum = sum * decay + y[index]
      count = count * decay + 1
      before = x[index]
      result[index] = sum / count
    }
    return result
  }
}
