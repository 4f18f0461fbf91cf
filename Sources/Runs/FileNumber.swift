/// What numbers in a run's files may be.
///
/// Every number of a run directory passes through here on its way in, so that whatever computes with one
/// (a share of a hundred, an age, a date) stays within the ranges of its types.
enum FileNumber {
  /// Steps and other counts: what a `Double` holds exactly.
  static let counts = 0...(1 << 53)
  /// Seconds since 1970, up to the year 5138.
  static let times = 0.0...1e11
  /// Spans of time in seconds.
  static let spans = 0.0...1e18
  /// Seconds that a worker may take, up to three centuries.
  static let timeouts = 0.0...1e10
  /// Steps a second.
  static let rates = 0.0...1e12
  /// Priorities in the queue.
  static let priorities = -1_000_000...1_000_000

  /// Says that a number lies outside its range.
  ///
  /// - Throws: `RunError` with the key, what was found and what was expected.
  static func check<Value: Comparable>(
    _ key: String, _ value: Value?, _ range: ClosedRange<Value>
  ) throws(RunError) {
    guard let value, !range.contains(value) else { return }
    throw RunError("\(key) is \(value), expected \(range.lowerBound) to \(range.upperBound)")
  }
}
