import CKernels
import COneDNN
import Foundation

/// The second factor (k, n) of matrix products in bfloat16 with float32 sums, packed once for as many
/// products as one likes.
///
/// oneDNN multiplies where the CPU has bfloat16 dot products, on our own threads, each with a range of
/// columns. Elsewhere float32 products of rounded factors take its place: slower, but with the same
/// rounding, so that one can see anywhere what bfloat16 does to a model.
package final class PackedFactor: @unchecked Sendable {
  /// Whether the CPU multiplies bfloat16 in hardware, and the library passes a trial of it.
  package static let hasHardware = od_has_bfloat16() != 0 && PackedFactor.passesTrial()

  /// The library that multiplies in hardware, with its version.
  package static var libraryName: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
      od_version(text.baseAddress, text.count)
      return text.baseAddress.map { String(cString: $0) } ?? ""
    }
  }

  /// Rows that are multiplied at once; what comes out still lies in the cache when it is stored.
  private static let rowBlock = 256

  private let k, n: Int
  private let isTransposed: Bool
  private let type: od_type
  private let isNative: Bool
  private let parts: [Part]
  private let emulation = Emulation()

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
    let count = max(1, min(Parallel.threads, n / 64))
    // Whole blocks of the packed layout.
    let edges = (0...count).map { $0 == count ? n : n * $0 / count / 64 * 64 }
    parts = zip(edges, edges.dropFirst()).map { Part(columns: $0..<$1) }
  }

  /// C (m, n) = A B + bias, or C (m, n) += A B + bias.
  ///
  /// - Parameters:
  ///   - m: Rows of the result.
  ///   - a: (m, k) in float32.
  ///   - transposeA: Whether `a` is stored as (k, m).
  ///   - source: This factor in float32, the same at every call.
  ///   - bias: (n), or nil for none.
  ///   - adds: Whether the product is added to what C holds.
  ///   - c: (m, n).
  package func multiply(
    m: Int, a: UnsafePointer<Float>, transposeA: Bool = false, source: UnsafePointer<Float>,
    bias: UnsafePointer<Float>? = nil, adds: Bool = false, into c: UnsafeMutablePointer<Float>
  ) {
    multiply(m, .floats(a, isTransposed: transposeA), source, bias, .sums(c, adds: adds))
  }

  /// C (m, n) = A B + bias with a first factor that is rounded already.
  ///
  /// - Parameters:
  ///   - a: (m, k).
  ///   - source: This factor in float32, the same at every call.
  ///   - bias: (n), or nil for none.
  ///   - c: (m, n).
  package func multiply(
    _ a: RoundedMatrix, source: UnsafePointer<Float>, bias: UnsafePointer<Float>? = nil,
    into c: UnsafeMutablePointer<Float>
  ) {
    precondition(a.columns == k, "PackedFactor: (\(a.rows), \(a.columns)) by (\(k), \(n))")
    multiply(a.rows, .rounded(a), source, bias, .sums(c, adds: false))
  }

  /// GELU(A B + bias), rounded while a block of it lies in the cache.
  ///
  /// - Parameters:
  ///   - m: Rows of the result.
  ///   - a: (m, k) in float32.
  ///   - source: This factor in float32, the same at every call.
  ///   - bias: (n), or nil for none.
  /// - Returns: (m, n).
  package func gelu(
    m: Int, a: UnsafePointer<Float>, source: UnsafePointer<Float>, bias: UnsafePointer<Float>? = nil
  ) -> RoundedMatrix {
    let result = RoundedMatrix(rows: m, columns: n)
    multiply(m, .floats(a, isTransposed: false), source, bias, .gelu(result))
    return result
  }

  /// What is multiplied by this factor.
  private enum First {
    /// (m, k) in float32, or (k, m).
    case floats(UnsafePointer<Float>, isTransposed: Bool)
    case rounded(RoundedMatrix)
  }

  /// What becomes of a product and its bias.
  private enum Target {
    /// Stored, or added to what is there.
    case sums(UnsafeMutablePointer<Float>, adds: Bool)
    case gelu(RoundedMatrix)

    /// Takes a tile (rows, columns) of the product, of `n` columns in all.
    func take(
      _ tile: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?, rows: Range<Int>,
      columns: Range<Int>, of n: Int
    ) {
      let bias = bias.map { $0 + columns.lowerBound }
      let start = rows.lowerBound * n + columns.lowerBound
      switch self {
      case .sums(let c, let adds):
        ck_store_rows_f32(tile, bias, c + start, n, rows.count, columns.count, adds ? 1 : 0)
      case .gelu(let result):
        ck_bfloat16_gelu_f32(tile, bias, result.halves + start, n, rows.count, columns.count)
      }
    }
  }

  private func multiply(
    _ m: Int, _ first: First, _ source: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?,
    _ target: Target
  ) {
    switch isNative ? native(m, first, source, bias, target) : .unsupported {
    case .done: break
    case .unsupported: emulate(m, first, source, bias, target)
    case .failed: preconditionFailure("oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    }
  }

  private enum Outcome {
    case done
    /// The library has no such product; nothing was written.
    case unsupported
    case failed
  }

  /// Multiplies in hardware: blocks of rows by the columns of every thread.
  private func native(
    _ m: Int, _ first: First, _ source: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?,
    _ target: Target
  ) -> Outcome {
    let blocks = stride(from: 0, to: m, by: Self.rowBlock).map {
      $0..<min(m, $0 + Self.rowBlock)
    }
    var products: [[Int: Product]] = []
    for part in parts {
      var ofRows: [Int: Product] = [:]
      for rows in Set(blocks.map(\.count)) {
        let shape = od_shape(m: rows, n: part.columns.count, k: k, type: type)
        guard let product = ProductCache.product(shape) else { return .unsupported }
        ofRows[rows] = product
      }
      products.append(ofRows)
    }
    let first = firstFactor(first, m: m)
    let failures = Tensor.zeros([parts.count])
    Parallel.tasks(parts.count) { index in
      let (part, lower) = (parts[index], parts[index].columns.lowerBound)
      let width = part.columns.count
      for rows in blocks {
        guard let product = products[index][rows.count],
          let packed = part.layout(
            for: product,
            {
              od_pack(
                product.handle, source + (isTransposed ? lower * k : lower), isTransposed ? k : n,
                isTransposed ? 1 : 0, $0) != 0
            })
        else { return failures[index] = 1 }
        let scratch = Tensor([max(16, (product.scratchSize + 3) / 4)])
        let tile = Tensor([rows.count, width])
        let block =
          UnsafeRawPointer(first.pointer) + rows.lowerBound * k * (type == OD_BF16 ? 2 : 4)
        guard od_run(product.handle, block, packed.pointer, tile.pointer, scratch.pointer) != 0
        else { return failures[index] = 1 }
        target.take(tile.pointer, bias, rows: rows, columns: part.columns, of: n)
      }
    }
    return failures.values.contains(1) ? .failed : .done
  }

  /// A dense first factor (m, k): bfloat16, two elements in the place of a float, or float32.
  private func firstFactor(_ first: First, m: Int) -> Tensor {
    let (a, isTransposed): (UnsafePointer<Float>, Bool)
    switch first {
    case .floats(let floats, let transposed): (a, isTransposed) = (floats, transposed)
    case .rounded(let matrix) where type == OD_BF16: return matrix.memory
    case .rounded(let matrix):
      let floats = matrix.floats()
      return floats
    }
    guard type == OD_BF16 else {
      let result = Tensor([m, k])
      for i in 0..<m {
        for p in 0..<k { result[i * k + p] = isTransposed ? a[p * m + i] : a[i * k + p] }
      }
      return result
    }
    let result = RoundedMatrix(rows: m, columns: k)
    if isTransposed {
      Parallel.ranges(m, grain: max(32, (1 << 14) / k)) { columns in
        ck_bfloat16_transposed_f32(a, result.halves, k, m, columns.lowerBound, columns.upperBound)
      }
    } else {
      Parallel.ranges(m * k, grain: 1 << 14) { range in
        ck_bfloat16_from_f32(a + range.lowerBound, result.halves + range.lowerBound, range.count)
      }
    }
    return result.memory
  }

  private func emulate(
    _ m: Int, _ first: First, _ source: UnsafePointer<Float>, _ bias: UnsafePointer<Float>?,
    _ target: Target
  ) {
    let b = emulation.rounded(source, count: k * n)
    let (a, transposeA) =
      switch first {
      case .floats(let a, let isTransposed): (Self.rounded(a, count: m * k), isTransposed)
      case .rounded(let matrix): (matrix.floats(), false)
      }
    let product = Tensor([m, n])
    withExtendedLifetime((a, b)) {
      Gemm.run(
        transposeA: transposeA, transposeB: isTransposed, m: m, n: n, k: k, a: a.pointer,
        b: b.pointer, c: product.pointer)
    }
    Parallel.ranges(m, grain: max(1, (1 << 13) / n)) { rows in
      target.take(product.pointer + rows.lowerBound * n, bias, rows: rows, columns: 0..<n, of: n)
    }
  }

  fileprivate static func rounded(_ source: UnsafePointer<Float>, count: Int) -> Tensor {
    let result = Tensor([count])
    Parallel.ranges(count, grain: 1 << 14) { range in
      ck_bfloat16_round_f32(
        source + range.lowerBound, result.pointer + range.lowerBound, range.count)
    }
    return result
  }

  /// Products of several parts and blocks of rows in hardware against emulated ones.
  private static func passesTrial() -> Bool {
    let (m, n, k) = (rowBlock + 9, 200, 80)
    var random = RandomStream(seed: 1)
    let bias = random.normal([n])
    for isTransposed in [false, true] {
      let (a, b) = (random.normal([m, k]), random.normal([k, n]))
      let start = random.normal([m, n])
      let (found, wanted) = (start.copied(), start.copied())
      func factor(_ isNative: Bool) -> PackedFactor {
        PackedFactor(
          k: k, n: n, isTransposed: isTransposed, type: OD_BF16, isNative: isNative)
      }
      let outcome = factor(true).native(
        m, .floats(a.pointer, isTransposed: isTransposed), b.pointer, bias.pointer,
        .sums(found.pointer, adds: isTransposed))
      guard case .done = outcome else { return false }
      factor(false).multiply(
        m: m, a: a.pointer, transposeA: isTransposed, source: b.pointer, bias: bias.pointer,
        adds: isTransposed, into: wanted.pointer)
      guard zip(found.values, wanted.values).allSatisfy({ abs($0 - $1) < 1e-3 }) else {
        return false
      }
    }
    return true
  }
}

/// The columns that one thread multiplies with, in the layouts that products have asked for.
private final class Part: @unchecked Sendable {
  let columns: Range<Int>
  private let lock = NSLock()
  private var layouts: [(product: Product, memory: Tensor)] = []

  init(columns: Range<Int>) { self.columns = columns }

  /// The packed columns as a product wants them; nil if `pack`, which fills fresh memory, cannot.
  func layout(for product: Product, _ pack: (UnsafeMutableRawPointer) -> Bool) -> Tensor? {
    lock.lock()
    defer { lock.unlock() }
    if let known = layouts.first(where: { od_packs_alike($0.product.handle, product.handle) != 0 })
    {
      return known.memory
    }
    let memory = Tensor([max(16, (product.packedSize + 3) / 4)])
    guard pack(memory.pointer) else { return nil }
    layouts.append((product, memory))
    return memory
  }
}

/// The rounded float32 copy of a factor.
private final class Emulation: @unchecked Sendable {
  private let lock = NSLock()
  private var copy: Tensor?

  func rounded(_ source: UnsafePointer<Float>, count: Int) -> Tensor {
    lock.lock()
    defer { lock.unlock() }
    let result = copy ?? PackedFactor.rounded(source, count: count)
    copy = result
    return result
  }
}

/// A product that the library has prepared; it lives as long as the process.
private struct Product: @unchecked Sendable {
  let handle: OpaquePointer
  var packedSize: Int { od_packed_size(handle) }
  var scratchSize: Int { od_scratch_size(handle) }
}

/// The products of the shapes that were met so far.
private enum ProductCache {
  private static let lock = NSLock()
  nonisolated(unsafe) private static var products: [[Int]: Product?] = [:]

  static func product(_ shape: od_shape) -> Product? {
    lock.lock()
    defer { lock.unlock() }
    let key = [shape.m, shape.n, shape.k, Int(shape.type.rawValue)]
    if let known = products[key] { return known }
    let made = withUnsafePointer(to: shape) { od_product_make($0) }.map { Product(handle: $0) }
    products[key] = .some(made)
    return made
  }
}
