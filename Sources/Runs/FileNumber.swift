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
}

extension KeyedDecodingContainer {
  /// Decodes a number within a range.
  ///
  /// - Throws: `DecodingError` for a missing value, one of another type, or one outside the range.
  func decode<Value: Comparable & Decodable & Sendable>(
    _ type: Value.Type, forKey key: Key, in range: ClosedRange<Value>
  ) throws -> Value {
    let value = try decode(type, forKey: key)
    guard range.contains(value) else {
      throw DecodingError.dataCorruptedError(
        forKey: key, in: self,
        debugDescription:
          "\(key.stringValue) is \(value), expected \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }

  /// Decodes a number within a range, or nil where the key is missing.
  ///
  /// - Throws: `DecodingError` for a value of another type or outside the range.
  func decodeIfPresent<Value: Comparable & Decodable & Sendable>(
    _ type: Value.Type, forKey key: Key, in range: ClosedRange<Value>
  ) throws -> Value? {
    guard contains(key), try !decodeNil(forKey: key) else { return nil }
    return try decode(type, forKey: key, in: range)
  }
}
