import CKernels
import Foundation
import TensorCore
import TestSupport
import Testing

/// Products with a packed right operand against plain ones, by our kernels and by oneDNN where it has packed kernels.
///
/// On the main actor: the number of threads is common to all suites.
@MainActor struct PackedMatrixTests {
  private struct Shape: CustomTestStringConvertible, Sendable {
    let m, n, k: Int
    var testDescription: String { "(\(m), \(k)) by (\(k), \(n))" }
  }

  nonisolated private static let shapes = [
    Shape(m: 1, n: 64, k: 8), Shape(m: 7, n: 33, k: 19), Shape(m: 64, n: 200, k: 48),
    Shape(m: 130, n: 192, k: 70),
  ]

  /// The product in double precision, of both operands as `value` gives their elements.
  private static func expected(
    _ shape: Shape, _ a: Tensor, _ b: Tensor, transposeA: Bool, isTransposed: Bool,
    value: (Float) -> Float = { $0 }
  ) -> [Double] {
    var result: [Double] = []
    for i in 0..<shape.m {
      for j in 0..<shape.n {
        var sum = 0.0
        for p in 0..<shape.k {
          let first = value(transposeA ? a[p * shape.m + i] : a[i * shape.k + p])
          let second = value(isTransposed ? b[j * shape.k + p] : b[p * shape.n + j])
          sum += Double(first) * Double(second)
        }
        result.append(sum)
      }
    }
    return result
  }

  /// Float32 rounded to the nearest bfloat16, ties to even.
  private static func rounded(_ value: Float) -> Float {
    let below = Float(bitPattern: value.bitPattern & 0xffff_0000)
    let above = Float(bitPattern: below.bitPattern + 0x1_0000)
    let (down, up) = (abs(value - below), abs(above - value))
    if down == up { return below.bitPattern & 0x1_0000 == 0 ? below : above }
    return down < up ? below : above
  }

  private static func check(_ shape: Shape, inHardware: Bool, tolerance: Double) {
    var random = RandomSequence(seed: 3)
    for (transposeA, isTransposed) in [(false, true), (false, false), (true, false)] {
      let a = random.normal(transposeA ? [shape.k, shape.m] : [shape.m, shape.k])
      let b = random.normal(isTransposed ? [shape.n, shape.k] : [shape.k, shape.n])
      let (bias, start) = (random.normal([shape.n]), random.normal([shape.m, shape.n]))
      let product = expected(
        shape, a, b, transposeA: transposeA, isTransposed: isTransposed, value: Self.rounded)
      let matrix = PackedMatrix(
        .float32(b), isTransposed: isTransposed, inHardware: inHardware)
      for (hasBias, accumulate) in [(false, false), (true, false), (false, true)] {
        let c = start.copied()
        matrix.multiply(
          .float32(a), isTransposed: transposeA, bias: hasBias ? bias : nil,
          into: .float32(c, accumulate: accumulate))
        for (index, sum) in product.enumerated() {
          let column = index % shape.n
          let wanted =
            sum + (hasBias ? Double(bias[column]) : 0) + (accumulate ? Double(start[index]) : 0)
          #expect(
            abs(Double(c[index]) - wanted) < tolerance,
            "\(index), transposed \(transposeA) \(isTransposed), \(hasBias) \(accumulate)")
        }
      }
    }
  }

  @Test(arguments: shapes) private func emulationRoundsBothOperands(_ shape: Shape) {
    Self.check(shape, inHardware: false, tolerance: 1e-4)
  }

  @Test(.enabled(if: PackedMatrix.hasBFloat16), arguments: shapes)
  private func hardwareRoundsBothOperands(_ shape: Shape) {
    Self.check(shape, inHardware: true, tolerance: 1e-3)
  }

  /// Bfloat16 operands and results, with GELU and without; in hardware if the CPU has it.
  @Test(arguments: shapes + [Shape(m: 300, n: 72, k: 33)])
  private func bfloat16PassesFromProductToProduct(_ shape: Shape) {
    var random = RandomSequence(seed: 6)
    let (m, n, k) = (shape.m, shape.n, shape.k)
    let (a, b, bias) = (random.normal([m, k]), random.normal([n, k]), random.normal([n]))
    let sums = Self.expected(
      shape, a, b, transposeA: false, isTransposed: true, value: Self.rounded)
    for gelu in [false, true] {
      for right in [MixedTensor.float32(b), .bfloat16(BFloat16Tensor(rounding: b))] {
        let result = BFloat16Tensor([m, n])
        PackedMatrix(right, isTransposed: true).multiply(
          .bfloat16(BFloat16Tensor(rounding: a)), bias: bias,
          into: .bfloat16(result, gelu: gelu))
        for (index, found) in result.float32.values.enumerated() {
          let sum = sums[index] + Double(bias[index % n])
          let cube = sum + 0.044715 * sum * sum * sum
          let wanted = gelu ? 0.5 * sum * (1 + tanh((2 / Double.pi).squareRoot() * cube)) : sum
          // GELU takes the rounded sum.
          let rounded = abs(wanted) + (gelu ? abs(sum) : 0)
          #expect(abs(Double(found) - wanted) <= rounded / 250 + 1e-3, "\(index), GELU \(gelu)")
        }
      }
    }
  }

  /// Packed float32 products: by the library where it has them, by our kernels elsewhere.
  @Test(arguments: shapes + [Shape(m: 300, n: 72, k: 33)])
  private func float32ProductsAreExact(_ shape: Shape) {
    var random = RandomSequence(seed: 8)
    for isTransposed in [true, false] {
      let a = random.normal([shape.m, shape.k])
      let b = random.normal(isTransposed ? [shape.n, shape.k] : [shape.k, shape.n])
      let (bias, start) = (random.normal([shape.n]), random.normal([shape.m, shape.n]))
      let product = Self.expected(shape, a, b, transposeA: false, isTransposed: isTransposed)
      for inHardware in [PackedMatrix.hasFloat32, false] {
        let c = start.copied()
        PackedMatrix(.float32(b), isTransposed: isTransposed, .float32, inHardware: inHardware)
          .multiply(.float32(a), bias: bias, into: .float32(c, accumulate: true))
        for (index, sum) in product.enumerated() {
          let wanted = sum + Double(bias[index % shape.n]) + Double(start[index])
          #expect(abs(Double(c[index]) - wanted) < 1e-5 * Double(shape.k).squareRoot() + 1e-5)
        }
      }
    }
  }

  /// Rows are divided between threads, columns are not: bits depend on neither threads nor the other rows.
  @Test(arguments: Precision.allCases, [1, 3, 70, 200, 700])
  func bitsDoNotDependOnThreads(precision: Precision, rows: Int) {
    var random = RandomSequence(seed: 9)
    let (n, k) = (1152, 600)
    let (a, b) = (random.normal([rows, k]), random.normal([n, k]))
    let matrix = PackedMatrix(.float32(b), isTransposed: true, precision)
    let former = Parallel.threads
    defer { ck_pool_set_threads(Int32(former)) }
    let results = [1, 2, 3, 7].map { threads in
      ck_pool_set_threads(Int32(threads))
      let c = Tensor([rows, n])
      matrix.multiply(.float32(a), into: .float32(c))
      return c.values
    }
    #expect(results.allSatisfy { $0 == results[0] })
  }

  /// Products of 8-bit integers against sums of the integers that the definition gives, and near the exact product.
  @Test(arguments: shapes + [Shape(m: 300, n: 72, k: 33)])
  private func int8RoundsRowsAndOutputs(_ shape: Shape) {
    var random = RandomSequence(seed: 10)
    let (m, n, k) = (shape.m, shape.n, shape.k)
    let (a, b, bias) = (random.normal([m, k]), random.normal([n, k]), random.normal([n]))
    a[0] = 1000  // a large element spoils its own row alone
    func rounded(_ x: Tensor) -> Tensor {
      let result = x.copied()
      for row in 0..<(x.count / k) {
        let scale = (0..<k).map { abs(x[row * k + $0]) }.reduce(0, max) / 127
        for i in row * k..<(row + 1) * k { result[i] = (x[i] / scale).rounded() * scale }
      }
      return result
    }
    let wanted = Self.expected(shape, rounded(a), rounded(b), transposeA: false, isTransposed: true)
    let exact = Self.expected(shape, a, b, transposeA: false, isTransposed: true)
    for inHardware in [PackedMatrix.hasInt8, false] {
      let c = Tensor([m, n])
      PackedMatrix(.float32(b), isTransposed: true, .int8, inHardware: inHardware)
        .multiply(.float32(a), bias: bias, into: .float32(c))
      for (index, found) in c.values.enumerated() {
        let sum = Double(found) - Double(bias[index % n])
        // An integer may be rounded the other way where the quotient is a half.
        #expect(abs(sum - wanted[index]) < 0.02 * (1 + abs(wanted[index])), "\(index)")
        if index >= n { #expect(abs(sum - exact[index]) < 0.05 * Double(k).squareRoot()) }
      }
    }
  }

  @Test func tensorsKeepShapeAndValues() {
    let x = Tensor([1, -2.5, 1.00390625, .infinity, 1e-30, -0.0], shape: [2, 3])
    let rounded = BFloat16Tensor(rounding: x)
    #expect(rounded.shape == [2, 3] && rounded.float32.shape == [2, 3])
    #expect(rounded.float32.values.prefix(4) == [1, -2.5, 1, .infinity])
    #expect(BFloat16Tensor(rounding: Tensor([.nan], shape: [1])).float32[0].isNaN)
  }

  @Test func oneMatrixServesAllNumbersOfRows() {
    var random = RandomSequence(seed: 4)
    let (n, k) = (96, 40)
    let b = random.normal([n, k])
    let matrix = PackedMatrix(.float32(b), isTransposed: true)
    for m in [1, 3, 16, 100, 3] {
      let (a, c) = (random.normal([m, k]), Tensor([m, n]))
      matrix.multiply(.float32(a), into: .float32(c))
      let wanted = Self.expected(
        Shape(m: m, n: n, k: k), a, b, transposeA: false, isTransposed: true, value: Self.rounded)
      for (found, wanted) in zip(c.values, wanted) { #expect(abs(Double(found) - wanted) < 1e-4) }
    }
  }

  @Test func severalThreadsMayMultiplyAtOnce() {
    var random = RandomSequence(seed: 5)
    let (m, n, k) = (20, 128, 32)
    let (a, b) = (random.normal([m, k]), random.normal([n, k]))
    let matrix = PackedMatrix(.float32(b), isTransposed: true)
    let wanted = Self.expected(
      Shape(m: m, n: n, k: k), a, b, transposeA: false, isTransposed: true, value: Self.rounded)
    let results = (0..<8).map { _ in Tensor([m, n]) }
    Parallel.tasks(results.count) { index in
      matrix.multiply(.float32(a), into: .float32(results[index]))
    }
    for result in results {
      for (found, wanted) in zip(result.values, wanted) {
        #expect(abs(Double(found) - wanted) < 1e-4)
      }
    }
  }
}
