import CKernels

/// The right operand (k, n) of matrix products in float32 or bfloat16 with float32 sums, packed once for any number
/// of products.
///
/// OneDNN multiplies on our own threads, each with blocks of rows or columns: float32 on CPUs with AVX-512,
/// bfloat16 on those with its dot products. On other CPUs our kernels multiply values that are kept as they are in
/// float32, or rounded in bfloat16: slower, with the same rounding, so that the effect of bfloat16 on a model can be
/// seen on any machine.
package struct PackedMatrix {
  /// Whether the CPU has bfloat16 dot products, and oneDNN's products with them pass a trial.
  package static let hasBFloat16 = ck_has_bfloat16() != 0 && passesTrial(.bfloat16)
  /// Whether oneDNN has packed float32 products for this CPU, which are faster than ours, and they pass a trial.
  package static let hasFloat32 = passesTrial(.float32)

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
    /// The values in float32, rounded for bfloat16, as (k, n), or as (n, k) if transposed.
    case plain(Tensor, isTransposed: Bool)
  }

  private let k, n: Int
  private let precision: Precision
  private let layout: Layout

  /// Whether products of a precision are the library's on this CPU.
  package static func has(_ precision: Precision) -> Bool {
    precision == .bfloat16 ? hasBFloat16 : hasFloat32
  }

  /// Packs a matrix.
  ///
  /// - Parameters:
  ///   - values: (k, n), or (n, k) if transposed; all axes but the last count as rows.
  ///   - isTransposed: Whether the rows are the columns of the right operand.
  ///   - precision: The number format of both operands of the products.
  package init(_ values: MixedTensor, isTransposed: Bool, _ precision: Precision = .bfloat16) {
    self.init(
      values, isTransposed: isTransposed, precision, inHardware: Self.has(precision))
  }

  /// Packs a matrix for oneDNN or for our kernels; tests and the trial compare both.
  init(
    _ values: MixedTensor, isTransposed: Bool, _ precision: Precision = .bfloat16, inHardware: Bool
  ) {
    let columns = values.shape.last ?? 1
    let rows = values.count / max(1, columns)
    (k, n) = isTransposed ? (columns, rows) : (rows, columns)
    self.precision = precision
    let packed =
      inHardware
      ? MatmulPrimitive.pack(
        values, k: k, n: n, isTransposed: isTransposed, as: precision)
      : nil
    layout =
      packed.map { .packed($0.storage, columnBytes: $0.columnBytes) }
      ?? .plain(Self.operand(values, precision), isTransposed: isTransposed)
  }

  /// C (m, n) = A B + bias.
  ///
  /// - Parameters:
  ///   - left: A as (m, k), or as (k, m) if transposed; all axes but the last count as rows.
  ///   - isTransposed: Whether A is stored as (k, m); only for float32.
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
      let done = MatmulPrimitive.multiply(
        m: m, n: n, k: k,
        isRounded
          ? .bfloat16(Self.dense(left, m: m, isTransposed: isTransposed)) : .float32(left.float32),
        isTransposed: isTransposed && !isRounded, by: storage.pointer, columnBytes: columnBytes,
        bias: bias, into: target)
      precondition(done, "oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    case .plain(let values, let isRightTransposed):
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

  /// The values that a precision holds, in float32.
  private static func operand(_ values: MixedTensor, _ precision: Precision) -> Tensor {
    switch (values, precision) {
    case (.float32(let tensor), .float32): return tensor
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
      for isTransposed in [false, true] {
        let a = normal("left", isTransposed ? [k, m] : [m, k])
        let b = MixedTensor.float32(normal("right", isTransposed ? [n, k] : [k, n]))
        let rows = a.reshaped([m, k])
        let left =
          precision == .bfloat16
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
            .float32(a), isTransposed: isTransposed, bias: bias,
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
