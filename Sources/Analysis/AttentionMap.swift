import TensorCore

/// Mean attention map of every head of a layer, reduced to a bounded size.
///
/// Of more than `limit` tokens, neighbouring ones are averaged, so that a map has at most `limit` rows and columns.
package struct AttentionMap: Sendable {
  /// Most rows and columns of a map.
  package static let limit = 256

  /// Number of heads, known after the first batch.
  package private(set) var heads = 0
  /// Rows and columns of a map, known after the first batch.
  package private(set) var side = 0
  /// Tokens averaged along an axis.
  private var factor = 1
  private var tokens = 0
  private var samples = 0
  /// Sums of weights over samples and averaged tokens (heads x side x side).
  private var sums: [Float] = []

  /// Starts an empty measurement.
  package init() {}

  /// Adds a batch of maps (batch, heads, tokens, tokens) of one layer.
  package mutating func add(_ maps: Tensor) {
    precondition(
      maps.shape.count == 4 && maps.shape[2] == maps.shape[3], "AttentionMap: \(maps.shape)")
    if samples == 0 {
      (heads, tokens) = (maps.shape[1], maps.shape[2])
      factor = (tokens + Self.limit - 1) / Self.limit
      side = (tokens + factor - 1) / factor
      sums = [Float](repeating: 0, count: heads * side * side)
    }
    precondition(maps.shape[1] == heads && maps.shape[2] == tokens, "AttentionMap: \(maps.shape)")
    let (batch, heads, tokens, side, factor) = (maps.shape[0], heads, tokens, side, factor)
    sums.withUnsafeMutableBufferPointer { buffer in
      nonisolated(unsafe) let sums = buffer
      Parallel.ranges(heads) { range in
        for head in range {
          let target = UnsafeMutableBufferPointer(
            rebasing: sums[(head * side * side)..<((head + 1) * side * side)])
          for item in 0..<batch {
            let map = maps.pointer + (item * heads + head) * tokens * tokens
            for query in 0..<tokens {
              let (row, place) = (map + query * tokens, query / factor * side)
              for key in 0..<tokens { target[place + key / factor] += row[key] }
            }
          }
        }
      }
    }
    samples += batch
  }

  /// Mean weight at every place of a head's map (side x side); a cell of averaged tokens has their mean.
  package func mean(ofHead head: Int) -> [Float] {
    func width(_ index: Int) -> Int { min(factor, tokens - index * factor) }
    return (0..<(side * side)).map { place in
      let area = Float(samples * width(place / side) * width(place % side))
      return sums[head * side * side + place] / area
    }
  }
}
