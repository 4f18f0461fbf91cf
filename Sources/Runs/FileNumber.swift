import Files

/// Allowed ranges of numbers in the files of a run.
///
/// All numbers read from a run directory are checked, so that later arithmetic with them does not
/// overflow.
enum FileNumber {
  /// Steps and other counts, limited to integers that are exact in `Double`.
  static let counts = 0...(1 << 53)
  /// Seconds since 1970, up to the year 5138.
  static let times = 0.0...1e11
  /// Durations in seconds.
  static let spans = 0.0...1e18
  /// Time limits of a worker in seconds, up to three centuries.
  static let timeouts = 0.0...1e10
  /// Steps per second.
  static let rates = 0.0...1e12
  /// Priorities in the queue.
  static let priorities = -1_000_000...1_000_000

  /// Checks that a number is in its range.
  ///
  /// - Throws: `FileError` with the key, the value found and the range.
  static func check<Value: Comparable>(
    _ key: String, _ value: Value?, _ range: ClosedRange<Value>
  ) throws(FileError) {
    guard let value, !range.contains(value) else { return }
    throw FileError("\(key) is \(value), expected \(range.lowerBound) to \(range.upperBound)")
  }
}
