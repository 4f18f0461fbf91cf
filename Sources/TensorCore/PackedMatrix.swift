import CKernels
import COneDNN

/// The right operand (k, n) of matrix products in float32, bfloat16 or 8-bit integers, packed once for any number of
/// products.
///
/// OneDNN multiplies on our own threads, each with blocks of rows or columns: float32 on CPUs with AVX-512,
/// bfloat16 and 8-bit integers on those with their dot products. On other CPUs our kernels multiply values that are
/// kept as they are in float32, rounded otherwise: slower, with the same rounding, so that the effect on a model can be
/// seen on any machine.
package struct PackedMatrix {
  /// Whether the CPU has bfloat16 dot products, and oneDNN's products with them pass a trial.
  package static let hasBFloat16 = ck_has_bfloat16() != 0 && passesTrial(.bfloat16)
  /// Whether oneDNN has packed float32 products for this CPU, which are faster than ours, and they pass a trial.
  package static let hasFloat32 = passesTrial(.float32)
  /// Whether the CPU has dot products of 8-bit integers beside those of bfloat16, and products pass a trial.
  package static let hasInt8 = hasBFloat16 && passesTrial(.int8)

  /// Where a product goes, and its fused epilogue after the bias.
  package enum Target {
    /// (m, n), stored or accumulated.
    case float32(Tensor, accumulate: Bool = false)
    /// (m, n), rounded, after GELU in its tanh form if wanted.
    case bfloat16(BFloat16Tensor, gelu: Bool = false)
  }

  private enum Layout {
    /// In oneDNN's order: column blocks of `MatmulPrimitive.columnBlock`.
    case packed(Storage, columnBytes: Int)
    /// 8-bit integers in that order, with the scale and the sum of every column.
    case quantized(Storage, columnBytes: Int, scales: Tensor, sums: Tensor)
    /// The values in float32, rounded to the precision, as (k, n), or as (n, k) if transposed.
    case plain(Tensor, isTransposed: Bool)
  }

  private let k, n: Int
  private let precision: Precision
  private let layout: Layout

  /// Whether products of a precision are the library's on this CPU.
  package static func has(_ precision: Precision) -> Bool {
    switch precision {
    case .float32: hasFloat32
    case .bfloat16: hasBFloat16
    case .int8: hasInt8
    }
  }

  /// Scales of the rows of A and the columns of B, and sums of those columns, in 8-bit integers.
  struct Scales {
    let rows, columns, sums: Tensor
  }

  /// Packs a matrix.
  ///
  /// - Parameters:
  ///   - values: (k, n), or (n, k) if transposed; all axes but the last count as rows.
  ///   - isTransposed: Whether the rows are the columns of the right operand; they are in 8-bit integers.
  ///   - precision: The number format of both operands of the products.
  package init(_ values: MixedTensor, isTransposed: Bool, _ precision: Precision = .bfloat16) {
    self.init(
      values, isTransposed: isTransposed, precision, inHardware: Self.has(precision))
  }

  /// Packs a matrix for oneDNN or for our kernels; tests and the trial compare both.
  package init(
    _ values: MixedTensor, isTransposed: Bool, _ precision: Precision = .bfloat16, inHardware: Bool
  ) {
    let columns = values.shape.last ?? 1
    let rows = values.count / max(1, columns)
    (k, n) = isTransposed ? (columns, rows) : (rows, columns)
    self.precision = precision
    precondition(isTransposed || precision != .int8, "PackedMatrix: 8-bit integers as (k, n)")
    let packed =
      inHardware ? Self.packed(values, k: k, n: n, isTransposed: isTransposed, precision) : nil
    layout = packed ?? .plain(Self.operand(values, precision), isTransposed: isTransposed)
  }

  /// The matrix in the library's order; nil if the library does not support the product.
  private static func packed(
    _ values: MixedTensor, k: Int, n: Int, isTransposed: Bool, _ precision: Precision
  ) -> Layout? {
    guard precision == .int8 else {
      return MatmulPrimitive.pack(
        values.address(of: 0), values.isBFloat16 ? OD_BF16 : OD_F32, k: k, n: n,
        isTransposed: isTransposed, as: precision == .bfloat16 ? OD_BF16 : OD_F32
      ).map { .packed($0.storage, columnBytes: $0.columnBytes) }
    }
    let (rounded, scales, sums) = quantized(values, rows: n, shift: 0)
    return withExtendedLifetime(rounded) {
      MatmulPrimitive.pack(rounded.pointer, OD_INT8, k: k, n: n, isTransposed: true, as: OD_INT8)
    }.map { .quantized($0.storage, columnBytes: $0.columnBytes, scales: scales, sums: sums) }
  }

  /// C (m, n) = A B + bias.
  ///
  /// - Parameters:
  ///   - left: A as (m, k), or as (k, m) if transposed; all axes but the last count as rows.
  ///   - isTransposed: Whether A is stored as (k, m), in float32; only in bfloat16.
  ///   - bias: (n), or nil for none.
  ///   - target: C and the epilogue.
  package func multiply(
    _ left: MixedTensor, isTransposed: Bool = false, bias: Tensor? = nil, into target: Target
  ) {
    let m = left.count / max(1, k)
    precondition(
      left.count == m * k && target.count == m * n && (bias?.count ?? n) == n,
      "PackedMatrix: \(left.shape) by (\(k), \(n)) into \(target.count) elements")
    if target.count == 0 { return }
    switch layout {
    case .packed(let storage, let columnBytes):
      let isRounded = precision == .bfloat16
      precondition(
        isRounded || !isTransposed, "PackedMatrix: a transposed left operand in float32")
      let operand =
        isRounded
        ? .bfloat16(Self.dense(left, m: m, isTransposed: isTransposed))
        : MixedTensor.float32(left.float32)
      let done = withExtendedLifetime(operand) {
        MatmulPrimitive.multiply(
          m: m, n: n, k: k, operand.address(of: 0), isRounded ? OD_BF16 : OD_F32,
          by: storage.pointer, columnBytes: columnBytes, bias: bias, into: target)
      }
      precondition(done, "oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    case .quantized(let storage, let columnBytes, let scales, let sums):
      precondition(!isTransposed, "PackedMatrix: a transposed left operand in 8-bit integers")
      let (operand, rowScales, _) = Self.quantized(left, rows: m, shift: 128)
      let done = withExtendedLifetime(operand) {
        MatmulPrimitive.multiply(
          m: m, n: n, k: k, operand.pointer, OD_INT8,
          Scales(rows: rowScales, columns: scales, sums: sums),
          by: storage.pointer, columnBytes: columnBytes, bias: bias, into: target)
      }
      precondition(done, "oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    case .plain(let values, let isRightTransposed):
      precondition(!isTransposed || precision != .int8, "PackedMatrix: a transposed left operand")
      let (left, product) = (Self.operand(left, precision), Tensor([m, n]))
      Gemm.run(
        transposeA: isTransposed, transposeB: isRightTransposed, m: m, n: n, k: k,
        a: left.pointer, b: values.pointer, c: product.pointer)
      target.store(product, bias: bias, rows: m, columns: n)
    }
  }

  /// A left operand as rows (m, k) of bfloat16.
  private static func dense(_ left: MixedTensor, m: Int, isTransposed: Bool) -> BFloat16Tensor {
    switch left {
    case .bfloat16(let tensor):
      precondition(!isTransposed, "PackedMatrix: a transposed left operand in bfloat16")
      return tensor
    case .float32(let tensor) where isTransposed:
      let k = tensor.count / m
      let result = BFloat16Tensor([m, k])
      Parallel.ranges(m, grain: max(32, (1 << 14) / k)) { columns in
        ck_bfloat16_transposed_f32(
          tensor.pointer, result.pointer, k, m, columns.lowerBound, columns.upperBound)
      }
      return result
    case .float32(let tensor): return BFloat16Tensor(rounding: tensor)
    }
  }

  /// Rows as 8-bit integers plus a shift, with their scales and sums.
  private static func quantized(
    _ values: MixedTensor, rows: Int, shift: Int32
  ) -> (Storage, scales: Tensor, sums: Tensor) {
    let k = values.count / max(1, rows)
    let (result, scales, sums) = (Storage(bytes: values.count), Tensor([rows]), Tensor([rows]))
    Parallel.ranges(rows, grain: max(1, (1 << 14) / k)) { range in
      let first = range.lowerBound
      ck_int8_quantize(
        values.address(of: first * k), values.isBFloat16 ? 1 : 0, result.elements() + first * k,
        shift, scales.pointer + first, sums.pointer + first, range.count, k)
    }
    return (result, scales, sums)
  }

  /// The values that a precision holds, in float32; rows share a scale in 8-bit integers.
  private static func operand(_ values: MixedTensor, _ precision: Precision) -> Tensor {
    switch (values, precision) {
    case (.float32(let tensor), .float32): return tensor
    case (_, .int8):
      let (x, k) = (values.float32, values.shape.last ?? 1)
      let result = Tensor(x.shape)
      Parallel.ranges(x.count / max(1, k), grain: max(1, (1 << 14) / k)) { range in
        let start = range.lowerBound * k
        ck_int8_round_f32(x.pointer + start, result.pointer + start, range.count, k)
      }
      return result
    case (.bfloat16(let tensor), _): return tensor.float32
    case (.float32(let tensor), .bfloat16):
      let result = Tensor(tensor.shape)
      Parallel.ranges(tensor.count, grain: 1 << 14) { range in
        ck_bfloat16_round_f32(
          tensor.pointer + range.lowerBound, result.pointer + range.lowerBound, range.count)
      }
      return result
    }
  }

  /// Compares products of several blocks of rows and columns in hardware with emulated ones.
  private static func passesTrial(_ precision: Precision) -> Bool {
    func normal(_ name: String, _ shape: [Int]) -> Tensor {
      RandomStream(seed: 1, "trial/\(name)").normal(shape)
    }
    for (m, n, k) in [(3, 328, 80), (521, 200, 80), (64, 328, 33), (70, 64, 9999)] {
      let (bias, start) = (normal("bias", [n]), normal("start", [m, n]))
      for isTransposed in precision == .int8 ? [true] : [false, true] {
        let transposeA = isTransposed && precision == .bfloat16
        let a = normal("left", transposeA ? [k, m] : [m, k])
        let b = MixedTensor.float32(normal("right", isTransposed ? [n, k] : [k, n]))
        let rows = a.reshaped([m, k])
        let left =
          precision.isRounded
          ? .bfloat16(BFloat16Tensor(rounding: rows)) : MixedTensor.float32(rows)
        let results = [true, false].map { inHardware -> [Float] in
          let matrix = PackedMatrix(
            b, isTransposed: isTransposed, precision, inHardware: inHardware)
          if inHardware, case .plain = matrix.layout { return [] }
          let (sums, other) = (start.copied(), MixedTensor([m, n], like: left))
          let target: Target =
            switch other {
            case .float32(let tensor): .float32(tensor)
            case .bfloat16(let tensor): .bfloat16(tensor, gelu: isTransposed)
            }
          matrix.multiply(
            .float32(a), isTransposed: transposeA, bias: bias,
            into: .float32(sums, accumulate: isTransposed))
          matrix.multiply(left, bias: bias, into: target)
          return sums.values + other.float32.values
        }
        let isNear = zip(results[0], results[1]).allSatisfy {
          abs($0 - $1) < 1e-4 * Float(k).squareRoot() + 0.01 * abs($1)
        }
        guard isNear, results[0].count == results[1].count else { return false }
      }
    }
    return true
  }
}

extension PackedMatrix.Target {
  var count: Int {
    switch self {
    case .float32(let tensor, _): tensor.count
    case .bfloat16(let tensor, _): tensor.count
    }
  }

  /// Applies bias and epilogue to a float32 product (rows, columns) and stores it.
  fileprivate func store(_ product: Tensor, bias: Tensor?, rows: Int, columns: Int) {
    Parallel.ranges(rows, grain: max(1, (1 << 13) / columns)) { range in
      let start = range.lowerBound * columns
      switch self {
      case .float32(let c, let accumulate):
        ck_store_rows_f32(
          product.pointer + start, bias?.pointer, c.pointer + start, columns, range.count, columns,
          accumulate ? 1 : 0)
      case .bfloat16(let c, let gelu):
        ck_bfloat16_rows_f32(
          product.pointer + start, bias?.pointer, c.pointer + start, range.count, columns)
        if gelu {
          ck_gelu_forward_bf16(c.pointer + start, c.pointer + start, range.count * columns)
        }
      }
    }
  }
}
