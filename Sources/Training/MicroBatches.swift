import Autograd
import TensorCore

/// A batch cut into micro-batches that run side by side, each on one thread.
///
/// Gradients are added in the order of the parts, so a result depends neither on the number of
/// threads nor on their timing.
package struct MicroBatches {
  /// The rows of each part.
  package let ranges: [Range<Int>]

  /// Largest size of all gradient stores of a step, in bytes; beyond it the parts follow each other
  /// and the threads work inside each of them.
  private static let storeBudget = 1 << 29

  /// Cuts `rows` rows into parts of `size` rows; the last may be smaller.
  package init(rows: Int, size: Int) {
    ranges = stride(from: 0, to: rows, by: size).map { $0..<min(rows, $0 + size) }
  }

  /// Calls `body` with every part; the results come in the order of the parts.
  package func map<Result>(_ body: (Range<Int>) -> Result) -> [Result] {
    var results = [Result?](repeating: nil, count: ranges.count)
    results.withUnsafeMutableBufferPointer { results in
      Parallel.tasks(ranges.count) { index in results[index] = body(ranges[index]) }
    }
    return results.compactMap(\.self)
  }

  /// Calls `body` with every part and a maker of tapes whose gradients add up in `parameters`.
  ///
  /// - Parameters:
  ///   - parameters: Everything that `body` trains.
  ///   - recomputing: Whether the tapes run segments again instead of keeping them.
  ///   - body: Records and walks tapes of the maker it is given; may run on any thread.
  /// - Returns: The results of `body`, in the order of the parts.
  package func accumulate<Result>(
    into parameters: [Parameter], recomputing: Bool = false,
    _ body: (Range<Int>, _ makeTape: @escaping () -> Tape) -> Result
  ) -> [Result] {
    let bytes = parameters.reduce(0) { $0 + $1.value.count } * MemoryLayout<Float>.size
    if ranges.count == 1 || bytes * ranges.count > Self.storeBudget {
      return ranges.map { body($0) { Tape(recomputing: recomputing) } }
    }
    let stores = Dictionary(
      uniqueKeysWithValues: ranges.map { ($0.lowerBound, GradientStore()) })
    let results = map { range in
      body(range) { Tape(gradients: stores[range.lowerBound], recomputing: recomputing) }
    }
    let ordered = ranges.compactMap { stores[$0.lowerBound] }
    Parallel.tasks(parameters.count) { index in
      for store in ordered {
        if let gradient = store.gradient(of: parameters[index]) {
          parameters[index].addGradient(gradient)
        }
      }
    }
    return results
  }
}
