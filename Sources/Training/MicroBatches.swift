import Autograd
import TensorCore

/// Batch split into micro-batches that run in parallel, each on one thread.
///
/// Gradients accumulate in the order of the parts, so results are independent of the number and
/// timing of threads.
package struct MicroBatches {
  /// Row range of each part.
  package let ranges: [Range<Int>]

  /// Maximum total size in bytes of the gradient stores of a step; above it the parts run
  /// sequentially, with threads inside each part.
  private static let storeBudget = 1 << 29

  /// Splits `rows` rows into parts of `size` rows; the last may be smaller.
  package init(rows: Int, size: Int) {
    ranges = stride(from: 0, to: rows, by: size).map { $0..<min(rows, $0 + size) }
  }

  /// Calls `body` with every part and returns the results in order.
  package func map<Result>(_ body: (Range<Int>) -> Result) -> [Result] {
    var results = [Result?](repeating: nil, count: ranges.count)
    results.withUnsafeMutableBufferPointer { results in
      Parallel.tasks(ranges.count) { index in results[index] = body(ranges[index]) }
    }
    return results.compactMap(\.self)
  }

  /// Calls `body` with every part and a factory of tapes whose gradients accumulate in
  /// `parameters`.
  ///
  /// - Parameters:
  ///   - parameters: All parameters that `body` trains.
  ///   - recomputing: Whether the tapes recompute segments in the backward pass (activation
  ///     checkpointing).
  ///   - body: Runs forward and backward passes on tapes from the factory; called from any thread.
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
