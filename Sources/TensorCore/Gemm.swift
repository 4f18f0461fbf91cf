import CKernels
import COpenBLAS

/// Matrix products in float32, split over our own threads.
///
/// Our kernels multiply where they have vector instructions for the CPU; OpenBLAS elsewhere, and where
/// products are scaled.
package enum Gemm {
  private static let singleThreaded: Void = { openblas_set_num_threads(1) }()
  private static let hasKernels = ck_gemm_is_fast() != 0

  /// The CPU core type whose kernels OpenBLAS chose.
  package static var coreName: String { String(cString: openblas_get_corename()) }

  /// One single-threaded product C (m, n) = alpha op(A) op(B) + beta C, all row-major.
  package static func serial(
    transposeA: Bool = false, transposeB: Bool = false, m: Int, n: Int, k: Int, alpha: Float = 1,
    a: UnsafePointer<Float>, lda: Int, b: UnsafePointer<Float>, ldb: Int, beta: Float = 0,
    c: UnsafeMutablePointer<Float>, ldc: Int
  ) {
    if hasKernels, alpha == 1, beta == 0 || beta == 1, k > 0 {
      return ck_gemm_f32(
        a, lda, transposeA ? 1 : 0, b, ldb, transposeB ? 1 : 0, c, ldc, m, n, k, beta == 1 ? 1 : 0)
    }
    _ = singleThreaded
    cblas_sgemm(
      CblasRowMajor, transposeA ? CblasTrans : CblasNoTrans, transposeB ? CblasTrans : CblasNoTrans,
      .init(m), .init(n), .init(k), alpha, a, .init(lda), b, .init(ldb), beta, c, .init(ldc))
  }

  /// Rows or columns that are divided between threads by so many, whole tiles of the kernels.
  private static let tile = 48

  /// C (m, n) = alpha op(A) op(B) + beta C on all threads, rows of C (or columns, if those are more) split.
  ///
  /// A is stored as (m, k), or as (k, m) if `transposeA`; B as (k, n), or as (n, k) if `transposeB`.
  /// A beta of 0 stores the product, 1 adds it to C.
  package static func run(
    transposeA: Bool = false, transposeB: Bool = false, m: Int, n: Int, k: Int, alpha: Float = 1,
    a: UnsafePointer<Float>, b: UnsafePointer<Float>, beta: Float = 0,
    c: UnsafeMutablePointer<Float>
  ) {
    let lda = transposeA ? m : k
    let ldb = transposeB ? k : n
    if m >= n || m * n < 4096 {
      split(m, grain: max(4, 20_000 / max(1, n * k))) { rows in
        let start = transposeA ? a + rows.lowerBound : a + rows.lowerBound * k
        serial(
          transposeA: transposeA, transposeB: transposeB, m: rows.count, n: n, k: k, alpha: alpha,
          a: start, lda: lda, b: b, ldb: ldb, beta: beta, c: c + rows.lowerBound * n, ldc: n)
      }
    } else {
      split(n, grain: max(16, 20_000 / max(1, m * k))) { columns in
        let start = transposeB ? b + columns.lowerBound * k : b + columns.lowerBound
        serial(
          transposeA: transposeA, transposeB: transposeB, m: m, n: columns.count, k: k,
          alpha: alpha, a: a, lda: lda, b: start, ldb: ldb, beta: beta, c: c + columns.lowerBound,
          ldc: n)
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

  /// C (m, n) = alpha A^T B + beta C with a long common axis, as in weight gradients; A (k, m), B (k, n).
  ///
  /// The common axis is split over the threads and the parts are added in a fixed order, so a result
  /// depends only on the number of threads.
  package static func gradient(
    m: Int, n: Int, k: Int, alpha: Float = 1, a: UnsafePointer<Float>, b: UnsafePointer<Float>,
    beta: Float, c: UnsafeMutablePointer<Float>
  ) {
    let parts = min(Parallel.threads, max(1, k / 256))
    if parts == 1 || m * n > 1 << 18 {
      run(transposeA: true, m: m, n: n, k: k, alpha: alpha, a: a, b: b, beta: beta, c: c)
      return
    }
    let scratch = Tensor([parts - 1, m * n])
    Parallel.tasks(parts) { part in
      let lower = k * part / parts
      let upper = k * (part + 1) / parts
      serial(
        transposeA: true, m: m, n: n, k: upper - lower, alpha: alpha, a: a + lower * m, lda: m,
        b: b + lower * n, ldb: n, beta: part == 0 ? beta : 0,
        c: part == 0 ? c : scratch.pointer + (part - 1) * m * n, ldc: n)
    }
    for part in 1..<parts {
      let other = scratch.pointer + (part - 1) * m * n
      for i in 0..<(m * n) { c[i] += other[i] }
    }
  }
}
