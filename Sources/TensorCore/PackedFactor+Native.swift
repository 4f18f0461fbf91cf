import CKernels
import COneDNN
import Foundation

/// Products by oneDNN, divided into blocks that our own threads take.
extension PackedFactor {
  enum Outcome {
    case done
    /// The library has no such product; nothing was written.
    case unsupported
    case failed
  }

  /// Columns that lie together in packed bfloat16; ranges that begin at a multiple of them follow each
  /// other.
  fileprivate static let columnBlock = 64
  /// Rows that are multiplied at once at most, and at least where there are so many.
  private static let rowBlock = 64...256

  /// The ranges of columns and of rows whose products are made at once.
  ///
  /// Whole rows are best: they are written where they belong. Few rows leave columns to divide.
  private func division(_ m: Int) -> (rows: [Range<Int>], columns: [Range<Int>]) {
    let threads = Parallel.threads
    let blocks = type == OD_BF16 ? columnBlocks : 1
    let across = min(blocks, threads, (threads * Self.rowBlock.lowerBound + m - 1) / m)
    let most = Self.rowBlock.upperBound
    let wanted = max((threads + across - 1) / across, (m + most - 1) / most)
    let height = (m + wanted - 1) / wanted
    let rows = stride(from: 0, to: m, by: height).map { $0..<min(m, $0 + height) }
    return (rows, self.columns(across))
  }

  private var columnBlocks: Int { max(1, n / Self.columnBlock) }

  /// About equal ranges of whole column blocks.
  private func columns(_ count: Int) -> [Range<Int>] {
    let edges = (0...count).map {
      $0 == count ? n : n * $0 / count / Self.columnBlock * Self.columnBlock
    }
    return zip(edges, edges.dropFirst()).map { $0..<$1 }
  }

  func native(
    _ m: Int, _ first: First, _ source: Source, _ bias: UnsafePointer<Float>?, _ result: Result
  ) -> Outcome {
    let (rows, columns) = division(m)
    let isWhole = columns.count == 1
    func product(_ rows: Range<Int>, _ columns: Range<Int>) -> Product? {
      var shape = od_shape()
      (shape.m, shape.n, shape.k) = (rows.count, columns.count, k)
      (shape.type, shape.has_bias) = (type, bias == nil ? 0 : 1)
      switch result {
      case .floats(_, let adds): (shape.result, shape.adds) = (OD_F32, adds && isWhole ? 1 : 0)
      case .rounded(_, let gelu): (shape.result, shape.gelu) = (OD_BF16, gelu ? 1 : 0)
      }
      return ProductCache.product(shape)
    }
    // All rows but the last are of one height; what a column takes in memory must not depend on the product.
    let products = Set([rows[0], rows[rows.count - 1]]).flatMap { rows in
      columns.map { product(rows, $0) }
    }
    guard let columnSize = products[0]?.columnSize,
      products.allSatisfy({ $0?.columnSize == columnSize }),
      let packed = packed({ pack(source) }), packed.columnSize == columnSize
    else { return .unsupported }
    let (a, owner) = dense(first, m: m)
    let failures = Tensor.zeros([rows.count * columns.count])
    Parallel.tasks(failures.count) { task in
      let (rows, columns) = (rows[task / columns.count], columns[task % columns.count])
      guard let product = product(rows, columns) else { return failures[task] = 1 }
      let scratch = Tensor([max(16, (product.scratchSize + 3) / 4)])
      let tile = isWhole ? nil : Tensor([rows.count, columns.count])
      let target =
        tile.map { UnsafeMutableRawPointer($0.pointer) } ?? result.row(rows.lowerBound, of: n)
      let done = od_run(
        product.handle, a + rows.lowerBound * k * elementSize,
        UnsafeRawPointer(packed.memory.pointer) + columns.lowerBound * columnSize,
        bias.map { $0 + columns.lowerBound }, target, scratch.pointer)
      if done == 0 { failures[task] = 1 }
      if let tile { result.take(tile, rows: rows, columns: columns, of: n) }
    }
    return withExtendedLifetime(owner) { failures.values.contains(1) ? .failed : .done }
  }

  /// Bytes of an element of the first factor.
  private var elementSize: Int { type == OD_BF16 ? 2 : 4 }

  /// The factor packed for products of any number of rows, every thread packing some of its columns; nil
  /// if the library cannot.
  func pack(_ source: Source) -> Packed? {
    let parts = type == OD_BF16 ? columns(min(columnBlocks, Parallel.threads)) : [0..<n]
    let products = parts.map { columns in
      var shape = od_shape()
      (shape.m, shape.n, shape.k) = (Self.rowBlock.lowerBound, columns.count, k)
      (shape.type, shape.result) = (type, OD_F32)
      return ProductCache.product(shape)
    }
    guard let columnSize = products[0]?.columnSize,
      products.allSatisfy({ $0?.columnSize == columnSize })
    else { return nil }
    let (start, sourceType): (UnsafeRawPointer, od_type) =
      switch source {
      case .floats(let floats): (UnsafeRawPointer(floats), OD_F32)
      case .rounded(let matrix): (UnsafeRawPointer(matrix.halves), OD_BF16)
      }
    let size = products.reduce(0) { $0 + ($1?.packedSize ?? 0) }
    let result = Tensor([max(16, (size + 3) / 4)])
    let failures = Tensor.zeros([parts.count])
    Parallel.tasks(parts.count) { index in
      let first = parts[index].lowerBound
      let place = start + (isTransposed ? first * k : first) * (sourceType == OD_BF16 ? 2 : 4)
      guard let product = products[index],
        od_pack(
          product.handle, place, sourceType, isTransposed ? k : n, isTransposed ? 1 : 0,
          UnsafeMutableRawPointer(result.pointer) + first * columnSize) != 0
      else { return failures[index] = 1 }
    }
    return failures.values.contains(1) ? nil : Packed(memory: result, columnSize: columnSize)
  }

  /// A first factor as dense rows, and what keeps their memory.
  private func dense(_ first: First, m: Int) -> (UnsafeRawPointer, owner: Any) {
    let (a, isTransposed): (UnsafePointer<Float>, Bool)
    switch first {
    case .rounded(let matrix): return (UnsafeRawPointer(matrix.halves), matrix)
    case .floats(let floats, let transposed): (a, isTransposed) = (floats, transposed)
    }
    guard type == OD_BF16 else {
      let result = Tensor([m, k])
      for i in 0..<m {
        for p in 0..<k { result[i * k + p] = isTransposed ? a[p * m + i] : a[i * k + p] }
      }
      return (UnsafeRawPointer(result.pointer), result)
    }
    let result = RoundedTensor([m, k])
    if isTransposed {
      Parallel.ranges(m, grain: max(32, (1 << 14) / k)) { columns in
        ck_bfloat16_transposed_f32(a, result.halves, k, m, columns.lowerBound, columns.upperBound)
      }
    } else {
      Parallel.ranges(m * k, grain: 1 << 14) { range in
        ck_bfloat16_from_f32(a + range.lowerBound, result.halves + range.lowerBound, range.count)
      }
    }
    return (UnsafeRawPointer(result.halves), result)
  }
}

extension PackedFactor.Result {
  /// Where a row of `n` columns begins.
  fileprivate func row(_ row: Int, of n: Int) -> UnsafeMutableRawPointer {
    switch self {
    case .floats(let c, _): UnsafeMutableRawPointer(c + row * n)
    case .rounded(let c, _): UnsafeMutableRawPointer(c.halves + row * n)
    }
  }

  /// Takes over a tile (rows, columns) of C, which has `n` columns.
  fileprivate func take(_ tile: Tensor, rows: Range<Int>, columns: Range<Int>, of n: Int) {
    let start = rows.lowerBound * n + columns.lowerBound
    switch self {
    case .floats(let c, let adds):
      ck_store_rows_f32(tile.pointer, nil, c + start, n, rows.count, columns.count, adds ? 1 : 0)
    case .rounded(let c, _):
      let halves = UnsafeMutableRawPointer(tile.pointer).assumingMemoryBound(to: UInt16.self)
      for row in 0..<rows.count {
        (c.halves + start + row * n).update(
          from: halves + row * columns.count, count: columns.count)
      }
    }
  }
}

/// A factor as the library's products read it.
struct Packed {
  let memory: Tensor
  /// Bytes of a column.
  let columnSize: Int
}

/// A product that the library has prepared; it lives as long as the process.
private struct Product: @unchecked Sendable {
  let handle: OpaquePointer
  /// Bytes of a column of the packed factor.
  let columnSize: Int
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
    let key = [
      shape.m, shape.n, shape.k, Int(shape.type.rawValue), Int(shape.result.rawValue),
      Int(shape.has_bias), Int(shape.gelu), Int(shape.adds),
    ]
    if let known = products[key] { return known }
    let made = withUnsafePointer(to: shape) { od_product_make($0) }.map { handle in
      let columns = (shape.n + PackedFactor.columnBlock - 1) / PackedFactor.columnBlock
      return Product(
        handle: handle, columnSize: od_packed_size(handle) / (columns * PackedFactor.columnBlock))
    }
    products[key] = .some(made)
    return made
  }
}
