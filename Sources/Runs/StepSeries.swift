/// A value at a training step.
package struct StepValue: Codable, Equatable, Sendable {
  /// The step.
  package let step: Int
  /// The value; may be non-finite if training diverged.
  package let value: Double

  /// Makes a point.
  package init(step: Int, value: Double) {
    self.step = step
    self.value = value
  }

  /// Reads `[step, value]`.
  package init(from decoder: any Decoder) throws {
    var container = try decoder.unkeyedContainer()
    step = try container.decode(Int.self)
    value = try container.decode(Double.self)
  }

  /// Writes `[step, value]`.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.unkeyedContainer()
    try container.encode(step)
    try container.encode(value)
  }

  /// Whether the value is greater than another; NaN is greater than all others.
  fileprivate func isAbove(_ other: StepValue) -> Bool {
    value > other.value || value.isNaN && !other.value.isNaN
  }
}

/// Loss or another measure over the steps of a run in bounded memory.
///
/// Up to `limit` points are stored unchanged. Beyond that each bucket of consecutive points stores
/// its minimum and maximum, and adjacent buckets are merged when the limit is reached again. The
/// first and last point, the minimum and the maximum are always stored.
package struct StepSeries: Codable, Equatable, Sendable {
  /// Approximate maximum number of stored points.
  package static let limit = 1024

  /// Stored points by step.
  private var points: [StepValue] = []
  /// Number of points per bucket.
  private var width = 1
  /// Index of the first point of the last bucket.
  private var open = 0
  /// Number of points added to the last bucket.
  private var filled = 0

  /// An empty series.
  package init() {}

  /// Adds a point and removes points at its step and later, of an earlier worker.
  package mutating func append(_ point: StepValue) {
    drop(after: point.step - 1)
    if filled >= width { close() }
    points.append(point)
    filled += 1
    // Minimum, maximum and newest point.
    if points.count - open > 3 {
      points.replaceSubrange(
        open..<points.count - 1, with: Self.extremes(points[open...].dropLast()))
    }
  }

  /// Removes the points after a step.
  package mutating func drop(after step: Int) {
    guard let last = points.last, last.step > step else { return }
    while let last = points.last, last.step > step { points.removeLast() }
    open = Swift.min(open, points.count)
    filled = points.count - open
  }

  private mutating func close() {
    points.replaceSubrange(open..., with: Self.extremes(points[open...]))
    if points.count >= Self.limit {
      points =
        [points[0]]
        + stride(from: 1, to: points.count, by: 4).flatMap { start in
          Self.extremes(points[start..<Swift.min(start + 4, points.count)])
        }
      width = width == 1 ? 4 : 2 * width
    }
    (open, filled) = (points.count, 0)
  }

  /// Minimum and maximum of some points, in order of steps.
  fileprivate static func extremes(_ points: ArraySlice<StepValue>) -> [StepValue] {
    guard var low = points.first else { return [] }
    var high = low
    for point in points.dropFirst() {
      if low.isAbove(point) { low = point }
      if point.isAbove(high) { high = point }
    }
    if low.step == high.step { return [low] }
    return low.step < high.step ? [low, high] : [high, low]
  }

  /// Whether the stored state is consistent.
  var isPlausible: Bool {
    points.count <= Self.limit + 4 && (1...FileNumber.counts.upperBound).contains(width)
      && (0...points.count).contains(open) && FileNumber.counts.contains(filled)
      && points.allSatisfy { FileNumber.counts.contains($0.step) }
      && zip(points, points.dropFirst()).allSatisfy { $0.step < $1.step }
  }

  /// Compares the stored points.
  package static func == (one: StepSeries, other: StepSeries) -> Bool { one.points == other.points }
}

extension StepSeries: RandomAccessCollection {
  package var startIndex: Int { 0 }
  package var endIndex: Int { points.count }
  package subscript(index: Int) -> StepValue { points[index] }
}

extension Collection<StepValue> {
  /// Reduces the series to about `limit` ranges of points, each by its minimum and maximum, which
  /// preserves spikes.
  package func thinned(limit: Int) -> [StepValue] {
    let points = Array(self)
    guard limit > 0, points.count > 4 * limit else { return points }
    return (0..<limit).flatMap { stretch in
      StepSeries.extremes(
        points[(stretch * points.count / limit)..<((stretch + 1) * points.count / limit)])
    }
  }
}
