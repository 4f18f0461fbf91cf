import CKernels

/// The right operand (k, n) of matrix products in bfloat16 with float32 sums, packed once for any number of
/// products.
///
/// On CPUs with bfloat16 dot products oneDNN multiplies, on our own threads, each with blocks of rows or
/// columns. On other CPUs the operand is rounded but kept in float32, and products are float32: slower, with
/// the same rounding, so that the effect of bfloat16 on a model can be seen on any machine.
package struct BFloat16Matrix {
  /// Whether the CPU has bfloat16 dot products, and oneDNN's products with them pass a trial.
  package static let hasHardware = ck_has_bfloat16() != 0 && passesTrial()

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
    /// The rounded values in float32, as (k, n), or as (n, k) if transposed.
    case emulated(Tensor, isTransposed: Bool)
  }

  private let k, n: Int
  private let layout: Layout

  /// Packs a matrix.
  ///
  /// - Parameters:
  ///   - values: (k, n), or (n, k) if transposed; all axes but the last count as rows.
  ///   - isTransposed: Whether the rows are the columns of the right operand.
  package init(_ values: MixedTensor, isTransposed: Bool) {
    self.init(values, isTransposed: isTransposed, inHardware: Self.hasHardware)
  }

  /// Packs a matrix for oneDNN or for emulation; tests and the trial compare both.
  init(_ values: MixedTensor, isTransposed: Bool, inHardware: Bool) {
    let columns = values.shape.last ?? 1
    let rows = values.count / max(1, columns)
    (k, n) = isTransposed ? (columns, rows) : (rows, columns)
    let packed =
      inHardware
      ? MatmulPrimitive.pack(values, k: k, n: n, isTransposed: isTransposed) : nil
    layout =
      packed.map { .packed($0.storage, columnBytes: $0.columnBytes) }
      ?? .emulated(Self.rounded(values), isTransposed: isTransposed)
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
      "BFloat16Matrix: \(left.shape) by (\(k), \(n)) into \(target.count) elements")
    if target.count == 0 { return }
    switch layout {
    case .packed(let storage, let columnBytes):
      let done = MatmulPrimitive.multiply(
        m: m, n: n, k: k, Self.dense(left, m: m, isTransposed: isTransposed), by: storage.pointer,
        columnBytes: columnBytes, bias: bias, into: target)
      precondition(done, "oneDNN cannot multiply (\(m), \(k)) by (\(k), \(n))")
    case .emulated(let values, let isRightTransposed):
      let (left, product) = (Self.rounded(left), Tensor([m, n]))
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
      precondition(!isTransposed, "BFloat16Matrix: a transposed left operand in bfloat16")
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

  /// The values that bfloat16 holds, in float32.
  private static func rounded(_ values: MixedTensor) -> Tensor {
    switch values {
    case .bfloat16(let tensor): return tensor.float32
    case .float32(let tensor):
      let result = Tensor(tensor.shape)
      Parallel.ranges(tensor.count, grain: 1 << 14) { range in
        ck_bfloat16_round_f32(
          tensor.pointer + range.lowerBound, result.pointer + range.lowerBound, range.count)
      }
      return result
    }
  }

  /// Compares products of several blocks of rows and columns in hardware with emulated ones.
  private static func passesTrial() -> Bool {
    func normal(_ name: String, _ shape: [Int]) -> Tensor {
      RandomStream(seed: 1, "trial/\(name)").normal(shape)
    }
    for (m, n, k) in [(3, 328, 80), (521, 200, 80), (64, 328, 33), (70, 64, 9999)] {
      let (bias, start) = (normal("bias", [n]), normal("start", [m, n]))
      for isTransposed in [false, true] {
        let a = normal("left", isTransposed ? [k, m] : [m, k])
        let b = MixedTensor.float32(normal("right", isTransposed ? [n, k] : [k, n]))
        let rounded = BFloat16Tensor(rounding: a.reshaped([m, k]))
        let results = [true, false].map { inHardware -> [Float] in
          let matrix = BFloat16Matrix(b, isTransposed: isTransposed, inHardware: inHardware)
          if inHardware, case .emulated = matrix.layout { return [] }
          let (sums, activated) = (start.copied(), BFloat16Tensor([m, n]))
          matrix.multiply(
            .float32(a), isTransposed: isTransposed, bias: bias,
            into: .float32(sums, accumulate: isTransposed))
          matrix.multiply(
            .bfloat16(rounded), bias: bias, into: .bfloat16(activated, gelu: isTransposed))
          return sums.values + activated.float32.values
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

extension BFloat16Matrix.Target {
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
          product.pointer + start, bias?.pointer, c.pointer + start, range.count, columns,
          gelu ? 1 : 0)
      }
    }
  }
}
