import CKernels
import COneDNN
import Foundation

/// The second factor (k, n) of matrix products in bfloat16 with float32 sums, packed once for as many
/// products as one likes.
///
/// oneDNN multiplies where the CPU has bfloat16 dot products, on our own threads, each with blocks of rows
/// or columns. Elsewhere float32 products of rounded factors take its place: slower, but with the same
/// rounding, so that one can see anywhere what bfloat16 does to a model.
package final class PackedFactor: @unchecked Sendable {
  /// Whether the CPU multiplies bfloat16 in hardware, and the library passes a trial of it.
  package static let hasHardware = ck_has_bfloat16() != 0 && PackedFactor.passesTrial()

  /// The library that multiplies in hardware, with its version.
  package static var libraryName: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
      od_version(text.baseAddress, text.count)
      return text.baseAddress.map { String(cString: $0) } ?? ""
    }
  }

  let k, n: Int
  let isTransposed: Bool
  let type: od_type
  private let isNative: Bool
  private let lock = NSLock()
  private var kept: Kept?

  /// The factor as products want it.
  private enum Kept {
    case packed(Packed)
    /// For products that are emulated: the values that bfloat16 holds, in float32.
    case rounded(Tensor)
  }

  /// Describes a factor; it is packed at its first product.
  ///
  /// - Parameters:
  ///   - k: The common axis of the product.
  ///   - n: Columns of the result.
  ///   - isTransposed: Whether it is stored as (n, k).
  package convenience init(k: Int, n: Int, isTransposed: Bool) {
    self.init(k: k, n: n, isTransposed: isTransposed, type: OD_BF16, isNative: Self.hasHardware)
  }

  /// Describes a factor of another format; tests multiply in float32 where bfloat16 cannot run.
  init(k: Int, n: Int, isTransposed: Bool, type: od_type, isNative: Bool) {
    (self.k, self.n, self.isTransposed) = (k, n, isTransposed)
    (self.type, self.isNative) = (type, isNative)
  }

  /// What is multiplied by a factor.
  package enum First {
    /// (m, k) in float32, or (k, m).
    case floats(UnsafePointer<Float>, isTransposed: Bool = false)
    /// (m, k).
    case rounded(RoundedTensor)
  }

  /// What a factor is made from, the same at every product.
  package enum Source {
    case floats(UnsafePointer<Float>)
    case rounded(RoundedTensor)
  }

  /// What becomes of a product (m, n) and its bias.
  package enum Result {
    /// Stored, or added to what is there.
    case floats(UnsafeMutablePointer<Float>, adds: Bool = false)
    /// Rounded, after GELU in its tanh form if wanted.
    case rounded(RoundedTensor, gelu: Bool = false)
  }

  /// C (m, n) = A B + bias.
  ///
  /// - Parameters:
  ///   - m: Rows of the result.
  ///   - a: The first factor.
  ///   - source: This factor.
  ///   - bias: (n), or nil for none.
  ///   - result: C, and what is done to it.
  package func multiply(
    m: Int, _ a: First, by source: Source, bias: UnsafePointer<Float>? = nil, into result: Result
  ) {
    if m == 0 { return }
    if case .rounded(let matrix) = a {
      precondition(matrix.count == m * k, "PackedFactor: \(matrix.shape) by (\(k), \(n))")
    }
    switch isNative ? native(m, a, source, bias, result) : .unsupported {
    case .done: break
    case .unsupported: emulate(m, a, source, bias, result)
    case .failed: preconditionFailure("oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    }
  }

  /// Makes the factor ready, so that no product needs its source any more.
  package func prepare(_ source: Source) {
    if isNative, packed({ pack(source) }) != nil { return }
    _ = rounded(source)
  }

  /// The packed factor, which `make` packs at the first call; nil if it cannot, or if products of this
  /// factor are emulated.
  func packed(_ make: () -> Packed?) -> Packed? {
    lock.lock()
    defer { lock.unlock() }
    switch kept {
    case .packed(let packed): return packed
    case .rounded: return nil
    case nil:
      guard let packed = make() else { return nil }
      kept = .packed(packed)
      return packed
    }
  }

  /// The factor's values as bfloat16 holds them, in float32.
  private func rounded(_ source: Source) -> Tensor {
    lock.lock()
    defer { lock.unlock() }
    switch kept {
    case .packed: preconditionFailure("oneDNN lost its product by (\(k), \(n))")
    case .rounded(let values): return values
    case nil:
      let values =
        switch source {
        case .floats(let floats): Self.rounded(floats, count: k * n)
        case .rounded(let matrix): matrix.floats
        }
      kept = .rounded(values)
      return values
    }
  }

  private func emulate(
    _ m: Int, _ first: First, _ source: Source, _ bias: UnsafePointer<Float>?, _ result: Result
  ) {
    let b = rounded(source)
    let (a, transposeA) =
      switch first {
      case .floats(let a, let isTransposed): (Self.rounded(a, count: m * k), isTransposed)
      case .rounded(let matrix): (matrix.floats, false)
      }
    let product = Tensor([m, n])
    withExtendedLifetime((a, b)) {
      Gemm.run(
        transposeA: transposeA, transposeB: isTransposed, m: m, n: n, k: k, a: a.pointer,
        b: b.pointer, c: product.pointer)
    }
    Parallel.ranges(m, grain: max(1, (1 << 13) / n)) { rows in
      let (from, start) = (product.pointer + rows.lowerBound * n, rows.lowerBound * n)
      switch result {
      case .floats(let c, let adds):
        ck_store_rows_f32(from, bias, c + start, n, rows.count, n, adds ? 1 : 0)
      case .rounded(let c, let gelu):
        ck_bfloat16_rows_f32(from, bias, c.halves + start, rows.count, n, gelu ? 1 : 0)
      }
    }
  }

  private static func rounded(_ source: UnsafePointer<Float>, count: Int) -> Tensor {
    let result = Tensor([count])
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_round_f32(
        source + range.lowerBound, result.pointer + range.lowerBound, range.count)
    }
    return result
  }

  /// Products of several blocks of rows and columns in hardware against emulated ones.
  private static func passesTrial() -> Bool {
    func normal(_ name: String, _ shape: [Int]) -> Tensor {
      RandomStream(seed: 1, "trial/\(name)").normal(shape)
    }
    for (m, n, k) in [(3, 328, 80), (521, 200, 80), (64, 328, 33), (70, 64, 9999)] {
      let (bias, start) = (normal("bias", [n]), normal("start", [m, n]))
      for isTransposed in [false, true] {
        let (a, b) = (normal("left", [m, k]), normal("right", [k, n]))
        func product(isNative: Bool) -> [Float]? {
          let factor = PackedFactor(
            k: k, n: n, isTransposed: isTransposed, type: OD_BF16, isNative: isNative)
          let (sums, activated) = (start.copied(), RoundedTensor([m, n]))
          let source = Source.floats(b.pointer)
          let steps: [(First, Result)] = [
            (
              .floats(a.pointer, isTransposed: isTransposed),
              .floats(sums.pointer, adds: isTransposed)
            ), (.rounded(RoundedTensor(rounding: a)), .rounded(activated, gelu: isTransposed)),
          ]
          for (first, result) in steps {
            if isNative {
              guard case .done = factor.native(m, first, source, bias.pointer, result) else {
                return nil
              }
            } else {
              factor.emulate(m, first, source, bias.pointer, result)
            }
          }
          return sums.values + activated.floats.values
        }
        guard let found = product(isNative: true), let wanted = product(isNative: false),
          zip(found, wanted).allSatisfy({
            abs($0 - $1) < 1e-4 * Float(k).squareRoot() + 0.01 * abs($1)
          })
        else { return false }
      }
    }
    return true
  }
}
