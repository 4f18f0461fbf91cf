/// A value at a training step.
package struct LossPoint: Codable, Equatable, Sendable {
  /// The step.
  package let step: Int
  /// The value, perhaps not finite when training diverged.
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

  /// Whether it lies above another one; what is not a number lies above all.
  fileprivate func isAbove(_ other: LossPoint) -> Bool {
    value > other.value || value.isNaN && !other.value.isNaN
  }
}

/// A loss over the steps of a run, in bounded memory however long the run is.
///
/// Up to `limit` points are kept as they are. From then on each bucket of consecutive points keeps its
/// lowest and its highest, and neighbouring buckets are merged when there are too many again. The first
/// and the last point, the lowest and the highest are always among those that are kept.
package struct LossSeries: Codable, Equatable, Sendable {
  /// About as many points are kept at most.
  package static let limit = 1024

  /// The points that are kept, by step.
  private var points: [LossPoint] = []
  /// Points that make a bucket full.
  private var width = 1
  /// Where the points of the last bucket begin.
  private var open = 0
  /// How many points the last bucket was given.
  private var filled = 0

  /// An empty series.
  package init() {}

  /// Adds a point; points at its step and later ones, of a worker that was further, are forgotten.
  package mutating func append(_ point: LossPoint) {
    drop(after: point.step - 1)
    if filled >= width { close() }
    points.append(point)
    filled += 1
    // The extremes and the newest.
    if points.count - open > 3 {
      points.replaceSubrange(
        open..<points.count - 1, with: Self.extremes(points[open...].dropLast()))
    }
  }

  /// Forgets the points after a step.
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

  /// The lowest and the highest of some points, in their order.
  fileprivate static func extremes(_ points: ArraySlice<LossPoint>) -> [LossPoint] {
    guard var low = points.first else { return [] }
    var high = low
    for point in points.dropFirst() {
      if low.isAbove(point) { low = point }
      if point.isAbove(high) { high = point }
    }
    if low.step == high.step { return [low] }
    return low.step < high.step ? [low, high] : [high, low]
  }

  /// Whether a sequence of points may have left it behind.
  var isPlausible: Bool {
    points.count <= Self.limit + 4 && (1...FileNumber.counts.upperBound).contains(width)
      && (0...points.count).contains(open) && FileNumber.counts.contains(filled)
      && points.allSatisfy { FileNumber.counts.contains($0.step) }
      && zip(points, points.dropFirst()).allSatisfy { $0.step < $1.step }
  }

  /// Whether both keep the same points.
  package static func == (one: LossSeries, other: LossSeries) -> Bool { one.points == other.points }
}

extension LossSeries: RandomAccessCollection {
  package var startIndex: Int { 0 }
  package var endIndex: Int { points.count }
  package subscript(index: Int) -> LossPoint { points[index] }
}

extension Collection<LossPoint> {
  /// At most about `limit` stretches of points, each by its lowest and highest value, so that no spike is
  /// lost.
  package func thinned(limit: Int) -> [LossPoint] {
    let points = Array(self)
    guard limit > 0, points.count > 4 * limit else { return points }
    return (0..<limit).flatMap { stretch in
      LossSeries.extremes(
        points[(stretch * points.count / limit)..<((stretch + 1) * points.count / limit)])
    }
  }
}
