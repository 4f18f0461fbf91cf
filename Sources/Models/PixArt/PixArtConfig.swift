import Files
import Foundation
import Operators
import Plans

/// Architecture of a PixArt-Σ transformer (PixArt-alpha/PixArt-sigma `PixArtMS.py`, diffusers
/// `PixArtTransformer2DModel`).
@dynamicMemberLookup
package struct PixArtConfig: Equatable, Sendable {
  /// Attention with downsampled keys and values (PixArt-sigma `kv_compress_config`, sampling
  /// `conv`).
  package struct KeyCompression: Equatable, Sendable {
    /// Blocks of factor x factor tokens share a key and a value.
    package var factor: Int
    /// Indices of the layers with compression, from 0.
    package var layers: Set<Int>

    package init(factor: Int, layers: Set<Int>) {
      self.factor = factor
      self.layers = layers
    }
  }

  /// Extents shared with other families; without classes.
  package var shape: ModelShape
  /// Divisor of position coordinates.
  package var interpolationScale: Double
  /// Epsilon of the layer norms in blocks; the last layer norm always has 1e-6.
  package var normEpsilon: Double
  package var keyCompression: KeyCompression?
  /// Tokens of the null caption that the file of the model holds; nil if it holds none.
  package var nullCaptionLength: Int?

  package init(
    depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int = 2, sampleSize: Int,
    inChannels: Int = 4, learnSigma: Bool = true, captionChannels: Int = 4096,
    interpolationScale: Double, normEpsilon: Double = 1e-6, keyCompression: KeyCompression? = nil
  ) {
    shape = ModelShape(
      family: .pixart, depth: depth, hiddenSize: hiddenSize, numHeads: numHeads,
      patchSize: patchSize, inputSize: sampleSize, inChannels: inChannels, numClasses: 0,
      learnSigma: learnSigma)
    shape.captionChannels = captionChannels
    self.interpolationScale = interpolationScale
    self.normEpsilon = normEpsilon
    self.keyCompression = keyCompression
  }

  /// An entry of the shape.
  package subscript<Entry>(dynamicMember entry: KeyPath<ModelShape, Entry>) -> Entry {
    shape[keyPath: entry]
  }

  /// Default interpolation scale of diffusers.
  package static func defaultInterpolationScale(sampleSize: Int) -> Double {
    Double(max(sampleSize / 64, 1))
  }

  /// Fixed 2-D sin-cos table (tokens, hiddenSize) of a grid, whose coordinates are scaled to the
  /// grid of the model.
  package func positionTable(_ tokens: TokenGrid) -> [Float] {
    func coordinates(_ count: Int) -> [Double] {
      (0..<count).map {
        Double($0) / (Double(count) / Double(shape.grid)) / interpolationScale
      }
    }
    return PositionTable.values(
      rows: coordinates(tokens.rows), columns: coordinates(tokens.columns), dim: shape.hiddenSize)
  }

  /// Validates a configuration from a file.
  ///
  /// - Throws: `FileError` with the key at fault, by its name in diffusers.
  package func validate(_ path: String) throws(FileError) {
    try shape.validate(file: path, names: DiffusersFolder.configNames)
    let source = ConfigFile(path: path, model: "PixArtTransformer2DModel")
    try source.require(
      (1...65536).contains(shape.captionChannels), "caption_channels", shape.captionChannels,
      "1 to 65536")
    try source.require(
      interpolationScale.isFinite && interpolationScale > 0, "interpolation_scale",
      interpolationScale, "a positive number")
    try source.require(
      normEpsilon > 0 && normEpsilon < 1, "norm_eps", normEpsilon, "more than 0, below 1")
    if let compression = keyCompression {
      try source.require(
        (2...8).contains(compression.factor) && compression.factor <= shape.grid,
        "kv_compression.factor", compression.factor, "2 to 8, at most \(shape.grid)")
      try source.require(
        compression.layers.allSatisfy((0..<shape.depth).contains), "kv_compression.layers",
        compression.layers.sorted(), "layers 0 to \(shape.depth - 1)")
    }
  }
}
