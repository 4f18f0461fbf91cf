import Checkpoints
import Files
import Foundation

/// Architecture of an AutoencoderKL, with the names of `config.json` in diffusers.
package struct AutoencoderKLConfig: Codable, Equatable, Sendable {
  /// Channels of the images.
  package var inChannels = 3
  /// Channels of the decoded images.
  package var outChannels = 3
  /// Channels of the latents.
  package var latentChannels = 4
  /// Channels of each resolution, finest first; each halves the resolution of the previous one.
  package var blockOutChannels: [Int]
  /// Residual blocks per resolution of the encoder; the decoder has one more.
  package var layersPerBlock = 2
  /// Groups of every group normalisation.
  package var normNumGroups = 32
  /// Whether a pointwise convolution follows the encoder.
  package var usesQuantConv = true
  /// Whether a pointwise convolution precedes the decoder.
  package var usesPostQuantConv = true
  /// Whether the coarsest blocks of both halves have attention.
  package var hasMiddleAttention = true
  /// Factor of latents for diffusion, unless mean and standard deviation are given.
  package var scalingFactor = 0.18215
  /// Mean per latent channel, if latents are standardised per channel.
  package var latentMean: [Double]?
  /// Standard deviation per latent channel, if latents are standardised per channel.
  package var latentStd: [Double]?

  private enum CodingKeys: String, CodingKey {
    case inChannels = "in_channels"
    case outChannels = "out_channels"
    case latentChannels = "latent_channels"
    case blockOutChannels = "block_out_channels"
    case layersPerBlock = "layers_per_block"
    case normNumGroups = "norm_num_groups"
    case usesQuantConv = "use_quant_conv"
    case usesPostQuantConv = "use_post_quant_conv"
    case hasMiddleAttention = "mid_block_add_attention"
    case scalingFactor = "scaling_factor"
    case latentMean = "latent_mean"
    case latentStd = "latent_std"
  }

  /// Alternative keys of diffusers, and keys of unsupported variants.
  private struct Foreign: Decodable {
    var latentsMean, latentsStd: [Double]?
    var shiftFactor: Double?
    var actFn: String?
    var downBlockTypes, upBlockTypes: [String]?

    private enum CodingKeys: String, CodingKey {
      case latentsMean = "latents_mean"
      case latentsStd = "latents_std"
      case shiftFactor = "shift_factor"
      case actFn = "act_fn"
      case downBlockTypes = "down_block_types"
      case upBlockTypes = "up_block_types"
    }
  }

  /// Makes a configuration; other values are those of Stable Diffusion.
  package init(blockOutChannels: [Int], layersPerBlock: Int = 2, normNumGroups: Int = 32) {
    self.blockOutChannels = blockOutChannels
    self.layersPerBlock = layersPerBlock
    self.normNumGroups = normNumGroups
  }

  /// Decodes a configuration; absent keys default to Stable Diffusion, except the channel list.
  package init(from decoder: any Decoder) throws {
    let keys = try decoder.container(keyedBy: CodingKeys.self)
    blockOutChannels = try keys.decode([Int].self, forKey: .blockOutChannels)
    inChannels = try keys.decodeIfPresent(Int.self, forKey: .inChannels) ?? 3
    outChannels = try keys.decodeIfPresent(Int.self, forKey: .outChannels) ?? 3
    latentChannels = try keys.decodeIfPresent(Int.self, forKey: .latentChannels) ?? 4
    layersPerBlock = try keys.decodeIfPresent(Int.self, forKey: .layersPerBlock) ?? 2
    normNumGroups = try keys.decodeIfPresent(Int.self, forKey: .normNumGroups) ?? 32
    scalingFactor = try keys.decodeIfPresent(Double.self, forKey: .scalingFactor) ?? 0.18215
    usesQuantConv = try keys.decodeIfPresent(Bool.self, forKey: .usesQuantConv) ?? true
    usesPostQuantConv = try keys.decodeIfPresent(Bool.self, forKey: .usesPostQuantConv) ?? true
    hasMiddleAttention = try keys.decodeIfPresent(Bool.self, forKey: .hasMiddleAttention) ?? true
    latentMean = try keys.decodeIfPresent([Double].self, forKey: .latentMean)
    latentStd = try keys.decodeIfPresent([Double].self, forKey: .latentStd)
  }

  /// Pixels per latent position along one axis.
  package var spatialFactor: Int { 1 << (blockOutChannels.count - 1) }

  /// Reads the text of a `config.json`.
  ///
  /// - Parameters:
  ///   - json: The text.
  ///   - file: Name of its origin, for errors.
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the key at fault.
  package static func parse(_ json: Data, file: String) throws(FileError) -> Self {
    var config: AutoencoderKLConfig
    let foreign: Foreign
    do {
      config = try JSONDecoder().decode(Self.self, from: json)
      foreign = try JSONDecoder().decode(Foreign.self, from: json)
    } catch DecodingError.keyNotFound(let key, _) {
      throw FileError(
        "\(file): the autoencoder's configuration lacks \"\(key.stringValue)\";"
          + " use the config.json that belongs to the weights")
    } catch DecodingError.typeMismatch(_, let context) where !context.codingPath.isEmpty {
      let key = context.codingPath.map(\.stringValue).joined(separator: ".")
      throw FileError(
        "\(file): \"\(key)\" of the autoencoder's configuration has the wrong type;"
          + " use the config.json that belongs to the weights")
    } catch {
      throw FileError(
        "\(file): the autoencoder's configuration is no JSON object;"
          + " use the config.json that belongs to the weights")
    }
    try config.take(foreign, file: file)
    try config.validate(file: file)
    return config
  }

  /// Converts the scaling of diffusers, which divides latents by the scaling factor, multiplies by
  /// `latents_std` and adds `latents_mean` or `shift_factor` before decoding.
  private mutating func take(_ foreign: Foreign, file: String) throws(FileError) {
    let blocks = (foreign.downBlockTypes ?? []) + (foreign.upBlockTypes ?? [])
    let faults = [
      ("act_fn", foreign.actFn.flatMap { ["silu", "swish"].contains($0) ? nil : $0 }, "silu"),
      (
        "down_block_types",
        blocks.first { !["DownEncoderBlock2D", "UpDecoderBlock2D"].contains($0) },
        "DownEncoderBlock2D and UpDecoderBlock2D alone"
      ),
    ]
    for case (let key, let found?, let expected) in faults {
      throw FileError(
        "\(file): \"\(key)\" of the autoencoder's configuration is \(found.prefix(60)), expected"
          + " \(expected); use an autoencoder of that kind")
    }
    guard latentMean == nil,
      foreign.latentsMean != nil || foreign.latentsStd != nil || foreign.shiftFactor ?? 0 != 0
    else { return }
    latentMean =
      foreign.latentsMean
      ?? Array(repeating: foreign.shiftFactor ?? 0, count: max(0, latentChannels))
    latentStd = (foreign.latentsStd ?? Array(repeating: 1, count: max(0, latentChannels)))
      .map { $0 / scalingFactor }
    scalingFactor = 1
  }

  /// Folds mean and standard deviation per channel into the pointwise convolutions and removes
  /// them.
  ///
  /// The encoder's convolution then outputs (x - mean) / deviation, which the decoder's convolution
  /// reads unscaled.
  /// - Parameter file: The weights.
  /// - Returns: The replaced tensors; empty without mean and deviation.
  /// - Throws: `FileError` for weights that cannot be read.
  mutating func folding(_ file: any TensorFile) throws -> [TensorItem] {
    guard let mean = latentMean, let deviation = latentStd else { return [] }
    let count = latentChannels
    func convolution(_ name: String, _ width: Int, exists: Bool) throws -> (
      weight: [Float], bias: [Float]
    ) {
      if exists {
        let (weight, bias) = (try file.floats("\(name).weight"), try file.floats("\(name).bias"))
        guard weight.count == width * width, bias.count == width else {
          throw FileError(
            "\(file.path): tensor '\(name).weight' has \(weight.count) elements, expected"
              + " \(width * width); check that the file and its configuration belong together")
        }
        return (weight, bias)
      }
      var identity = [Float](repeating: 0, count: width * width)
      for channel in 0..<width { identity[channel * width + channel] = 1 }
      return (identity, [Float](repeating: 0, count: width))
    }
    var encoder = try convolution("quant_conv", 2 * count, exists: usesQuantConv)
    var decoder = try convolution("post_quant_conv", count, exists: usesPostQuantConv)
    for channel in 0..<count {
      // Rows of the mean, then of the log variance.
      for column in 0..<(2 * count) {
        encoder.weight[channel * 2 * count + column] /= Float(deviation[channel])
      }
      encoder.bias[channel] = Float(
        (Double(encoder.bias[channel]) - mean[channel]) / deviation[channel])
      encoder.bias[count + channel] -= Float(2 * log(deviation[channel]))
      let row = decoder.weight[(channel * count)..<((channel + 1) * count)]
      decoder.bias[channel] += Float(zip(row, mean).reduce(0) { $0 + Double($1.0) * $1.1 })
      for column in 0..<count {
        decoder.weight[channel * count + column] *= Float(deviation[column])
      }
    }
    (latentMean, latentStd, scalingFactor) = (nil, nil, 1)
    (usesQuantConv, usesPostQuantConv) = (true, true)
    return [("quant_conv", 2 * count, encoder), ("post_quant_conv", count, decoder)].flatMap {
      name, width, tensors in
      [
        TensorItem(name: "\(name).weight", shape: [width, width, 1, 1], floats: tensors.weight),
        TensorItem(name: "\(name).bias", shape: [width], floats: tensors.bias),
      ]
    }
  }

  /// Checks the configuration.
  ///
  /// - Parameter file: Name of the origin, for errors.
  /// - Throws: `FileError` that names the key at fault.
  package func validate(file: String) throws(FileError) {
    func require(_ holds: Bool, _ key: String, _ found: Any, _ expected: String)
      throws(FileError)
    {
      if holds { return }
      throw FileError(
        "\(file): \"\(key)\" of the autoencoder's configuration is \(found), expected \(expected);"
          + " use the config.json that belongs to the weights")
    }
    let channels = 1...65536
    try require(
      (1...8).contains(blockOutChannels.count) && blockOutChannels.allSatisfy(channels.contains),
      "block_out_channels", blockOutChannels, "1 to 8 positive channel counts")
    try require(channels.contains(inChannels), "in_channels", inChannels, "a positive number")
    try require(channels.contains(outChannels), "out_channels", outChannels, "a positive number")
    try require(
      channels.contains(latentChannels), "latent_channels", latentChannels, "a positive number")
    try require((1...64).contains(layersPerBlock), "layers_per_block", layersPerBlock, "1 to 64")
    try require(
      normNumGroups > 0 && blockOutChannels.allSatisfy { $0 % normNumGroups == 0 },
      "norm_num_groups", normNumGroups, "a divisor of every entry of \(blockOutChannels)")
    try require(
      scalingFactor.isFinite && scalingFactor > 0, "scaling_factor", scalingFactor,
      "a positive number")
    let mean = latentMean ?? []
    let deviation = latentStd ?? []
    try require(
      (latentMean == nil) == (latentStd == nil), "latent_std", deviation,
      "it together with \"latent_mean\"")
    try require(
      latentMean == nil || mean.count == latentChannels, "latent_mean", mean,
      "\(latentChannels) numbers")
    try require(
      latentStd == nil
        || (deviation.count == latentChannels && deviation.allSatisfy { $0.isFinite && $0 > 0 }),
      "latent_std", deviation, "\(latentChannels) positive numbers")
  }

  /// Finds the configuration of an open weight file.
  ///
  /// It is stated, or inferred from the shapes of the weights, which do not determine the number of
  /// groups (then 32) and the scaling factor (then that of Stable Diffusion).
  /// - Parameter file: The weights.
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` for an invalid configuration.
  package static func find(for file: any TensorFile) throws(FileError) -> Self {
    if let config = try stated(for: file) { return config }
    return try inferred(from: file)
  }

  /// Reads the configuration stated for an open weight file: the `config` entry of its metadata, or
  /// a `config.json` in the same folder unless its class is another one.
  ///
  /// - Parameter file: The weights.
  /// - Returns: A valid configuration; nil if there is none.
  /// - Throws: `FileError` for an invalid configuration.
  package static func stated(for file: any TensorFile) throws(FileError) -> Self? {
    if let text = file.metadata["config"] {
      return try parse(Data(text.utf8), file: file.path)
    }
    let sibling = URL(filePath: file.path).deletingLastPathComponent().appending(
      path: "config.json")
    guard let json = try? Data(contentsOf: sibling) else { return nil }
    if let owner = try? JSONDecoder().decode(Owner.self, from: json).className,
      owner != "AutoencoderKL"
    {
      return nil
    }
    return try parse(json, file: sibling.path)
  }

  /// The class that diffusers wrote a `config.json` for.
  private struct Owner: Decodable {
    let className: String
    private enum CodingKeys: String, CodingKey { case className = "_class_name" }
  }

  /// Infers the configuration from the shapes of the weights.
  ///
  /// - Parameters:
  ///   - file: The weights.
  ///   - prefix: Prefix of every key.
  ///   - normNumGroups: Number of groups, which shapes do not determine.
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` if a required weight is missing.
  package static func inferred(
    from file: any TensorFile, prefix: String = "", normNumGroups: Int = 32
  ) throws(FileError) -> Self {
    func shape(_ name: String) throws(FileError) -> [Int] {
      if let entry = file.entry(prefix + name), entry.shape.count == 4 { return entry.shape }
      throw FileError(
        "\(file.path): tensor '\(prefix + name)' is missing or no convolution weight;"
          + " check that the file holds an AutoencoderKL in the naming of diffusers")
    }
    var channels: [Int] = []
    while file.entry("\(prefix)encoder.down_blocks.\(channels.count).resnets.0.conv1.weight") != nil
    {
      channels.append(
        try shape("encoder.down_blocks.\(channels.count).resnets.0.conv1.weight")[0])
    }
    var layers = 0
    while file.entry("\(prefix)encoder.down_blocks.0.resnets.\(layers).conv1.weight") != nil {
      layers += 1
    }
    var config = AutoencoderKLConfig(
      blockOutChannels: channels, layersPerBlock: layers, normNumGroups: normNumGroups)
    config.usesQuantConv = file.entry("\(prefix)quant_conv.weight") != nil
    config.usesPostQuantConv = file.entry("\(prefix)post_quant_conv.weight") != nil
    config.hasMiddleAttention =
      file.entry("\(prefix)decoder.mid_block.attentions.0.group_norm.weight") != nil
    config.inChannels = try shape("encoder.conv_in.weight")[1]
    config.latentChannels = try shape("decoder.conv_in.weight")[1]
    config.outChannels = try shape("decoder.conv_out.weight")[0]
    try config.validate(file: file.path)
    return config
  }
}
