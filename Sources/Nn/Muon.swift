import Autograd
import CKernels
import TensorCore

/// Muon: momentum with matrix updates orthogonalised by a Newton-Schulz iteration.
///
/// Other parameters use AdamW with the same rate. The update is scaled by 0.2 sqrt(max(rows,
/// columns)), so that its root mean square equals that of a typical AdamW step (Jordan 2024,
/// "Muon"; Liu et al. 2025, arXiv 2502.16982).
package final class Muon: Optimizer {
  package let parameters: [Parameter]
  package var steps: Int {
    get { rest.steps }
    set { rest.steps = newValue }
  }
  package var first: [Tensor] { rest.first }
  package var second: [Tensor] { rest.second }

  private let rest: AdamW
  /// Index of a parameter and the number of matrices stacked in it.
  private let matrices: [(index: Int, stacked: Int)]
  private let momentum, weightDecay: Float
  private let rateFactors: [Float]?

  /// Makes an optimizer with zero moments.
  ///
  /// - Parameters:
  ///   - parameters: All optimised parameters.
  ///   - momentum: Nesterov momentum of the matrices.
  ///   - weightDecay: Decoupled weight decay of all parameters.
  ///   - rateFactors: Factor of the rate of each parameter; nil for 1.
  ///   - stacked: Number of matrices stacked in a parameter along its rows (3 for a fused qkv), or
  ///     nil for a parameter of AdamW.
  package init(
    _ parameters: [Parameter], momentum: Float = 0.95, weightDecay: Float = 0,
    rateFactors: [Float]? = nil, stacked: (Parameter) -> Int? = Muon.stacked
  ) {
    self.parameters = parameters
    (self.momentum, self.weightDecay, self.rateFactors) = (momentum, weightDecay, rateFactors)
    rest = AdamW(parameters, weightDecay: weightDecay, rateFactors: rateFactors)
    matrices = parameters.indices.compactMap { index in
      stacked(parameters[index]).map { (index, $0) }
    }
  }

  /// Number of matrices in a weight of attention or MLP of a block, and nil for any other parameter.
  ///
  /// Fused projections count as square matrices where their rows are a multiple of their columns.
  package static func stacked(_ parameter: Parameter) -> Int? {
    let path = parameter.name.split(separator: ".")
    guard parameter.shape.count == 2, path.count > 3, path[0] == "blocks", path.last == "weight",
      ["attn", "cross_attn", "mlp"].contains(path[2])
    else { return nil }
    let (rows, columns) = (parameter.shape[0], parameter.shape[1])
    let isFused = ["qkv", "Wqkv", "in_proj", "w12"].contains(path[path.count - 2])
    return isFused && rows.isMultiple(of: columns) ? rows / columns : 1
  }

  @discardableResult
  package func step(rate: Float, clipNorm: Float?, gradientScale: Float) -> Double {
    let norm = rest.gradientNorm * Double(gradientScale)
    guard norm.isFinite else {
      for parameter in parameters { parameter.clearGradient() }
      return norm
    }
    let clip = clipNorm.map { min(1, $0 / (Float(norm) + 1e-6)) } ?? 1
    Parallel.tasks(matrices.count) { task in
      let (index, stacked) = matrices[task]
      let parameter = parameters[index]
      guard let gradient = parameter.gradient else { return }
      let buffer = rest.first[index]
      ck_scale_f32(buffer.pointer, momentum, buffer.count)
      ck_axpy_f32(buffer.pointer, gradientScale * clip, gradient.pointer, buffer.count)
      let ahead = gradient.copied()
      ck_scale_f32(ahead.pointer, gradientScale * clip, ahead.count)
      ck_axpy_f32(ahead.pointer, momentum, buffer.pointer, ahead.count)
      let rows = parameter.shape[0] / stacked
      let rate = rate * (rateFactors?[index] ?? 1)
      parameter.update { value in
        if weightDecay > 0 { ck_scale_f32(value.pointer, 1 - rate * weightDecay, value.count) }
        for part in 0..<stacked {
          let range = (part * rows)..<((part + 1) * rows)
          let direction = Self.orthogonalized(ahead.rows(range))
          let scale = 0.2 * Float(max(rows, direction.shape[1])).squareRoot()
          ck_axpy_f32(
            value.rows(range).pointer, -rate * scale, direction.pointer, direction.count)
        }
      }
    }
    for (index, _) in matrices { parameters[index].clearGradient() }
    rest.step(rate: rate, clipNorm: nil, gradientScale: gradientScale * clip)
    return norm
  }

  /// Approximates the nearest semi-orthogonal matrix of a matrix (rows, columns): singular values
  /// are about 0.7 to 1.2 after five quintic Newton-Schulz iterations.
  package static func orthogonalized(_ matrix: Tensor) -> Tensor {
    let (rows, columns) = (matrix.shape[0], matrix.shape[1])
    let isTall = rows > columns
    let (m, n) = isTall ? (columns, rows) : (rows, columns)
    var x = Tensor([m, n])
    let norm = Float(ck_sum_squares_f32(matrix.pointer, matrix.count).squareRoot()) + 1e-7
    for row in 0..<m {
      for column in 0..<n {
        x[row * n + column] = matrix[isTall ? column * m + row : row * n + column] / norm
      }
    }
    let (a, b, c): (Float, Float, Float) = (3.4445, -4.7750, 2.0315)
    let gram = Tensor([m, m])
    for _ in 0..<5 {
      Gemm.serial(
        transposeB: true, m: m, n: m, k: n, a: x.pointer, lda: n, b: x.pointer, ldb: n,
        c: gram.pointer, ldc: m)
      // polynomial = b gram + c gram gram, next = a x + polynomial x.
      let (scaled, polynomial, next) = (gram.copied(), gram.copied(), x.copied())
      ck_scale_f32(scaled.pointer, c, scaled.count)
      ck_scale_f32(polynomial.pointer, b, polynomial.count)
      ck_scale_f32(next.pointer, a, next.count)
      Gemm.serial(
        m: m, n: m, k: m, a: scaled.pointer, lda: m, b: gram.pointer, ldb: m, accumulate: true,
        c: polynomial.pointer, ldc: m)
      Gemm.serial(
        m: m, n: n, k: m, a: polynomial.pointer, lda: m, b: x.pointer, ldb: n, accumulate: true,
        c: next.pointer, ldc: n)
      x = next
    }
    if !isTall { return x }
    let result = Tensor([rows, columns])
    for row in 0..<rows {
      for column in 0..<columns { result[row * columns + column] = x[column * n + row] }
    }
    return result
  }
}
