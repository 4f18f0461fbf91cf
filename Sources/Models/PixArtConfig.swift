import Files
import Foundation
import Operators

/// Size and shape of a PixArt-Σ transformer (PixArt-alpha/PixArt-sigma `PixArtMS.py`, diffusers
/// `PixArtTransformer2DModel`).
package struct PixArtConfig: Equatable, Sendable {
  /// Attention whose keys and values are merged (PixArt-sigma `kv_compress_config`, sampling `conv`).
  package struct KeyCompression: Equatable, Sendable {
    /// Blocks of factor x factor tokens share a key and a value.
    package var factor: Int
    /// The layers that do so, counted from 0.
    package var layers: Set<Int>

    package init(factor: Int, layers: Set<Int>) {
      self.factor = factor
      self.layers = layers
    }
  }

  package var depth: Int
  package var hiddenSize: Int
  package var numHeads: Int
  package var patchSize: Int
  /// Side of the square latent that the model is made for, in latent pixels.
  package var sampleSize: Int
  package var inChannels: Int
  package var outChannels: Int
  /// Width of the text encoder's embeddings.
  package var captionChannels: Int
  /// What position coordinates are divided by.
  package var interpolationScale: Double
  /// Epsilon of the layer norms in blocks and at the end.
  package var normEpsilon: Double
  package var keyCompression: KeyCompression?

  package init(
    depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int = 2, sampleSize: Int,
    inChannels: Int = 4, outChannels: Int = 8, captionChannels: Int = 4096,
    interpolationScale: Double, normEpsilon: Double = 1e-6, keyCompression: KeyCompression? = nil
  ) {
    self.depth = depth
    self.hiddenSize = hiddenSize
    self.numHeads = numHeads
    self.patchSize = patchSize
    self.sampleSize = sampleSize
    self.inChannels = inChannels
    self.outChannels = outChannels
    self.captionChannels = captionChannels
    self.interpolationScale = interpolationScale
    self.normEpsilon = normEpsilon
    self.keyCompression = keyCompression
  }

  /// Tokens along one side of the model's own grid, the unit of position coordinates.
  package var grid: Int { sampleSize / patchSize }

  /// diffusers' interpolation scale where a configuration names none.
  package static func defaultInterpolationScale(sampleSize: Int) -> Double {
    Double(max(sampleSize / 64, 1))
  }

  /// The fixed 2-D sin-cos table (tokens, hiddenSize) of a grid: whatever its size, its coordinates span
  /// the model's own grid.
  package func positionTable(_ tokens: TokenGrid) -> [Float] {
    func coordinates(_ count: Int) -> [Double] {
      (0..<count).map {
        Double($0) / (Double(count) / Double(grid)) / interpolationScale
      }
    }
    return PositionTable.values(
      rows: coordinates(tokens.rows), columns: coordinates(tokens.columns), dim: hiddenSize)
  }

  /// Refuses impossible sizes that come from outside.
  ///
  /// - Parameter path: The file they come from.
  /// - Throws: `FileError` that names the key at fault, as diffusers names it.
  package func validate(_ path: String) throws(FileError) {
    func check(_ holds: Bool, _ key: String, _ found: Any, _ expected: String)
      throws(FileError)
    {
      if holds { return }
      throw FileError(
        "\(path): config key '\(key)' is \(found), expected \(expected); use the config.json that"
          + " belongs to the weights")
    }
    try check((1...1000).contains(depth), "num_layers", depth, "1 to 1000")
    try check((1...1024).contains(numHeads), "num_attention_heads", numHeads, "1 to 1024")
    try check(
      (4...65536).contains(hiddenSize) && hiddenSize % 4 == 0 && hiddenSize % numHeads == 0,
      "num_attention_heads * attention_head_dim", hiddenSize,
      "a multiple of 4 and of the \(numHeads) heads, up to 65536")
    try check((1...64).contains(patchSize), "patch_size", patchSize, "1 to 64")
    try check(
      (1...4096).contains(sampleSize) && sampleSize % patchSize == 0, "sample_size", sampleSize,
      "a multiple of patch_size \(patchSize) up to 4096")
    try check((1...4096).contains(inChannels), "in_channels", inChannels, "1 to 4096")
    try check(
      outChannels == inChannels || outChannels == 2 * inChannels, "out_channels", outChannels,
      "\(inChannels) or \(2 * inChannels)")
    try check(
      (1...65536).contains(captionChannels), "caption_channels", captionChannels, "1 to 65536")
    try check(
      interpolationScale.isFinite && interpolationScale > 0, "interpolation_scale",
      interpolationScale, "a positive number")
    try check(normEpsilon > 0 && normEpsilon < 1, "norm_eps", normEpsilon, "more than 0, below 1")
    if let compression = keyCompression {
      try check(
        (2...8).contains(compression.factor) && compression.factor <= grid,
        "kv_compression.factor", compression.factor, "2 to 8, at most \(grid)")
      try check(
        compression.layers.allSatisfy((0..<depth).contains), "kv_compression.layers",
        compression.layers.sorted(), "layers 0 to \(depth - 1)")
    }
  }
}
