import Checkpoints
import Files
import Foundation

/// Architecture of an AutoencoderKL, with the names of `config.json` in diffusers.
package struct AutoencoderKLConfig: Encodable, Equatable, Sendable {
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
  package var useQuantConv = true
  /// Whether a pointwise convolution precedes the decoder.
  package var usePostQuantConv = true
  /// Whether the coarsest blocks of both halves have attention.
  package var midBlockAddAttention = true
  /// Kinds of the encoder's stages, finest first, and of the decoder's, coarsest first; those that begin with
  /// `Attn` have attention behind every residual block.
  package var downBlockTypes, upBlockTypes: [String]
  /// Factor of latents for diffusion, unless mean and standard deviation are given.
  package var scalingFactor = 0.18215
  /// Mean per latent channel, if latents are standardised per channel.
  package var latentMean: [Double]?
  /// Standard deviation per latent channel, if latents are standardised per channel.
  package var latentStd: [Double]?

  /// Entries of a `config.json`, with alternative keys of diffusers and keys of unsupported variants.
  private struct Stored: Decodable {
    var blockOutChannels: [Int]
    var inChannels, outChannels, latentChannels, layersPerBlock, normNumGroups: Int?
    var useQuantConv, usePostQuantConv, midBlockAddAttention: Bool?
    var scalingFactor, shiftFactor: Double?
    var latentMean, latentStd, latentsMean, latentsStd: [Double]?
    var actFn: String?
    var downBlockTypes, upBlockTypes: [String]?
  }

  /// Makes a configuration; other values are those of Stable Diffusion.
  package init(blockOutChannels: [Int], layersPerBlock: Int = 2, normNumGroups: Int = 32) {
    self.blockOutChannels = blockOutChannels
    self.layersPerBlock = layersPerBlock
    self.normNumGroups = normNumGroups
    downBlockTypes = blockOutChannels.map { _ in Self.plainDown }
    upBlockTypes = blockOutChannels.map { _ in Self.plainUp }
  }

  private static let plainDown = "DownEncoderBlock2D"
  private static let plainUp = "UpDecoderBlock2D"
  private static let attending = "Attn"

  /// Whether a stage of the encoder or decoder, in the order of its half, has attention.
  func hasAttention(in types: [String], at stage: Int) -> Bool {
    types[stage].hasPrefix(Self.attending)
  }

  /// Pixels per latent position along one axis.
  package var spatialFactor: Int { 1 << (blockOutChannels.count - 1) }

  /// Reads the text of a `config.json`.
  ///
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the key at fault.
  package static func parse(_ json: Data, file: String) throws(FileError) -> Self {
    let source = ConfigFile(path: file, model: "AutoencoderKL")
    let stored: Stored = try source.decode(json)
    try source.require(
      [nil, "silu", "swish"].contains(stored.actFn), "act_fn", stored.actFn ?? "", "silu")
    var config = AutoencoderKLConfig(blockOutChannels: stored.blockOutChannels)
    config.inChannels = stored.inChannels ?? config.inChannels
    config.outChannels = stored.outChannels ?? config.outChannels
    config.latentChannels = stored.latentChannels ?? config.latentChannels
    config.layersPerBlock = stored.layersPerBlock ?? config.layersPerBlock
    config.normNumGroups = stored.normNumGroups ?? config.normNumGroups
    config.useQuantConv = stored.useQuantConv ?? config.useQuantConv
    config.usePostQuantConv = stored.usePostQuantConv ?? config.usePostQuantConv
    config.midBlockAddAttention = stored.midBlockAddAttention ?? config.midBlockAddAttention
    config.downBlockTypes = stored.downBlockTypes ?? config.downBlockTypes
    config.upBlockTypes = stored.upBlockTypes ?? config.upBlockTypes
    config.scalingFactor = stored.scalingFactor ?? config.scalingFactor
    (config.latentMean, config.latentStd) = (stored.latentMean, stored.latentStd)
    try source.require(
      (stored.latentsMean == nil) == (stored.latentsStd == nil), "latents_std",
      stored.latentsStd.map { "\($0)" } ?? "absent", "it together with \"latents_mean\"")
    try source.require(
      stored.latentsMean == nil || stored.shiftFactor ?? 0 == 0, "shift_factor",
      stored.shiftFactor ?? 0, "none beside \"latents_mean\"")
    config.takeScaling(of: stored)
    try config.validate(file: file)
    return config
  }

  /// Converts the scaling of diffusers, which divides latents by the scaling factor, multiplies by
  /// `latents_std` and adds `latents_mean` or `shift_factor` before decoding.
  private mutating func takeScaling(of stored: Stored) {
    guard latentMean == nil,
      stored.latentsMean != nil || stored.latentsStd != nil || stored.shiftFactor ?? 0 != 0
    else { return }
    latentMean =
      stored.latentsMean
      ?? Array(repeating: stored.shiftFactor ?? 0, count: max(0, latentChannels))
    latentStd = (stored.latentsStd ?? Array(repeating: 1, count: max(0, latentChannels)))
      .map { $0 / scalingFactor }
    scalingFactor = 1
  }

  /// Folds mean and standard deviation per channel into the pointwise convolutions and removes
  /// them.
  ///
  /// The encoder's convolution then outputs (x - mean) / deviation, which the decoder's convolution
  /// reads unscaled.
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
    var encoder = try convolution("quant_conv", 2 * count, exists: useQuantConv)
    var decoder = try convolution("post_quant_conv", count, exists: usePostQuantConv)
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
    (useQuantConv, usePostQuantConv) = (true, true)
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
  /// - Throws: `FileError` that names the key at fault.
  package func validate(file: String) throws(FileError) {
    let source = ConfigFile(path: file, model: "AutoencoderKL")
    let channels = 1...65536
    try source.require(
      (1...8).contains(blockOutChannels.count) && blockOutChannels.allSatisfy(channels.contains),
      "block_out_channels", blockOutChannels, "1 to 8 positive channel counts")
    try source.require(
      channels.contains(inChannels), "in_channels", inChannels, "a positive number")
    try source.require(
      channels.contains(outChannels), "out_channels", outChannels, "a positive number")
    try source.require(
      channels.contains(latentChannels), "latent_channels", latentChannels, "a positive number")
    try source.require(
      (1...64).contains(layersPerBlock), "layers_per_block", layersPerBlock, "1 to 64")
    try source.require(
      normNumGroups > 0 && blockOutChannels.allSatisfy { $0 % normNumGroups == 0 },
      "norm_num_groups", normNumGroups, "a divisor of every entry of \(blockOutChannels)")
    for (key, types, plain) in [
      ("down_block_types", downBlockTypes, Self.plainDown),
      ("up_block_types", upBlockTypes, Self.plainUp),
    ] {
      try source.require(
        types.count == blockOutChannels.count
          && types.allSatisfy { [plain, Self.attending + plain].contains($0) }, key, types,
        "\(plain) or \(Self.attending)\(plain) for each of \(blockOutChannels.count) stages")
    }
    try source.require(
      (1e-6...1e6).contains(scalingFactor), "scaling_factor", scalingFactor, "0.000001 to 1000000")
    let mean = latentMean ?? []
    let deviation = latentStd ?? []
    try source.require(
      (latentMean == nil) == (latentStd == nil), "latent_std", deviation,
      "it together with \"latent_mean\"")
    try source.require(
      latentMean == nil || mean.count == latentChannels, "latent_mean", mean,
      "\(latentChannels) numbers")
    try source.require(
      latentStd == nil
        || (deviation.count == latentChannels && deviation.allSatisfy { $0.isFinite && $0 > 0 }),
      "latent_std", deviation, "\(latentChannels) positive numbers")
  }

  /// Finds the configuration of an open weight file.
  ///
  /// It is stated, or inferred from the shapes of the weights, which do not determine the number of
  /// groups (then 32) and the scaling factor (then that of Stable Diffusion).
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` for an invalid configuration.
  package static func find(for file: any TensorFile) throws(FileError) -> Self {
    if let config = try stated(for: file) { return config }
    return try inferred(from: file)
  }

  /// Reads the configuration stated for an open weight file: the `config` entry of its metadata, or
  /// a `config.json` in the same folder unless its class is another one.
  ///
  /// - Returns: A valid configuration; nil if there is none.
  /// - Throws: `FileError` for an invalid configuration.
  package static func stated(for file: any TensorFile) throws(FileError) -> Self? {
    if let text = file.metadata["config"] {
      return try parse(Data(text.utf8), file: file.path)
    }
    let sibling = "\(AtomicFile.directory(of: file.path))/config.json"
    guard let json = try? Data(contentsOf: URL(filePath: sibling)) else { return nil }
    let object = try? JSONSerialization.jsonObject(with: json) as? [String: Any]
    if let owner = object?["_class_name"] as? String, owner != "AutoencoderKL" { return nil }
    return try parse(json, file: sibling)
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
          + " check that the file holds an AutoencoderKL in the naming of diffusers or latent-diffusion"
      )
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
    config.useQuantConv = file.entry("\(prefix)quant_conv.weight") != nil
    config.usePostQuantConv = file.entry("\(prefix)post_quant_conv.weight") != nil
    config.midBlockAddAttention =
      file.entry("\(prefix)decoder.mid_block.attentions.0.group_norm.weight") != nil
    for stage in channels.indices {
      func attends(_ half: String) -> Bool {
        file.entry("\(prefix)\(half)_blocks.\(stage).attentions.0.group_norm.weight") != nil
      }
      if attends("encoder.down") { config.downBlockTypes[stage] = attending + plainDown }
      if attends("decoder.up") { config.upBlockTypes[stage] = attending + plainUp }
    }
    config.inChannels = try shape("encoder.conv_in.weight")[1]
    config.latentChannels = try shape("decoder.conv_in.weight")[1]
    config.outChannels = try shape("decoder.conv_out.weight")[0]
    try config.validate(file: file.path)
    return config
  }
}
