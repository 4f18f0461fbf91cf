import Files
import Foundation
import Operators
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
  /// Subtracted from the 128 that divides the exponents of the timestep sinusoids: 0 in the official
  /// model, 1 in diffusers (`downscale_freq_shift`).
  package var frequencyShift = 0
  /// Epsilon of the layer norm before the MLP: 1e-6 in the official model, `norm_eps` in diffusers.
  package var mlpNormEpsilon = officialEpsilon

  /// Epsilon of all layer norms of the official model.
  package static let officialEpsilon = 1e-6

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

  /// The configuration as plans record it.
  package var shape: ModelShape {
    ModelShape(
      family: "dit", depth: depth, hiddenSize: hiddenSize, numHeads: numHeads,
      patchSize: patchSize, inputSize: inputSize, inChannels: inChannels, numClasses: numClasses,
      learnSigma: learnSigma, mlpRatio: mlpRatio)
  }

  /// Tokens along one side.
  package var grid: Int { inputSize / patchSize }
  /// Number of tokens.
  package var tokens: Int { grid * grid }
  package var outChannels: Int { learnSigma ? 2 * inChannels : inChannels }

  /// The fixed 2-D sin-cos table (tokens, hiddenSize), row-major, columns first.
  ///
  /// - Parameter tokens: The grid of the table; nil is the model's own. On another one the coordinates
  ///   are the centres of tokens that are stretched over the model's own grid.
  /// - Returns: The table in row-major order.
  package func positionTable(_ tokens: TokenGrid? = nil) -> [Float] {
    func coordinates(_ count: Int) -> [Double] {
      let stretch = Double(grid) / Double(count)
      return (0..<count).map { (Double($0) + 0.5) * stretch - 0.5 }
    }
    return PositionTable.values(
      rows: coordinates(tokens?.rows ?? grid), columns: coordinates(tokens?.columns ?? grid),
      dim: hiddenSize)
  }
}

extension DiTConfig {
  /// Refuses impossible sizes that come from outside.
  ///
  /// - Parameter path: The file they come from.
  /// - Throws: `FileError` that names the key at fault.
  package func validate(_ path: String) throws {
    func check(_ condition: Bool, _ key: String, _ found: Any, _ expected: String) throws {
      if !condition {
        throw FileError(
          "\(path): config key '\(key)' is \(found), expected \(expected); the file is damaged")
      }
    }
    try check((1...1000).contains(depth), "depth", depth, "1 to 1000")
    try check(
      (4...65536).contains(hiddenSize) && hiddenSize % 4 == 0, "hidden_size", hiddenSize,
      "a multiple of 4 up to 65536")
    try check(
      numHeads > 0 && hiddenSize % numHeads == 0, "num_heads", numHeads,
      "a divisor of hidden_size \(hiddenSize)")
    try check((1...64).contains(patchSize), "patch_size", patchSize, "1 to 64")
    try check(
      inputSize > 0 && inputSize <= 4096 && inputSize % patchSize == 0, "input_size", inputSize,
      "a multiple of patch_size \(patchSize)")
    try check((1...4096).contains(inChannels), "in_channels", inChannels, "1 to 4096")
    try check((1...10_000_000).contains(numClasses), "num_classes", numClasses, "at least 1")
    try check(
      frequencyShift == 0 || frequencyShift == 1, "frequency_shift", frequencyShift, "0 or 1")
    try check(
      mlpNormEpsilon > 0 && mlpNormEpsilon < 1, "mlp_norm_epsilon", mlpNormEpsilon,
      "more than 0, less than 1")
    try check(mlpRatio > 0 && mlpRatio <= 64, "mlp_ratio", mlpRatio, "more than 0, at most 64")
  }
}
