import CKernels

/// Splits work over the kernel threads; BLAS itself runs single-threaded inside each part.
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
      let lower = count * index / parts
      let upper = count * (index + 1) / parts
      if lower < upper { body(lower..<upper) }
    }
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
