import Checkpoints
import Files
import Foundation
import Nn
import TensorCore

/// Variational autoencoder of latent diffusion (AutoencoderKL of diffusers), for inference.
///
/// Supports any number of resolutions, channels and layers, with attention at any of them. Keys are those of
/// diffusers, including the names of attention layers in early releases; those of latent-diffusion are translated.
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
  private let encoder, decoder: AutoencoderKLCoder
  private let quantConv, postQuantConv: PointwiseConvolution?

  /// Builds the network over weights.
  ///
  /// - Parameters:
  ///   - config: Its shape, which must be valid.
  ///   - weights: Source of the parameters.
  ///   - precision: Precision of the products in 3x3 convolutions.
  /// - Throws: Errors of the source for a missing key or a wrong shape.
  package init(
    config: AutoencoderKLConfig, weights: any WeightSource,
    precision: PrecisionRule = .float32
  ) throws {
    self.config = config
    let latent = config.latentChannels
    encoder = try AutoencoderKLCoder(.encoder, config, weights, precision)
    decoder = try AutoencoderKLCoder(.decoder, config, weights, precision)
    quantConv =
      config.useQuantConv
      ? try PointwiseConvolution(weights, "quant_conv", 2 * latent, 2 * latent) : nil
    postQuantConv =
      config.usePostQuantConv
      ? try PointwiseConvolution(weights, "post_quant_conv", latent, latent) : nil
  }

  /// Opens the weights of an autoencoder.
  ///
  /// - Parameter path: A file, or a folder of diffusers.
  /// - Returns: The state dict, in the names of diffusers.
  /// - Throws: `FileError` for an unreadable file or a folder without weights.
  package static func file(of path: String) throws(FileError) -> StateDict {
    let isFolder = DiffusersFolder.isFolder(path)
    return AutoencoderKLKeyMap.renamed(
      try StateDict(
        try Checkpoint.open(isFolder ? try DiffusersFolder.weights(in: path) : path),
        anchors: ["encoder.conv_in.weight"]))
  }

  /// Lists all files of an autoencoder.
  ///
  /// - Parameter path: A file, or a folder of diffusers.
  /// - Returns: The weights, and the folder's configuration.
  /// - Throws: `FileError` for an unreadable file or a folder without weights.
  package static func files(of path: String) throws(FileError) -> [String] {
    try file(of: path).files + (DiffusersFolder.isFolder(path) ? ["\(path)/config.json"] : [])
  }

  /// Loads a file of any format, or a folder of diffusers.
  ///
  /// - Parameters:
  ///   - path: The weights.
  ///   - config: Their shape; nil looks for it as `AutoencoderKLConfig.find` does.
  ///   - precision: Precision of the products in large 3x3 convolutions.
  /// - Throws: `FileError` for an unreadable file, a missing or unexpected key, a wrong shape.
  package convenience init(
    path: String, config: AutoencoderKLConfig? = nil, precision: Precision = .float32
  ) throws {
    let file = try Self.file(of: path)
    try self.init(
      file, config: try config ?? AutoencoderKLConfig.find(for: file), precision: precision)
  }

  /// Builds an autoencoder from open weights.
  convenience init(_ file: StateDict, config: AutoencoderKLConfig, precision: Precision) throws {
    let weights = WatchedWeights(FileWeights(file))
    try config.validate(file: file.path)
    try self.init(
      config: config, weights: weights, precision: PrecisionRule(precision))
    try weights.requireAllTaken(of: file.names, in: file.path, model: "AutoencoderKL")
  }

  /// Encodes images.
  ///
  /// - Parameters:
  ///   - images: (batch, channels, H, W), values -1 ... 1; H and W multiples of the spatial factor.
  ///   - tiling: Whether large images are encoded in tiles.
  /// - Returns: The distribution of their latents, not scaled for diffusion.
  package func encode(_ images: Tensor, tiling: Tiling = .auto) -> Posterior {
    let latent = config.latentChannels
    let factor = config.spatialFactor
    precondition(
      images.shape.count == 4 && images.shape[1] == config.inChannels
        && images.shape[2] % factor == 0 && images.shape[3] % factor == 0,
      "AutoencoderKL: images \(images.shape)")
    let (height, width) = (images.shape[2] / factor, images.shape[3] / factor)
    let moments = map(
      images, to: [2 * latent, height, width],
      tiles: tiling.tiles(latentHeight: height, latentWidth: width, config)?.encoding(factor)
    ) { image in
      let features = encoder(image)
      return quantConv?(features) ?? features
    }
    let posterior = Posterior(
      mean: Tensor([images.shape[0], latent, height, width]),
      logVariance: Tensor([images.shape[0], latent, height, width]))
    let size = latent * height * width
    for row in 0..<images.shape[0] {
      let from = moments.pointer + 2 * row * size
      (posterior.mean.pointer + row * size).update(from: from, count: size)
      for i in 0..<size {
        posterior.logVariance[row * size + i] = min(20, max(-30, from[size + i]))
      }
    }
    return posterior
  }

  /// The encoder's output (batch, 2 latent channels, h, w) before the last pointwise convolution.
  package func encoderFeatures(_ images: Tensor) -> Tensor { encoder(images) }

  /// Decodes latents.
  ///
  /// - Parameters:
  ///   - latents: (batch, latent channels, h, w), not scaled for diffusion.
  ///   - tiling: Whether large images are decoded in tiles.
  /// - Returns: Images (batch, channels, H, W), nominally -1 ... 1, not clamped.
  package func decode(_ latents: Tensor, tiling: Tiling = .auto) -> Tensor {
    precondition(
      latents.shape.count == 4 && latents.shape[1] == config.latentChannels,
      "AutoencoderKL: latents \(latents.shape)")
    let factor = config.spatialFactor
    let (height, width) = (latents.shape[2], latents.shape[3])
    return map(
      latents, to: [config.outChannels, height * factor, width * factor],
      tiles: tiling.tiles(latentHeight: height, latentWidth: width, config)?.decoding(factor)
    ) { decoder(postQuantConv?($0) ?? $0) }
  }

  /// Scales latents for diffusion: standardised per channel, or multiplied by the scaling factor.
  ///
  /// - Parameter latents: (batch, latent channels, h, w) from a posterior.
  /// - Returns: Scaled latents of the same shape.
  package func scaled(_ latents: Tensor) -> Tensor {
    mapChannels(latents) { value, mean, deviation in (value - mean) / deviation }
  }

  /// Inverse of `scaled`.
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

  /// Applies `body` to small batches, so that their planes fit the cache, or with tiling to one
  /// tile of one image at a time.
  private func map(
    _ x: Tensor, to shape: [Int], tiles: TileMap?, _ body: (Tensor) -> Tensor
  ) -> Tensor {
    let result = Tensor([x.shape[0]] + shape)
    let step = tiles == nil ? max(1, Parallel.threads) : 1
    for start in stride(from: 0, to: x.shape[0], by: step) {
      let range = start..<min(x.shape[0], start + step)
      let target = result.rows(range)
      if let tiles {
        tiles.apply(x.rows(range), into: target, body)
      } else {
        target.assign(body(x.rows(range)))
      }
    }
    return result
  }
}

/// Weight source that records the keys read, so that unexpected keys can be reported.
final class WatchedWeights: WeightSource {
  private let source: any WeightSource
  private var taken: Set<String> = []

  init(_ source: any WeightSource) { self.source = source }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let tensor = try source.tensor(name, shape, initializer)
    taken.insert(name)
    return tensor
  }

  /// Throws `FileError` if a file holds keys that the network does not have.
  func requireAllTaken(of names: [String], in path: String, model: String) throws(FileError) {
    let left = names.filter { !taken.contains($0) }
    guard let first = left.first else { return }
    let others = left.count > 1 ? " and \(left.count - 1) more" : ""
    throw FileError(
      "\(path): tensor '\(first)'\(others) is no part of this \(model);"
        + " check that the file and its configuration belong together")
  }
}
