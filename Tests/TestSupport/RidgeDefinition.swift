import TensorCore

/// Weighted ridge regression with an intercept by its definition: the whole design matrix with a column of
/// ones that λ does not shrink, and Gaussian elimination in double precision.
package enum RidgeDefinition {
  /// Solves for W and b.
  ///
  /// - Parameters:
  ///   - features: Rows of features.
  ///   - targets: As many rows of targets.
  ///   - weights: The rows' weights.
  ///   - lambda: λ relative to the mean diagonal of the (centred, with an intercept) Gram matrix.
  ///   - hasBias: Whether there is an intercept.
  /// - Returns: W (outputs, inputs) row by row, and b.
  package static func solve(
    _ features: [[Double]], _ targets: [[Double]], weights: [Double], lambda: Double,
    hasBias: Bool = true
  ) -> (weight: [[Double]], bias: [Double]) {
    let (inputs, outputs) = (features[0].count, targets[0].count)
    let total = weights.reduce(0, +)
    let means = (0..<inputs).map { i in
      hasBias ? zip(features, weights).reduce(0) { $0 + $1.0[i] * $1.1 } / total : 0
    }
    var trace = 0.0
    for (row, weight) in zip(features, weights) {
      for i in 0..<inputs { trace += weight * (row[i] - means[i]) * (row[i] - means[i]) }
    }
    let width = inputs + (hasBias ? 1 : 0)
    var system = [[Double]](repeating: [Double](repeating: 0, count: width + outputs), count: width)
    for (index, weight) in weights.enumerated() {
      let row = features[index] + (hasBias ? [1] : [])
      for i in 0..<width {
        for j in 0..<width { system[i][j] += weight * row[i] * row[j] }
        for o in 0..<outputs { system[i][width + o] += weight * row[i] * targets[index][o] }
      }
    }
    for i in 0..<inputs { system[i][i] += lambda * trace / Double(inputs) }
    for column in 0..<width {
      let pivot =
        (column..<width).max { abs(system[$0][column]) < abs(system[$1][column]) } ?? column
      system.swapAt(column, pivot)
      for row in 0..<width where row != column {
        let factor = system[row][column] / system[column][column]
        if factor == 0 { continue }
        for k in column..<(width + outputs) { system[row][k] -= factor * system[column][k] }
      }
    }
    let solution = (0..<width).map { i in
      (0..<outputs).map { system[i][width + $0] / system[i][i] }
    }
    return (
      (0..<outputs).map { o in (0..<inputs).map { solution[$0][o] } },
      hasBias ? solution[inputs] : []
    )
  }
}

extension Tensor {
  /// The rows of the last axis in double precision.
  package var doubleRows: [[Double]] {
    let width = shape[shape.count - 1]
    return (0..<(count / width)).map { row in (0..<width).map { Double(self[row * width + $0]) } }
  }
}
