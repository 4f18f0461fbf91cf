import TensorCore

/// Mean, variance, extremes, kurtosis and histogram of a stream of values, computed in one pass and
/// mergeable.
///
/// Central moments are combined pairwise in double precision (Pébay, "Formulas for robust, one-pass
/// parallel computation of covariances and arbitrary-order statistical moments", 2008), which
/// avoids cancellation when the mean is large. Non-finite values are counted but not included.
package struct ActivationStatistics: Sendable, Equatable {
  /// Number of finite values.
  package private(set) var count = 0
  /// Number of infinite and NaN values.
  package private(set) var nonFinite = 0
  /// Mean of the finite values; 0 while empty.
  package private(set) var mean = 0.0
  /// Smallest value; infinity while empty.
  package private(set) var minimum = Double.infinity
  /// Largest value; minus infinity while empty.
  package private(set) var maximum = -Double.infinity
  /// Counts of the finite values.
  package private(set) var histogram = ActivationHistogram()
  /// Sums of the second, third and fourth powers of the deviations from the mean.
  private var m2 = 0.0
  private var m3 = 0.0
  private var m4 = 0.0

  /// Makes empty statistics.
  package init() {}

  /// Measures one tensor.
  package init(_ tensor: Tensor) { add(tensor) }

  /// Mean square deviation from the mean (divided by the count); 0 while empty.
  package var variance: Double { count > 0 ? m2 / Double(count) : 0 }

  /// Square root of the variance.
  package var standardDeviation: Double { variance.squareRoot() }

  /// Largest magnitude; 0 while empty.
  package var maximumMagnitude: Double { count > 0 ? max(abs(minimum), abs(maximum)) : 0 }

  /// Fourth central moment divided by the squared variance: 3 for a normal distribution, 0 for
  /// constant values.
  package var kurtosis: Double { m2 > 0 ? Double(count) * m4 / (m2 * m2) : 0 }

  /// Adds all elements of a tensor.
  package mutating func add(_ tensor: Tensor) {
    add(UnsafeBufferPointer(start: tensor.pointer, count: tensor.count))
  }

  /// Adds all elements of a buffer.
  package mutating func add(_ values: UnsafeBufferPointer<Float>) {
    // Chunks of fixed size make the result independent of the number of threads.
    let size = 16384
    let parts = (values.count + size - 1) / size
    if parts <= 1 {
      merge(Self.part(values))
      return
    }
    var measured = [ActivationStatistics](repeating: ActivationStatistics(), count: parts)
    measured.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let buffer = buffer
      Parallel.tasks(parts) { index in
        let range = (index * size)..<min(values.count, (index + 1) * size)
        buffer[index] = Self.part(UnsafeBufferPointer(rebasing: values[range]))
      }
    }
    for part in measured { merge(part) }
  }

  /// Merges the statistics of other values.
  package mutating func merge(_ other: ActivationStatistics) {
    nonFinite += other.nonFinite
    if other.count == 0 { return }
    histogram.merge(other.histogram)
    let (na, nb) = (Double(count), Double(other.count))
    let n = na + nb
    let delta = other.mean - mean
    let step = delta / n
    let cross = delta * step * na * nb
    m4 +=
      other.m4 + cross * step * step * (na * na - na * nb + nb * nb)
      + 6 * step * step * (na * na * other.m2 + nb * nb * m2)
      + 4 * step * (na * other.m3 - nb * m3)
    m3 += other.m3 + cross * step * (na - nb) + 3 * step * (na * other.m2 - nb * m2)
    m2 += other.m2 + cross
    mean += step * nb
    count += other.count
    minimum = min(minimum, other.minimum)
    maximum = max(maximum, other.maximum)
  }

  /// Computes the statistics of one chunk in two passes over cached data.
  private static func part(_ values: UnsafeBufferPointer<Float>) -> ActivationStatistics {
    var result = ActivationStatistics()
    var sum = 0.0
    for value in values {
      if !value.isFinite {
        result.nonFinite += 1
        continue
      }
      result.count += 1
      sum += Double(value)
      result.minimum = min(result.minimum, Double(value))
      result.maximum = max(result.maximum, Double(value))
    }
    if result.count == 0 { return result }
    result.mean = sum / Double(result.count)
    result.histogram.add(values)
    for value in values where value.isFinite {
      let deviation = Double(value) - result.mean
      let square = deviation * deviation
      result.m2 += square
      result.m3 += square * deviation
      result.m4 += square * square
    }
    return result
  }
}
