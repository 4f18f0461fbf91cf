import Foundation
import Plans

/// Size and shape of a DiT (facebookresearch/DiT `models.py`).
package struct DiTConfig: Equatable, Sendable {
  package var depth: Int
  package var hiddenSize: Int
  package var numHeads: Int
  package var patchSize: Int
  /// Side of the latent grid, in latent pixels.
  package var inputSize: Int
  package var inChannels: Int
  package var numClasses: Int
  package var learnSigma: Bool
  package var mlpRatio: Double

  package init(
    depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int, inputSize: Int, inChannels: Int = 4,
    numClasses: Int, learnSigma: Bool = true, mlpRatio: Double = 4
  ) {
    self.depth = depth
    self.hiddenSize = hiddenSize
    self.numHeads = numHeads
    self.patchSize = patchSize
    self.inputSize = inputSize
    self.inChannels = inChannels
    self.numClasses = numClasses
    self.learnSigma = learnSigma
    self.mlpRatio = mlpRatio
  }

  /// Tokens along one side.
  package var grid: Int { inputSize / patchSize }
  /// Number of tokens.
  package var tokens: Int { grid * grid }
  package var outChannels: Int { learnSigma ? 2 * inChannels : inChannels }

  /// The fixed 2-D sin-cos table (tokens, hiddenSize), row-major, columns first.
  ///
  /// - Parameters:
  ///   - grid: Tokens along one side of the table.
  ///   - stretch: Distance between neighbouring tokens in units of the model's own grid; positions
  ///     are the centres of the stretched tokens.
  /// - Returns: The table in row-major order.
  package func positionTable(grid: Int, stretch: Double = 1) -> [Float] {
    let quarter = hiddenSize / 4
    var table = [Float](repeating: 0, count: grid * grid * hiddenSize)
    for row in 0..<grid {
      for column in 0..<grid {
        let base = (row * grid + column) * hiddenSize
        for index in 0..<quarter {
          let omega = pow(10000, -Double(index) / Double(quarter))
          let x = (Double(column) + 0.5) * stretch - 0.5
          let y = (Double(row) + 0.5) * stretch - 0.5
          table[base + index] = Float(sin(x * omega))
          table[base + quarter + index] = Float(cos(x * omega))
          table[base + 2 * quarter + index] = Float(sin(y * omega))
          table[base + 3 * quarter + index] = Float(cos(y * omega))
        }
      }
    }
    return table
  }
}
