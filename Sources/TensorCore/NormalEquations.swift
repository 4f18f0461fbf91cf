import COpenBLAS

/// Weighted least squares of targets Y (rows, outputs) by features H (rows, inputs), Y ≈ H W^T + b.
///
/// Rows are added in batches and not kept: what grows is H^T H, H^T Y and the sums of the columns, in
/// double precision. The products are divided into tiles that depend on the sizes alone and no tile is
/// shared, so the sums do not depend on the number of threads.
package final class NormalEquations {
  /// Numbers of features and of targets.
  package let inputs, outputs: Int
  /// H^T H (inputs, inputs), of which the upper triangle is kept, and H^T Y (inputs, outputs).
  private let gram, cross: Doubles
  /// Sums of the columns of H and of Y.
  private let featureSums, targetSums: Doubles
  /// Sum of the row weights, and of the weighted squares of Y.
  private var weight = 0.0
  private var targetSquares = 0.0

  /// Columns of a tile, and rows that are converted at once.
  private static let (tile, chunk) = (192, 512)

  /// Makes empty sums.
  package init(inputs: Int, outputs: Int) {
    (self.inputs, self.outputs) = (inputs, outputs)
    (gram, cross) = (Doubles(inputs * inputs), Doubles(inputs * outputs))
    (featureSums, targetSums) = (Doubles(inputs), Doubles(outputs))
  }

  /// Bytes that the sums of a fit of this size take.
  package static func bytes(inputs: Int, outputs: Int) -> Int { 8 * inputs * (inputs + outputs) }

  /// Adds rows.
  ///
  /// - Parameters:
  ///   - features: (..., inputs); ignored if there are no inputs.
  ///   - targets: (..., outputs), of as many rows.
  ///   - weights: Weight of each row; nil for 1.
  package func add(_ features: Tensor?, _ targets: Tensor, weights: [Double]? = nil) {
    let rows = targets.count / outputs
    precondition(
      (features?.count ?? 0) == rows * inputs && (weights?.count ?? rows) == rows,
      "NormalEquations: \(features?.shape ?? []) and \(targets.shape), \(weights?.count ?? rows)")
    Gemm.useOneThread()
    let size = min(rows, Self.chunk)
    let (h, weighted, y) = (Doubles(size * inputs), Doubles(size * inputs), Doubles(size * outputs))
    for start in stride(from: 0, to: rows, by: size) {
      let count = min(size, rows - start)
      Parallel.ranges(count, grain: 32) { range in
        for row in range {
          let factor = weights?[start + row] ?? 1
          if let from = features.map({ $0.pointer + (start + row) * inputs }) {
            for i in 0..<inputs {
              h[row * inputs + i] = Double(from[i])
              weighted[row * inputs + i] = factor * Double(from[i])
            }
          }
          let from = targets.pointer + (start + row) * outputs
          for o in 0..<outputs { y[row * outputs + o] = Double(from[o]) }
        }
      }
      for row in 0..<count {
        let factor = weights?[start + row] ?? 1
        weight += factor
        for i in 0..<inputs { featureSums[i] += weighted[row * inputs + i] }
        for o in 0..<outputs {
          let value = y[row * outputs + o]
          targetSums[o] += factor * value
          targetSquares += factor * value * value
        }
      }
      multiply(weighted, by: h, y, rows: count)
    }
  }

  /// Adds (weighted H)^T H and (weighted H)^T Y, tile by tile.
  private func multiply(_ weighted: Doubles, by h: Doubles, _ y: Doubles, rows: Int) {
    let tile = Self.tile
    let (down, across) = ((inputs + tile - 1) / tile, (outputs + tile - 1) / tile)
    var tiles: [(row: Int, column: Int, isCross: Bool)] = []
    for i in 0..<down {
      for j in i..<down { tiles.append((i * tile, j * tile, false)) }
      for j in 0..<across { tiles.append((i * tile, j * tile, true)) }
    }
    Parallel.tasks(tiles.count) { index in
      let (i, j, isCross) = tiles[index]
      let (right, sums, width) = isCross ? (y, cross, outputs) : (h, gram, inputs)
      cblas_dgemm(
        CblasRowMajor, CblasTrans, CblasNoTrans, .init(min(tile, inputs - i)),
        .init(min(tile, width - j)), .init(rows), 1, weighted.start + i, .init(inputs),
        right.start + j, .init(width), 1, sums.start + i * width + j, .init(width))
    }
  }

  /// A solution.
  package struct Solution {
    /// W (outputs, inputs); nil if there are no inputs.
    package let weight: Tensor?
    /// b (outputs); nil if none was asked for.
    package let bias: Tensor?
    /// Weighted squared residual relative to the variance of the targets (to their squares without a
    /// bias): 0 fits all of it, 1 nothing.
    package let unexplained: Double
  }

  /// Solves (H^T H + λ I) W^T = H^T Y by a Cholesky factorisation.
  ///
  /// - Parameters:
  ///   - lambda: λ relative to the mean of the diagonal of H^T H.
  ///   - hasBias: Whether there is a bias, which λ does not shrink: the columns of H and Y are centred.
  /// - Returns: The solution; nil if a sum is not finite or the matrix is not positive definite, which a
  ///   larger λ mends.
  package func solve(lambda: Double, hasBias: Bool) -> Solution? {
    Gemm.useOneThread()
    let scale = hasBias && weight > 0 ? 1 / weight : 0
    // Column-major for LAPACK, so that the kept triangle is the lower one and the rows of the right-hand
    // sides are those of W.
    let (matrix, rows) = (Doubles(inputs * inputs), Doubles(inputs * outputs))
    var diagonal = 0.0
    for i in 0..<inputs {
      for j in i..<inputs {
        matrix[i * inputs + j] = gram[i * inputs + j] - scale * featureSums[i] * featureSums[j]
      }
      diagonal += matrix[i * inputs + i]
      for o in 0..<outputs {
        rows[o * inputs + i] = cross[i * outputs + o] - scale * featureSums[i] * targetSums[o]
      }
    }
    // Features that never vary explain nothing, whatever is added to their zeros.
    let added = diagonal > 0 ? lambda * diagonal / Double(inputs) : 1
    for i in 0..<inputs { matrix[i * inputs + i] += added }
    let right = (0..<(inputs * outputs)).map { rows[$0] }
    if inputs > 0 {
      var triangle = CChar(bitPattern: UInt8(ascii: "L"))
      var (n, count, status) = (Int32(inputs), Int32(outputs), Int32(0))
      dposv_(&triangle, &n, &count, matrix.start, &n, rows.start, &n, &status)
      guard status == 0 else { return nil }
    }
    var total = targetSquares
    var explained = 0.0
    for o in 0..<outputs { total -= scale * targetSums[o] * targetSums[o] }
    for (index, value) in right.enumerated() {
      explained += rows[index] * (value + added * rows[index])
    }
    let solved = inputs > 0 ? Tensor([outputs, inputs]) : nil
    let bias = hasBias ? Tensor([outputs]) : nil
    for o in 0..<outputs {
      var rest = targetSums[o]
      for i in 0..<inputs {
        solved?[o * inputs + i] = Float(rows[o * inputs + i])
        rest -= rows[o * inputs + i] * featureSums[i]
      }
      bias?[o] = Float(scale * rest)
    }
    guard solved?.isFinite ?? true, bias?.isFinite ?? true, total.isFinite else { return nil }
    return Solution(
      weight: solved, bias: bias, unexplained: total > 0 ? max(0, 1 - explained / total) : 0)
  }
}

/// Zeroed memory for numbers in double precision, which several threads may write parts of.
private final class Doubles {
  let start: UnsafeMutablePointer<Double>

  init(_ count: Int) {
    start = .allocate(capacity: max(1, count))
    start.initialize(repeating: 0, count: max(1, count))
  }

  deinit { start.deallocate() }

  subscript(index: Int) -> Double {
    get { start[index] }
    set { start[index] = newValue }
  }
}
