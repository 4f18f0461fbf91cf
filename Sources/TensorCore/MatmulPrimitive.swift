import CKernels
import COneDNN

/// A matmul primitive of oneDNN: products of one shape with a packed right operand, in float32 or bfloat16.
///
/// It is kept until the process ends, and several threads may run it at the same time.
struct MatmulPrimitive: @unchecked Sendable {
  /// Columns of the right operand that are packed together; ranges that begin at a multiple of them follow
  /// each other in memory.
  private static let columnBlock = 64
  /// Rows of a block: at most, and at least where there are so many.
  private static let rowBlock = 64...512
  /// Columns of a block, about: of 1152 inputs in bfloat16 they fill less than half of a second-level cache.
  private static let blockColumns = 192
  /// Multiply-adds of a block that are worth a task of their own.
  private static let taskWork = 1 << 23

  private let handle: OpaquePointer
  /// Bytes of the packed right operand, of a column of it, and of the scratch memory of a run.
  private let packedBytes, columnBytes, scratchBytes: Int

  /// The primitives of the shapes met so far; nil for a shape that the library does not support.
  private static let known = Guarded([[Int]: MatmulPrimitive?]())

  private static func primitive(_ shape: od_shape) -> MatmulPrimitive? {
    let key = [
      shape.m, shape.n, shape.k, Int(shape.operand.rawValue),
      Int(shape.result.rawValue), Int(shape.has_bias), Int(shape.accumulate),
    ]
    return known.withLock { known in
      if let primitive = known[key] { return primitive }
      let made = withUnsafePointer(to: shape) { od_product_make($0) }.map { handle in
        let columns = (shape.n + columnBlock - 1) / columnBlock * columnBlock
        let packedBytes = od_packed_size(handle)
        return MatmulPrimitive(
          handle: handle, packedBytes: packedBytes, columnBytes: packedBytes / columns,
          scratchBytes: od_scratch_size(handle))
      }
      known[key] = .some(made)
      return made
    }
  }

  /// The library with its version, "oneDNN 2.6.3".
  static var libraryName: String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 64) { text in
      od_version(text.baseAddress, text.count)
      return text.baseAddress.map { String(cString: $0) } ?? ""
    }
  }

  /// About equal ranges of whole column blocks.
  private static func columns(_ n: Int, parts: Int) -> [Range<Int>] {
    let edges = (0...parts).map { $0 == parts ? n : n * $0 / parts / columnBlock * columnBlock }
    return zip(edges, edges.dropFirst()).map { $0..<$1 }
  }

  /// The blocks (rows, columns) of a product, one for each task, several for each thread: one that is
  /// interrupted leaves the rest to the others.
  ///
  /// A block is high, so that its part of the packed operand is read once, by one thread. The order of the sums
  /// depends on the columns of a block, which therefore depend on `n` alone: neither on the rows, so that images do
  /// not depend on the others of a batch, nor on the number of threads.
  private static func blocks(
    m: Int, n: Int, k: Int
  ) -> (rows: [Range<Int>], columns: [Range<Int>]) {
    let columns = columns(n, parts: max(1, n / blockColumns))
    let tasks = min(2 * Parallel.threads, max(Parallel.threads, m * n * k / taskWork))
    let wanted = max(
      (m + rowBlock.upperBound - 1) / rowBlock.upperBound,
      min(m / rowBlock.lowerBound, (tasks + columns.count - 1) / columns.count), 1)
    let height = (m + wanted - 1) / wanted
    return (stride(from: 0, to: m, by: height).map { $0..<min(m, $0 + height) }, columns)
  }

  /// Packs a right operand for products of any number of rows, every thread packing some of its columns.
  ///
  /// - Parameters:
  ///   - values: (k, n), or (n, k) if transposed.
  ///   - stored: Their number format.
  ///   - k: Inner dimension of the product.
  ///   - n: Columns of the product.
  ///   - isTransposed: Whether the matrix is stored as (n, k).
  ///   - type: The number format of both operands.
  /// - Returns: The memory and the bytes of a column; nil if the library does not support the product.
  static func pack(
    _ values: UnsafeRawPointer, _ stored: od_type, k: Int, n: Int, isTransposed: Bool,
    as type: od_type
  ) -> (storage: Storage, columnBytes: Int)? {
    let parts = columns(n, parts: min(max(1, n / columnBlock), Parallel.threads))
    let primitives = parts.compactMap { columns in
      var shape = od_shape()
      (shape.m, shape.n, shape.k) = (rowBlock.lowerBound, columns.count, k)
      shape.operand = type
      return primitive(shape)
    }
    guard primitives.count == parts.count, let columnBytes = primitives.first?.columnBytes,
      primitives.allSatisfy({ $0.columnBytes == columnBytes })
    else { return nil }
    let bytes = stored == OD_F32 ? 4 : stored == OD_BF16 ? 2 : 1
    let storage = Storage(bytes: primitives.reduce(0) { $0 + $1.packedBytes })
    let failures = Tensor.zeros([parts.count])
    Parallel.tasks(parts.count) { index in
      let first = parts[index].lowerBound
      let done = od_pack(
        primitives[index].handle, values + (isTransposed ? first * k : first) * bytes, stored,
        isTransposed ? k : n, isTransposed ? 1 : 0, storage.pointer + first * columnBytes)
      if done == 0 { failures[index] = 1 }
    }
    return failures.values.contains(1) ? nil : (storage, columnBytes)
  }

  /// C (m, n) = A B + bias with the epilogue of the target.
  ///
  /// - Parameters:
  ///   - m: Rows of the product.
  ///   - n: Columns of the product.
  ///   - k: Inner dimension of the product.
  ///   - left: A (m, k) in the number format of B.
  ///   - type: That format.
  ///   - scales: Of products of 8-bit integers.
  ///   - packed: B as `pack` left it.
  ///   - columnBytes: Bytes of a column of packed B.
  ///   - bias: (n), or nil for none.
  ///   - target: C and the epilogue.
  /// - Returns: Whether the library supports the product and reported no error.
  static func multiply(
    m: Int, n: Int, k: Int, _ left: UnsafeRawPointer, _ type: od_type,
    _ scales: PackedMatrix.Scales? = nil, by packed: UnsafeMutableRawPointer,
    columnBytes: Int, bias: Tensor?, into target: PackedMatrix.Target
  ) -> Bool {
    let (rows, columns) = blocks(m: m, n: n, k: k)
    let isWhole = columns.count == 1 && scales == nil
    let elementBytes = type == OD_F32 ? 4 : type == OD_BF16 ? 2 : 1
    func primitive(_ rows: Range<Int>, _ columns: Range<Int>) -> MatmulPrimitive? {
      var shape = od_shape()
      (shape.m, shape.n, shape.k) = (rows.count, columns.count, k)
      shape.operand = type
      if scales != nil { return Self.primitive(shape) }
      shape.has_bias = bias == nil ? 0 : 1
      switch target {
      case .float32(_, let accumulate): shape.accumulate = accumulate && isWhole ? 1 : 0
      case .bfloat16: shape.result = OD_BF16
      }
      let found = Self.primitive(shape)
      // The packed layout must not depend on the rows of the product.
      return found?.columnBytes == columnBytes ? found : nil
    }
    let failures = Tensor.zeros([rows.count * columns.count])
    Parallel.tasks(failures.count) { task in
      let (rows, columns) = (rows[task / columns.count], columns[task % columns.count])
      guard let primitive = primitive(rows, columns) else { return failures[task] = 1 }
      let scratch = Storage(bytes: primitive.scratchBytes)
      let block = isWhole ? nil : Tensor([rows.count, columns.count])
      let place =
        block.map { UnsafeMutableRawPointer($0.pointer) }
        ?? target.address(of: rows.lowerBound * n)
      let done = od_run(
        primitive.handle, left + rows.lowerBound * k * elementBytes,
        packed + columns.lowerBound * columnBytes,
        scales == nil ? bias.map { UnsafePointer($0.pointer + columns.lowerBound) } : nil, place,
        scratch.pointer)
      if done == 0 { failures[task] = 1 }
      if let block, let scales {
        return target.store(block, scales, bias, rows: rows, columns: columns, of: n)
      }
      target.store(block, at: place, rows: rows, columns: columns, of: n)
    }
    return !failures.values.contains(1)
  }
}

extension PackedMatrix {
  /// The library that multiplies in hardware, with its version.
  package static var libraryName: String { MatmulPrimitive.libraryName }
}

extension PackedMatrix.Target {
  fileprivate func address(of element: Int) -> UnsafeMutableRawPointer {
    switch self {
    case .float32(let c, _): UnsafeMutableRawPointer(c.pointer + element)
    case .bfloat16(let c, _): UnsafeMutableRawPointer(c.pointer + element)
    }
  }

  /// Scales a product of 8-bit integers, a block (rows, columns) of C, which has `n` columns, and stores it.
  fileprivate func store(
    _ block: Tensor, _ scales: PackedMatrix.Scales, _ bias: Tensor?, rows: Range<Int>,
    columns: Range<Int>, of n: Int
  ) {
    let (isRounded, gelu, add) =
      switch self {
      case .float32(_, let accumulate): (false, false, accumulate)
      case .bfloat16(_, let gelu): (true, gelu, false)
      }
    let first = columns.lowerBound
    ck_int8_store(
      block.pointer, scales.rows.pointer + rows.lowerBound, scales.columns.pointer + first,
      scales.sums.pointer + first, bias.map { $0.pointer + first },
      address(of: rows.lowerBound * n + first), n, isRounded ? 1 : 0, gelu ? 1 : 0, add ? 1 : 0,
      rows.count, columns.count)
  }

  /// Stores a finished block (rows, columns) of C, which has `n` columns, with GELU if wanted: ours is faster than the
  /// library's, and the block is still in the second-level cache.
  fileprivate func store(
    _ block: Tensor?, at place: UnsafeMutableRawPointer, rows: Range<Int>, columns: Range<Int>,
    of n: Int
  ) {
    let start = rows.lowerBound * n + columns.lowerBound
    switch self {
    case .float32(let c, let accumulate):
      guard let block else { return }
      ck_store_rows_f32(
        block.pointer, nil, c.pointer + start, n, rows.count, columns.count, accumulate ? 1 : 0)
    case .bfloat16(let c, let gelu):
      let elements = place.assumingMemoryBound(to: UInt16.self)
      if block == nil {
        if gelu { ck_gelu_forward_bf16(elements, elements, rows.count * n) }
        return
      }
      for row in 0..<rows.count {
        let (from, to) = (elements + row * columns.count, c.pointer + start + row * n)
        if gelu {
          ck_gelu_forward_bf16(from, to, columns.count)
        } else {
          to.update(from: from, count: columns.count)
        }
      }
    }
  }
}
