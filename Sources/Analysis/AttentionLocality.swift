import TensorCore

/// Band attention mass L_k of arXiv 2506.05340, section 3.4.
///
/// L_k is the mean over query tokens of the attention mass on keys at a distance of at most k along the
/// token sequence, the diagonal included. Batches accumulate; all maps have equal weight.
package struct AttentionLocality: Sendable {
  /// Band half-widths k, in the order given.
  package let bands: [Int]
  /// Number of heads, known after the first batch.
  package private(set) var heads = 0
  /// Number of batch items added so far.
  package private(set) var samples = 0
  /// Length of the sequence, known after the first batch.
  package private(set) var tokens = 0
  /// Sum over samples of the mean mass at a distance, per head (heads x tokens).
  private var sums: [Double] = []

  /// Starts an empty measurement.
  ///
  /// - Parameter bands: Half-widths, at least 0.
  package init(bands: [Int]) {
    precondition(bands.allSatisfy { $0 >= 0 }, "AttentionLocality: bands \(bands)")
    self.bands = bands
  }

  /// Computes L_k of every map.
  ///
  /// - Parameter maps: Attention weights (batch, heads, tokens, tokens) whose rows sum to 1.
  /// - Returns: Values in the order batch, heads, bands.
  package func perMap(_ maps: Tensor) -> [Double] {
    Self.byDistance(maps).flatMap { mass in bands.map { mass.prefix($0 + 1).reduce(0, +) } }
  }

  /// The mean mass at every distance 0 ..< tokens of every map, in the order batch, heads.
  private static func byDistance(_ maps: Tensor) -> [[Double]] {
    precondition(
      maps.shape.count == 4 && maps.shape[2] == maps.shape[3], "AttentionLocality: \(maps.shape)")
    let tokens = maps.shape[2]
    let count = maps.shape[0] * maps.shape[1]
    var result = [[Double]](repeating: [], count: count)
    result.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let values = buffer
      Parallel.ranges(count) { range in
        for map in range {
          let mass = massByDistance(maps.pointer + map * tokens * tokens, tokens)
          values[map] = mass.map { $0 / Double(tokens) }
        }
      }
    }
    return result
  }

  /// Adds a batch of maps (batch, heads, tokens, tokens) of one layer.
  package mutating func add(_ maps: Tensor) {
    let masses = Self.byDistance(maps)
    if samples == 0 {
      (heads, tokens) = (maps.shape[1], maps.shape[2])
      sums = [Double](repeating: 0, count: heads * tokens)
    }
    precondition(
      maps.shape[1] == heads && maps.shape[2] == tokens,
      "AttentionLocality: \(maps.shape), not \(heads) heads of \(tokens) tokens")
    for (map, mass) in masses.enumerated() {
      let first = map % heads * tokens
      for distance in 0..<tokens { sums[first + distance] += mass[distance] }
    }
    samples += maps.shape[0]
  }

  /// Merges the sums of other samples of the same layer.
  package mutating func merge(_ other: AttentionLocality) {
    precondition(other.bands == bands, "AttentionLocality: other bands")
    if other.samples == 0 { return }
    if samples == 0 {
      self = other
      return
    }
    precondition(
      other.heads == heads && other.tokens == tokens, "AttentionLocality: other heads or tokens")
    for index in sums.indices { sums[index] += other.sums[index] }
    samples += other.samples
  }

  /// L_k (heads x bands); empty or NaN before the first batch.
  package var perHead: [[Double]] {
    (0..<heads).map { head in
      let mass = sums[(head * tokens)..<((head + 1) * tokens)]
      return bands.map { mass.prefix($0 + 1).reduce(0, +) / Double(samples) }
    }
  }

  /// L_k for every k from 0 to tokens - 1, averaged over heads and samples; empty before the first batch.
  package var within: [Double] {
    var total = 0.0
    return (0..<tokens).map { distance in
      total += (0..<heads).reduce(0) { $0 + sums[$1 * tokens + distance] }
      return total / Double(samples * heads)
    }
  }

  /// L_k per band, averaged over heads and samples; NaN before the first batch.
  package var overall: [Double] {
    bands.indices.map { band in
      perHead.reduce(0) { $0 + $1[band] } / Double(heads)
    }
  }

  /// L_k of uniform attention, the baseline for locality.
  ///
  /// - Returns: L_k of the map whose weights are all 1 / tokens.
  package static func uniform(band: Int, tokens: Int) -> Double {
    let k = min(band, tokens - 1)
    let pairs = tokens + k * (2 * tokens - k - 1)
    return Double(pairs) / Double(tokens * tokens)
  }

  /// Sums the mass of a map at every distance 0 ..< tokens from the diagonal.
  private static func massByDistance(_ map: UnsafePointer<Float>, _ tokens: Int) -> [Double] {
    var mass = [Double](repeating: 0, count: tokens)
    mass.withUnsafeMutableBufferPointer { mass in
      for query in 0..<tokens {
        let row = map + query * tokens
        for key in 0..<query { mass[query - key] += Double(row[key]) }
        for key in query..<tokens { mass[key - query] += Double(row[key]) }
      }
    }
    return mass
  }
}
