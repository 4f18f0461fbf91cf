import TensorCore

/// Histogram of a stream of values with bins whose edges are powers of the square root of two, of either sign.
///
/// It resolves bulk and outliers of any scale without knowing them in advance; counts are exact and mergeable.
package struct ActivationHistogram: Sendable, Equatable {
  /// Magnitudes below 2^-octaves count as zero, those of 2^octaves and more belong to the outermost bins.
  private static let octaves = 16
  private static let binsOfSign = 4 * octaves

  /// Counts: negative bins from the largest magnitude on, zero, positive ones.
  private var counts = [Int](repeating: 0, count: 2 * binsOfSign + 1)

  /// A range of values, its lower edge included, and its count.
  package struct Bin: Sendable, Equatable {
    /// Edges, ascending; both 0 for the bin of zero.
    package let low, high: Double
    /// Number of values.
    package let count: Int
  }

  /// Makes an empty histogram.
  package init() {}

  /// Counts the finite values of a buffer.
  mutating func add(_ values: UnsafeBufferPointer<Float>) {
    counts.withUnsafeMutableBufferPointer { counts in
      for value in values where value.isFinite { counts[Self.bin(value)] += 1 }
    }
  }

  /// Adds the counts of other values.
  mutating func merge(_ other: ActivationHistogram) {
    for index in counts.indices { counts[index] += other.counts[index] }
  }

  /// The bin of a finite value.
  private static func bin(_ value: Float) -> Int {
    let magnitude = abs(value)
    guard magnitude >= edge(0) else { return binsOfSign }
    let exponent = Int(magnitude.exponent)
    let upper = magnitude.significand >= Float(2).squareRoot() ? 1 : 0
    let level = min(2 * (exponent + octaves) + upper, binsOfSign - 1)
    return value < 0 ? binsOfSign - 1 - level : binsOfSign + 1 + level
  }

  /// Lower edge of a level of magnitude.
  private static func edge(_ level: Int) -> Float {
    let significand = level % 2 == 1 ? Float(2).squareRoot() : 1
    return Float(sign: .plus, exponent: level / 2 - octaves, significand: significand)
  }

  /// The bins from the first to the last that is not empty, ascending.
  package var bins: [Bin] {
    guard let first = counts.firstIndex(where: { $0 > 0 }),
      let last = counts.lastIndex(where: { $0 > 0 })
    else { return [] }
    return (first...last).map { index in
      let place = index - Self.binsOfSign
      guard place != 0 else { return Bin(low: 0, high: 0, count: counts[index]) }
      let level = abs(place) - 1
      let (near, far) = (Double(Self.edge(level)), Double(Self.edge(level + 1)))
      return place > 0
        ? Bin(low: near, high: far, count: counts[index])
        : Bin(low: -far, high: -near, count: counts[index])
    }
  }
}

/// Root mean square and largest magnitude of every channel of a stream of activations.
package struct ChannelStatistics: Sendable, Equatable {
  /// Number of tokens added.
  package private(set) var count = 0
  private var squares: [Double] = []
  private var largest: [Float] = []

  /// Makes empty statistics.
  package init() {}

  /// Adds the tokens of activations (..., channels); non-finite values count nothing.
  package mutating func add(_ tensor: Tensor) {
    let channels = tensor.shape.last ?? 0
    guard channels > 0 else { return }
    if count == 0 {
      squares = [Double](repeating: 0, count: channels)
      largest = [Float](repeating: 0, count: channels)
    }
    precondition(channels == squares.count, "ChannelStatistics: \(channels) channels")
    let rows = tensor.count / channels
    let values = tensor.pointer
    squares.withUnsafeMutableBufferPointer { squares in
      largest.withUnsafeMutableBufferPointer { largest in
        nonisolated(unsafe) let (squares, largest) = (squares, largest)
        // Channels share no sum, so the result does not depend on the number of threads.
        Parallel.ranges(channels, grain: 16) { range in
          for row in 0..<rows {
            let line = values + row * channels
            for channel in range where line[channel].isFinite {
              squares[channel] += Double(line[channel]) * Double(line[channel])
              largest[channel] = max(largest[channel], abs(line[channel]))
            }
          }
        }
      }
    }
    count += rows
  }

  /// Root mean square of every channel.
  package var rms: [Double] { squares.map { ($0 / Double(max(1, count))).squareRoot() } }
  /// Largest magnitude of every channel.
  package var maximumMagnitude: [Double] { largest.map(Double.init) }
  /// Median over the channels of their root mean square; 0 while empty.
  package var medianRMS: Double {
    let sorted = rms.sorted()
    guard !sorted.isEmpty else { return 0 }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
  }
}
