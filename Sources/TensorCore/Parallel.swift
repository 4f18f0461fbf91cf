import CKernels

/// Splits work over the kernel threads; a product is single-threaded inside each part.
///
/// Results must not depend on the number of threads: work that is divided by `Parallel.threads` may share no
/// sum, and sums over divided work go through `sum`, whose division is fixed.
package enum Parallel {
  /// Number of threads that work together.
  package static var threads: Int { Int(ck_pool_threads()) }

  /// Calls `body` with contiguous, disjoint ranges that cover 0..<count, on all threads.
  ///
  /// - Parameters:
  ///   - count: Number of items.
  ///   - grain: Smallest number of items worth a thread of their own.
  ///   - body: Work on one range; must not touch what another range writes.
  package static func ranges(_ count: Int, grain: Int = 1, _ body: (Range<Int>) -> Void) {
    let parts = max(1, min(threads, count / max(1, grain)))
    tasks(parts) { index in
      let range = part(index, of: parts, count)
      if !range.isEmpty { body(range) }
    }
  }

  /// Largest number of parts of a divided sum.
  private static let mostParts = 16

  /// Sums contributions of 0..<count: divided into parts that depend on `count` and `grain` alone, each summed
  /// into a buffer of its own, and these added in their order.
  ///
  /// - Parameters:
  ///   - count: Number of items.
  ///   - grain: Smallest number of items of a part.
  ///   - total: Receives the sum.
  ///   - size: Number of elements of the sum.
  ///   - accumulate: Whether the sum is added to the former content of `total`.
  ///   - body: Stores the contribution of a range in the buffer it is given, or adds it if the flag says so.
  package static func sum(
    _ count: Int, grain: Int, into total: UnsafeMutablePointer<Float>, count size: Int,
    accumulate: Bool, _ body: (Range<Int>, UnsafeMutablePointer<Float>, _ accumulate: Bool) -> Void
  ) {
    let parts = max(1, min(mostParts, count / max(1, grain)))
    let others = Tensor([parts - 1, size])
    tasks(parts) { index in
      body(
        part(index, of: parts, count),
        index == 0 ? total : others.pointer + (index - 1) * size, index == 0 && accumulate)
    }
    guard parts > 1 else { return }
    ranges(size, grain: 1 << 14) { range in
      for index in 0..<(parts - 1) {
        ck_add_f32(
          total + range.lowerBound, others.pointer + index * size + range.lowerBound, range.count)
      }
    }
  }

  private static func part(_ index: Int, of parts: Int, _ count: Int) -> Range<Int> {
    (count * index / parts)..<(count * (index + 1) / parts)
  }

  /// Calls `body` once with every index in 0..<count, spread over the threads as they come free.
  package static func tasks(_ count: Int, _ body: (Int) -> Void) {
    if count <= 1 {
      if count == 1 { body(0) }
      return
    }
    withoutActuallyEscaping(body) { escaping in
      var box = escaping
      withUnsafeMutablePointer(to: &box) { pointer in
        ck_pool_run(
          Int32(count),
          { context, index, _ in
            guard let context else { return }
            context.assumingMemoryBound(to: ((Int) -> Void).self).pointee(Int(index))
          }, pointer)
      }
    }
  }
}
