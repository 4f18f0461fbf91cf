import CKernels
import TensorCore
import TestSupport
import Testing

/// Numeric suites run on the main actor: it is the one numeric thread of the test process.
@MainActor @Suite("Matrix products")
struct GemmTests {
  /// The product by its definition; A is (m, k) or stored as (k, m), B is (k, n) or stored as (n, k).
  private func product(
    _ a: Tensor, _ b: Tensor, _ m: Int, _ n: Int, _ k: Int, transposeA: Bool, transposeB: Bool
  ) -> [Double] {
    var result = [Double](repeating: 0, count: m * n)
    for row in 0..<m {
      for column in 0..<n {
        for inner in 0..<k {
          let left = a[transposeA ? inner * m + row : row * k + inner]
          let right = b[transposeB ? column * k + inner : inner * n + column]
          result[row * n + column] += Double(left) * Double(right)
        }
      }
    }
    return result
  }

  private func worst(_ found: Tensor, _ expected: [Double]) -> Double {
    zip(found.values, expected).map { $0.isFinite ? abs(Double($0) - $1) : .infinity }.max() ?? 0
  }

  /// Few rows, few columns, one of each, and enough of either to be split over threads.
  nonisolated static let shapes = [
    (1, 1, 1), (1, 7, 3), (5, 1, 9), (3, 5, 17), (37, 13, 20), (9, 700, 31), (701, 9, 31),
    (2, 4099, 5), (130, 131, 64), (63, 65, 1),
  ]

  @Test(arguments: shapes)
  func everyTransposeMatchesTheDefinition(m: Int, n: Int, k: Int) {
    var random = RandomSequence(seed: UInt64(m * 10007 + n * 101 + k))
    let a = random.normal([m * k])
    let b = random.normal([k * n])
    let start = random.normal([m * n])
    for (transposeA, transposeB) in [(false, false), (true, false), (false, true), (true, true)] {
      let expected = product(a, b, m, n, k, transposeA: transposeA, transposeB: transposeB)
      let tolerance = 1e-5 * Double(k).squareRoot() + 1e-6
      // Stored, a product does not depend on the target's former content.
      let fresh = Tensor.full([m, n], .nan)
      Gemm.run(
        transposeA: transposeA, transposeB: transposeB, m: m, n: n, k: k, a: a.pointer,
        b: b.pointer, c: fresh.pointer)
      #expect(worst(fresh, expected) < tolerance, "\(transposeA) \(transposeB)")
      let added = start.copied()
      Gemm.run(
        transposeA: transposeA, transposeB: transposeB, m: m, n: n, k: k, a: a.pointer,
        b: b.pointer, accumulate: true, c: added.pointer)
      let sums = zip(expected, start.values).map { $0 + Double($1) }
      #expect(worst(added, sums) < tolerance, "\(transposeA) \(transposeB) added")
    }
  }

  /// Blocks in all three directions, whole and ragged tiles of both kinds, inside wider rows.
  @Test(
    arguments: [6, 12], [(300, 50, 400), (290, 33, 769), (13, 96, 384), (4, 130, 31), (95, 7, 8)])
  func kernelsStayInsideTheirRows(tileRows: Int, shape: (Int, Int, Int)) {
    let before = ck_get_tile_rows()
    ck_set_tile_rows(tileRows)
    defer { ck_set_tile_rows(before) }
    let (m, n, k) = shape
    var random = RandomSequence(seed: UInt64(m + n))
    for (transposeA, transposeB) in [(false, false), (true, false), (false, true), (true, true)] {
      let (lda, ldb, ldc) = ((transposeA ? m : k) + 3, (transposeB ? k : n) + 5, n + 2)
      let a = random.normal([transposeA ? k : m, lda])
      let b = random.normal([transposeB ? n : k, ldb])
      let start = random.normal([m, ldc])
      for accumulate in [false, true] {
        let c = start.copied()
        Gemm.serial(
          transposeA: transposeA, transposeB: transposeB, m: m, n: n, k: k, a: a.pointer, lda: lda,
          b: b.pointer, ldb: ldb, accumulate: accumulate, c: c.pointer, ldc: ldc)
        var worst = 0.0
        for row in 0..<m {
          for column in 0..<ldc {
            var expected = Double(start[row * ldc + column])
            if column < n {
              if !accumulate { expected = 0 }
              for inner in 0..<k {
                let left = a[transposeA ? inner * lda + row : row * lda + inner]
                let right = b[transposeB ? column * ldb + inner : inner * ldb + column]
                expected += Double(left) * Double(right)
              }
            }
            let found = Double(c[row * ldc + column])
            worst = max(worst, found.isFinite ? abs(found - expected) : .infinity)
          }
        }
        #expect(worst < 1e-5 * Double(k).squareRoot(), "\(transposeA) \(transposeB) \(accumulate)")
      }
    }
  }

  @Test(arguments: [(7, 9, 1000), (5, 3, 255), (1, 4, 2049), (600, 500, 3), (16, 48, 513)])
  func gradientProductSumsOverTheLongAxis(m: Int, n: Int, k: Int) {
    var random = RandomSequence(seed: UInt64(k))
    let a = random.normal([k, m])
    let b = random.normal([k, n])
    let start = random.normal([m, n])
    let expected = product(a, b, m, n, k, transposeA: true, transposeB: false)
    let tolerance = 1e-5 * Double(k).squareRoot()
    let fresh = Tensor.full([m, n], .nan)
    Gemm.gradient(m: m, n: n, k: k, a: a.pointer, b: b.pointer, accumulate: false, c: fresh.pointer)
    #expect(worst(fresh, expected) < tolerance)
    let added = start.copied()
    Gemm.gradient(m: m, n: n, k: k, a: a.pointer, b: b.pointer, accumulate: true, c: added.pointer)
    #expect(worst(added, zip(expected, start.values).map { $0 + Double($1) }) < tolerance)
    let again = start.copied()
    Gemm.gradient(m: m, n: n, k: k, a: a.pointer, b: b.pointer, accumulate: true, c: again.pointer)
    #expect(again.values == added.values, "the result depends on timing")
  }

  @Test func serialProductRespectsStrides() {
    // A 2x3 block inside rows of 5, C inside rows of 4.
    var random = RandomSequence(seed: 1)
    let a = random.normal([2, 5])
    let b = random.normal([3, 2])
    let c = Tensor.full([2, 4], 9)
    Gemm.serial(
      m: 2, n: 2, k: 3, a: a.pointer + 1, lda: 5, b: b.pointer, ldb: 2,
      c: c.pointer + 1, ldc: 4)
    for row in 0..<2 {
      #expect(c[row * 4] == 9 && c[row * 4 + 3] == 9)
      for column in 0..<2 {
        let expected = (0..<3).reduce(Float(0)) { $0 + a[row * 5 + 1 + $1] * b[$1 * 2 + column] }
        #expect(abs(c[row * 4 + 1 + column] - expected) < 1e-6)
      }
    }
  }
}
