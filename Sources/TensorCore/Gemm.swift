import CKernels
import COpenBLAS

/// Matrix products in float32, split over our own threads.
///
/// Our kernels multiply on CPUs with AVX2 or AVX-512. Each element of C is one chain of multiply-adds along
/// the inner dimension, so results do not depend on the number of threads. OpenBLAS multiplies on other CPUs,
/// without that promise.
package enum Gemm {
  private static let singleThreaded: Void = { openblas_set_num_threads(1) }()
  private static let hasKernels = ck_gemm_is_fast() != 0

  /// Keeps OpenBLAS from starting threads of its own.
  static func useOneThread() { _ = singleThreaded }

  /// The CPU core type whose kernels OpenBLAS chose.
  package static var coreName: String { String(cString: openblas_get_corename()) }

  /// One single-threaded product C (m, n) = op(A) op(B), or C += op(A) op(B), all row-major.
  package static func serial(
    transposeA: Bool = false, transposeB: Bool = false, m: Int, n: Int, k: Int,
    a: UnsafePointer<Float>, lda: Int, b: UnsafePointer<Float>, ldb: Int, accumulate: Bool = false,
    c: UnsafeMutablePointer<Float>, ldc: Int
  ) {
    if hasKernels, k > 0 {
      return ck_gemm_f32(
        a, lda, transposeA ? 1 : 0, b, ldb, transposeB ? 1 : 0, c, ldc, m, n, k, accumulate ? 1 : 0)
    }
    useOneThread()
    cblas_sgemm(
      CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans,
      .init(m), .init(n), .init(k), 1, a, .init(lda), b, .init(ldb), accumulate ? 1 : 0, c,
      .init(ldc))
  }

  /// Rows or columns are divided between threads in multiples of this, whole tiles of the kernels.
  private static let tile = 48
  /// The kernels take another path for products of up to `CK_GEMM_MOST_DOT_ROWS` rows; a thread's share of
  /// more rows must not fall under it.
  private static let smallestShare = Int(CK_GEMM_MOST_DOT_ROWS) + 1

  /// C (m, n) = op(A) op(B) or C += op(A) op(B) on all threads; rows of C are divided between them, or columns
  /// if those are more.
  ///
  /// A is stored as (m, k), or as (k, m) if `transposeA`; B as (k, n), or as (n, k) if `transposeB`.
  package static func run(
    transposeA: Bool = false, transposeB: Bool = false, m: Int, n: Int, k: Int,
    a: UnsafePointer<Float>, b: UnsafePointer<Float>, accumulate: Bool = false,
    c: UnsafeMutablePointer<Float>
  ) {
    let lda = transposeA ? m : k
    let ldb = transposeB ? k : n
    if m >= n || m * n < 4096 {
      split(m, grain: max(smallestShare, 20_000 / max(1, n * k))) { rows in
        let start = transposeA ? a + rows.lowerBound : a + rows.lowerBound * k
        serial(
          transposeA: transposeA, transposeB: transposeB, m: rows.count, n: n, k: k, a: start,
          lda: lda, b: b, ldb: ldb, accumulate: accumulate, c: c + rows.lowerBound * n, ldc: n)
      }
    } else {
      split(n, grain: max(16, 20_000 / max(1, m * k))) { columns in
        let start = transposeB ? b + columns.lowerBound * k : b + columns.lowerBound
        serial(
          transposeA: transposeA, transposeB: transposeB, m: m, n: columns.count, k: k, a: a,
          lda: lda, b: start, ldb: ldb, accumulate: accumulate, c: c + columns.lowerBound, ldc: n)
      }
    }
  }

  /// Calls `body` with ranges of rows or columns on all threads, whole tiles where there are many.
  private static func split(_ count: Int, grain: Int, _ body: (Range<Int>) -> Void) {
    guard count >= 2 * tile * Parallel.threads else {
      return Parallel.ranges(count, grain: grain, body)
    }
    Parallel.ranges((count + tile - 1) / tile, grain: max(1, grain / tile)) { tiles in
      body(tiles.lowerBound * tile..<min(count, tiles.upperBound * tile))
    }
  }

  /// C (m, n) = A^T B or C += A^T B with a long inner dimension, as in weight gradients; A (k, m), B (k, n).
  ///
  /// Of a small C the inner dimension is divided into parts, the same for any number of threads, and the
  /// parts' products are added in their order.
  package static func gradient(
    m: Int, n: Int, k: Int, a: UnsafePointer<Float>, b: UnsafePointer<Float>, accumulate: Bool,
    c: UnsafeMutablePointer<Float>
  ) {
    guard m * n <= 1 << 14, k >= 1024 else {
      return run(
        transposeA: true, m: m, n: n, k: k, a: a, b: b, accumulate: accumulate, c: c)
    }
    Parallel.sum(k, grain: 512, into: c, count: m * n, accumulate: accumulate) { range, part, add in
      serial(
        transposeA: true, m: m, n: n, k: range.count, a: a + range.lowerBound * m, lda: m,
        b: b + range.lowerBound * n, ldb: n, accumulate: add, c: part, ldc: n)
    }
  }
}
