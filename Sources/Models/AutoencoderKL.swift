import Checkpoints
import Foundation
import Nn
import TensorCore

/// The variational autoencoder of latent diffusion (AutoencoderKL of diffusers), for inference.
///
/// Any number of resolutions, channels and layers; weights under the keys of diffusers, the names of the
/// attention layers in early releases included.
package final class AutoencoderKL {
  /// A diagonal Gaussian over latents, each (batch, latent channels, h, w).
  package struct Posterior {
    /// Its mean, which is also its mode.
    package let mean: Tensor
    /// Logarithm of its variance, clamped to [-30, 20].
    package let logVariance: Tensor

    /// Makes a distribution from its two parameters, of one shape.
    package init(mean: Tensor, logVariance: Tensor) {
      self.mean = mean
      self.logVariance = logVariance
    }

    /// Draws latents: mean + exp(logVariance / 2) noise.
    ///
    /// - Parameter noise: Standard normal numbers, as many as the mean has.
    /// - Returns: Latents of the mean's shape, not yet scaled for diffusion.
    package func sample(noise: Tensor) -> Tensor {
      precondition(noise.count == mean.count, "posterior: noise \(noise.shape)")
      let result = Tensor(mean.shape)
      for i in 0..<result.count { result[i] = mean[i] + exp(0.5 * logVariance[i]) * noise[i] }
      return result
    }
  }

  /// The shape of the network.
  package let config: AutoencoderKLConfig
  private let encoder: Encoder
  private let decoder: Decoder
  private let quantConv: PointwiseConvolution
  private let postQuantConv: PointwiseConvolution

  /// Builds the network over weights.
  ///
  /// - Parameters:
  ///   - config: Its shape, which must be valid.
  ///   - weights: Source of the parameters.
  /// - Throws: What the source throws, for a missing key or a wrong shape.
  package init(config: AutoencoderKLConfig, weights: any WeightSource) throws {
    self.config = config
    let latent = config.latentChannels
    encoder = try Encoder(config, weights)
    decoder = try Decoder(config, weights)
    quantConv = try PointwiseConvolution(weights, "quant_conv", 2 * latent, 2 * latent)
    postQuantConv = try PointwiseConvolution(weights, "post_quant_conv", latent, latent)
  }

  /// Opens the weights of an autoencoder.
  ///
  /// - Parameter path: A file, or a folder of diffusers.
  /// - Returns: The state dict.
  /// - Throws: `CheckpointError` for an unreadable file or a folder without weights.
  package static func file(of path: String) throws(CheckpointError) -> StateDict {
    let isFolder = DiffusersFolder.isFolder(path)
    return try StateDict(
      try Checkpoint.open(isFolder ? try DiffusersFolder.weights(in: path) : path))
  }

  /// All files that decide what an autoencoder computes.
  ///
  /// - Parameter path: A file, or a folder of diffusers.
  /// - Returns: The weights, and the folder's configuration.
  /// - Throws: `CheckpointError` for an unreadable file or a folder without weights.
  package static func files(of path: String) throws(CheckpointError) -> [String] {
    try file(of: path).files + (DiffusersFolder.isFolder(path) ? ["\(path)/config.json"] : [])
  }

  /// Loads a file of any format, or a folder of diffusers.
  ///
  /// - Parameters:
  ///   - path: The weights.
  ///   - config: Their shape; nil looks for it as `AutoencoderKLConfig.find` does.
  /// - Throws: `CheckpointError` for an unreadable file, a missing or unexpected key, a wrong shape.
  package convenience init(path: String, config: AutoencoderKLConfig? = nil) throws {
    let file = try Self.file(of: path)
    let config = try config ?? AutoencoderKLConfig.find(for: file)
    let weights = WatchedWeights(FileWeights(file))
    try config.validate(file: path)
    try self.init(config: config, weights: weights)
    try weights.requireAllTaken(of: file.names, in: path, model: "AutoencoderKL")
  }

  /// Encodes images.
  ///
  /// - Parameter images: (batch, channels, H, W), values -1 ... 1; H and W multiples of the spatial
  ///   factor.
  /// - Returns: The distribution of their latents, not scaled for diffusion.
  package func encode(_ images: Tensor) -> Posterior {
    let latent = config.latentChannels
    let factor = config.spatialFactor
    precondition(
      images.shape.count == 4 && images.shape[1] == config.inChannels
        && images.shape[2] % factor == 0 && images.shape[3] % factor == 0,
      "AutoencoderKL: images \(images.shape)")
    let batch = images.shape[0]
    let size = [latent, images.shape[2] / factor, images.shape[3] / factor]
    let mean = Tensor([batch] + size)
    let logVariance = Tensor([batch] + size)
    let width = size.reduce(1, *)
    forEachPart(images) { part, range in
      let moments = quantConv(encoder(part))
      for row in 0..<range.count {
        let from = moments.pointer + 2 * row * width
        let to = (range.lowerBound + row) * width
        (mean.pointer + to).update(from: from, count: width)
        for i in 0..<width { logVariance[to + i] = min(20, max(-30, from[width + i])) }
      }
    }
    return Posterior(mean: mean, logVariance: logVariance)
  }

  /// The encoder's output (batch, 2 latent channels, h, w) before the last pointwise convolution.
  package func encoderFeatures(_ images: Tensor) -> Tensor { encoder(images) }

  /// Decodes latents.
  ///
  /// - Parameter latents: (batch, latent channels, h, w), not scaled for diffusion.
  /// - Returns: Images (batch, channels, H, W), nominally -1 ... 1, not clamped.
  package func decode(_ latents: Tensor) -> Tensor {
    precondition(
      latents.shape.count == 4 && latents.shape[1] == config.latentChannels,
      "AutoencoderKL: latents \(latents.shape)")
    let factor = config.spatialFactor
    let result = Tensor([
      latents.shape[0], config.outChannels, latents.shape[2] * factor, latents.shape[3] * factor,
    ])
    forEachPart(latents) { part, range in result.rows(range).assign(decoder(postQuantConv(part))) }
    return result
  }

  /// Latents as diffusion sees them: standardised per channel, or multiplied by the scaling factor.
  ///
  /// - Parameter latents: (batch, latent channels, h, w) from a posterior.
  /// - Returns: Scaled latents of the same shape.
  package func scaled(_ latents: Tensor) -> Tensor {
    mapChannels(latents) { value, mean, deviation in (value - mean) / deviation }
  }

  /// Latents as the decoder takes them, the inverse of `scaled`.
  ///
  /// - Parameter latents: (batch, latent channels, h, w) from diffusion.
  /// - Returns: Latents of the same shape for `decode`.
  package func unscaled(_ latents: Tensor) -> Tensor {
    mapChannels(latents) { value, mean, deviation in value * deviation + mean }
  }

  private func mapChannels(_ latents: Tensor, _ map: (Float, Float, Float) -> Float) -> Tensor {
    precondition(latents.shape[1] == config.latentChannels, "AutoencoderKL: \(latents.shape)")
    let channels = config.latentChannels
    let mean = config.latentMean ?? [Double](repeating: 0, count: channels)
    let deviation =
      config.latentStd ?? [Double](repeating: 1 / config.scalingFactor, count: channels)
    let result = Tensor(latents.shape)
    let size = latents.shape[2] * latents.shape[3]
    for plane in 0..<(latents.shape[0] * channels) {
      let (m, s) = (Float(mean[plane % channels]), Float(deviation[plane % channels]))
      for i in (plane * size)..<((plane + 1) * size) { result[i] = map(latents[i], m, s) }
    }
    return result
  }

  /// Few images at a time, so that their planes stay in the cache.
  private func forEachPart(_ x: Tensor, _ body: (Tensor, Range<Int>) -> Void) {
    let step = max(1, Parallel.threads)
    for start in stride(from: 0, to: x.shape[0], by: step) {
      let range = start..<min(x.shape[0], start + step)
      body(x.rows(range), range)
    }
  }
}

/// Residual block, attention, residual block at the coarsest resolution.
private struct MiddleBlock {
  let first, second: ResidualBlock
  let attention: SpatialAttention

  init(_ weights: any WeightSource, _ name: String, channels: Int, groups: Int) throws {
    first = try ResidualBlock(weights, name + ".resnets.0", channels, channels, groups: groups)
    attention = try SpatialAttention(
      weights, name + ".attentions.0", channels: channels, groups: groups)
    second = try ResidualBlock(weights, name + ".resnets.1", channels, channels, groups: groups)
  }

  func callAsFunction(_ x: Tensor) -> Tensor { second(attention(first(x))) }
}

/// The residual blocks of one resolution, then a convolution that changes it.
private struct Stage {
  let blocks: [ResidualBlock]
  let resampler: Convolution3x3?

  func callAsFunction(_ x: Tensor) -> Tensor {
    let y = blocks.reduce(x) { $1($0) }
    return resampler?(y) ?? y
  }
}

private struct Encoder {
  private let convIn, convOut: Convolution3x3
  private let stages: [Stage]
  private let middle: MiddleBlock
  private let normOut: GroupNorm

  init(_ config: AutoencoderKLConfig, _ weights: any WeightSource) throws {
    let widths = config.blockOutChannels
    let groups = config.normNumGroups
    let last = widths[widths.count - 1]
    convIn = try Convolution3x3(weights, "encoder.conv_in", config.inChannels, widths[0])
    stages = try widths.indices.map { index in
      let name = "encoder.down_blocks.\(index)"
      let width = widths[index]
      let blocks = try (0..<config.layersPerBlock).map { layer in
        try ResidualBlock(
          weights, "\(name).resnets.\(layer)", layer == 0 ? widths[max(0, index - 1)] : width,
          width, groups: groups)
      }
      let isLast = index == widths.count - 1
      return Stage(
        blocks: blocks,
        resampler: isLast
          ? nil
          : try Convolution3x3(
            weights, name + ".downsamplers.0.conv", width, width, .halving(padsAllSides: false)))
    }
    middle = try MiddleBlock(weights, "encoder.mid_block", channels: last, groups: groups)
    normOut = try GroupNorm(weights, "encoder.conv_norm_out", channels: last, groups: groups)
    convOut = try Convolution3x3(weights, "encoder.conv_out", last, 2 * config.latentChannels)
  }

  func callAsFunction(_ x: Tensor) -> Tensor {
    convOut(middle(stages.reduce(convIn(x)) { $1($0) }), after: normOut)
  }
}

private struct Decoder {
  private let convIn, convOut: Convolution3x3
  private let stages: [Stage]
  private let middle: MiddleBlock
  private let normOut: GroupNorm

  init(_ config: AutoencoderKLConfig, _ weights: any WeightSource) throws {
    let widths = Array(config.blockOutChannels.reversed())
    let groups = config.normNumGroups
    let last = widths[widths.count - 1]
    convIn = try Convolution3x3(weights, "decoder.conv_in", config.latentChannels, widths[0])
    middle = try MiddleBlock(weights, "decoder.mid_block", channels: widths[0], groups: groups)
    stages = try widths.indices.map { index in
      let name = "decoder.up_blocks.\(index)"
      let width = widths[index]
      let blocks = try (0...config.layersPerBlock).map { layer in
        try ResidualBlock(
          weights, "\(name).resnets.\(layer)", layer == 0 ? widths[max(0, index - 1)] : width,
          width, groups: groups)
      }
      let isLast = index == widths.count - 1
      return Stage(
        blocks: blocks,
        resampler: isLast
          ? nil
          : try Convolution3x3(weights, name + ".upsamplers.0.conv", width, width, .doubling))
    }
    normOut = try GroupNorm(weights, "decoder.conv_norm_out", channels: last, groups: groups)
    convOut = try Convolution3x3(weights, "decoder.conv_out", last, config.outChannels)
  }

  func callAsFunction(_ x: Tensor) -> Tensor {
    convOut(stages.reduce(middle(convIn(x))) { $1($0) }, after: normOut)
  }
}

/// Passes weights on and remembers which were taken, so that left-over keys can be reported.
final class WatchedWeights: WeightSource {
  private let source: any WeightSource
  private var taken: Set<String> = []

  init(_ source: any WeightSource) { self.source = source }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let tensor = try source.tensor(name, shape, initializer)
    taken.insert(name)
    return tensor
  }

  /// Throws `CheckpointError` if a file holds keys that the network does not have.
  func requireAllTaken(of names: [String], in path: String, model: String) throws(CheckpointError) {
    let left = names.filter { !taken.contains($0) }
    guard let first = left.first else { return }
    let others = left.count > 1 ? " and \(left.count - 1) more" : ""
    throw CheckpointError(
      "\(path): tensor '\(first)'\(others) is no part of this \(model);"
        + " check that the file and its configuration belong together")
  }
}
