import TensorCore

/// Distance of the samples of two models that start from the same noise with the same conditions.
///
/// Since both draw the same samples but for what the models differ in, its error is far below that of a distance
/// of sets: some hundred samples tell grafts apart.
package struct PairedDistance: Codable, Sendable {
  /// A mean with its standard error.
  package struct Estimate: Codable, Equatable, Sendable {
    package let value, standardError: Double
  }

  /// Squared distance of the latents, relative to the spread of the teacher's around their mean.
  package let latents: Estimate
  /// The same of features; nil without a feature network.
  package let features: Estimate?
  /// Number of pairs.
  package let samples: Int

  /// Samples of some indices, (count, …).
  package typealias Source = (Range<Int>) throws -> Tensor

  /// Draws pairs and compares them.
  ///
  /// - Parameters:
  ///   - teacher: The latents of the teacher.
  ///   - graft: The latents of the other model, from the same noise.
  ///   - samples: Number of pairs, at least 2.
  ///   - batch: Pairs drawn at a time.
  ///   - features: Features (count, width) of latents; nil for none.
  ///   - folder: Folder for the finished pairs of these models and sampler alone; nil keeps none.
  ///   - progress: Called with the number of pairs done; may throw to stop.
  /// - Returns: The distances.
  /// - Throws: Errors of the closures, `FeatureMetricError` for fewer than two pairs or samples that are not
  ///   finite.
  package static func measure(
    teacher: Source, graft: Source, samples: Int, batch: Int = 20,
    features: ((Tensor) throws -> Tensor)? = nil, keptIn folder: String? = nil,
    progress: (Int) throws -> Void = { _ in }
  ) throws -> PairedDistance {
    guard samples > 1 else {
      throw FeatureMetricError(
        description:
          "a paired distance needs at least 2 samples, found \(samples); evaluate more samples")
    }
    let parts = try TensorParts(keptIn: folder)
    var (latents, seen) = (Pairs(), Pairs())
    let names =
      ["teacher", "graft"] + (features == nil ? [] : ["teacher_features", "graft_features"])
    for first in stride(from: 0, to: samples, by: batch) {
      let range = first..<min(samples, first + batch)
      let part = try parts.part("pairs-\(first)", rows: range.count, names) {
        let pair = [try teacher(range), try graft(range)]
        return try pair + (features.map { features in try pair.map(features) } ?? [])
      }
      latents.add(part[0], part[1])
      if features != nil { seen.add(part[2], part[3]) }
      try progress(range.upperBound)
    }
    return PairedDistance(
      latents: try latents.estimate(), features: features == nil ? nil : try seen.estimate(),
      samples: samples)
  }

  /// Rows of both models.
  private struct Pairs {
    private var (first, second): ([Tensor], [Tensor]) = ([], [])

    mutating func add(_ one: Tensor, _ other: Tensor) {
      precondition(one.shape == other.shape, "pairs: \(one.shape) and \(other.shape)")
      first.append(one)
      second.append(other)
    }

    /// Ratio of the sums of squared distances and of squared deviations from the mean.
    func estimate() throws(FeatureMetricError) -> Estimate {
      let count = first.reduce(0) { $0 + $1.shape[0] }
      let width = (first.first?.count ?? 0) / max(1, first.first?.shape[0] ?? 1)
      var mean = [Double](repeating: 0, count: width)
      for part in first {
        for index in 0..<part.count { mean[index % width] += Double(part[index]) / Double(count) }
      }
      var (distances, deviations): ([Double], [Double]) = ([], [])
      for (one, other) in zip(first, second) {
        for row in 0..<one.shape[0] {
          var (distance, deviation) = (0.0, 0.0)
          for column in 0..<width {
            let x = Double(one[row * width + column])
            let difference = Double(other[row * width + column]) - x
            distance += difference * difference
            deviation += (x - mean[column]) * (x - mean[column])
          }
          distances.append(distance)
          deviations.append(deviation)
        }
      }
      let spread = deviations.reduce(0, +)
      let ratio = distances.reduce(0, +) / spread
      guard ratio.isFinite else {
        throw FeatureMetricError(
          description:
            "a paired distance needs finite samples that differ from each other; look for diverged"
            + " samples")
      }
      let squares = zip(distances, deviations).reduce(0) { sum, pair in
        let rest = pair.0 - ratio * pair.1
        return sum + rest * rest
      }
      let error = (squares * Double(count) / Double(count - 1)).squareRoot() / spread
      return Estimate(value: ratio, standardError: error)
    }
  }
}
