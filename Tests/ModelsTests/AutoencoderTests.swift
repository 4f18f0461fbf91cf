import Checkpoints
import Files
import Foundation
import Models
import Nn
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Autoencoder")
struct AutoencoderTests {
  nonisolated private static let golden: String = {
    let folder =
      ProcessInfo.processInfo.environment["ESPALIER_GOLDENS"]
      ?? URL(filePath: #filePath).appending(path: "../../../../shared/goldens").standardized.path
    return folder + "/vae_tiny.safetensors"
  }()
  nonisolated private static var isAvailable: Bool {
    FileManager.default.fileExists(atPath: golden)
  }

  private var tinyConfig: AutoencoderKLConfig {
    AutoencoderKLConfig(blockOutChannels: [8, 16, 16], layersPerBlock: 1, normNumGroups: 4)
  }

  /// Small random weights for any key that is asked for.
  private func randomAutoencoder(_ config: AutoencoderKLConfig) throws -> AutoencoderKL {
    try AutoencoderKL(config: config, weights: RandomWeights())
  }

  private func tensor(_ file: SafetensorsFile, _ name: String) throws -> Tensor {
    let entry = try #require(file.entry(name))
    return Tensor(try file.floats(name), shape: entry.shape)
  }

  private func error(_ found: Tensor, _ expected: Tensor) -> Float {
    guard found.shape == expected.shape else { return .infinity }
    let pairs = zip(found.values, expected.values)
    let difference = pairs.map { $0.isFinite ? abs($0 - $1) : .infinity }.max() ?? .infinity
    return difference / (expected.values.map { abs($0) }.max() ?? 1)
  }

  @Test(.enabled(if: isAvailable, "reference files are absent"))
  func matchesReference() throws {
    let file = try SafetensorsFile(path: Self.golden)
    let model = try AutoencoderKL(
      config: tinyConfig, weights: FileWeights(file, prefix: "param."))
    let images = try tensor(file, "in.x")
    #expect(error(model.encoderFeatures(images), try tensor(file, "out.encoder")) < 1e-5)
    let posterior = model.encode(images)
    #expect(error(posterior.mean, try tensor(file, "out.mean")) < 1e-5)
    #expect(error(posterior.logVariance, try tensor(file, "out.logvar")) < 1e-5)
    let decoded = model.decode(try tensor(file, "in.z"))
    #expect(error(decoded, try tensor(file, "out.decode")) < 1e-5)
  }

  @Test(.enabled(if: isAvailable, "reference files are absent"))
  func configurationIsReadOffTheWeights() throws {
    let file = try SafetensorsFile(path: Self.golden)
    let config = try AutoencoderKLConfig.inferred(from: file, prefix: "param.", normNumGroups: 4)
    #expect(config == tinyConfig)
    #expect(config.spatialFactor == 4)
  }

  /// Writes the reference weights under other names or shapes and gives the path to `body`.
  private func withWeights(
    adding extra: [String] = [],
    _ change: (String, [Int]) -> (name: String, shape: [Int])?, _ body: (String) throws -> Void
  ) throws {
    let file = try SafetensorsFile(path: Self.golden)
    var items = try file.names.filter { $0.hasPrefix("param.") }.compactMap { name in
      let entry = try #require(file.entry(name))
      return try change(String(name.dropFirst(6)), entry.shape).map { changed in
        let floats = try file.floats(name)
        let count = changed.shape.reduce(1, *)
        return SafetensorsWriter.Item(
          name: changed.name, shape: changed.shape,
          floats: (0..<count).map { floats[$0 % floats.count] })
      }
    }
    items += extra.map { SafetensorsWriter.Item(name: $0, shape: [1], floats: [0]) }
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    let path = folder.appending(path: "vae.safetensors").path
    let config = #"{"block_out_channels":[8,16,16],"layers_per_block":1,"norm_num_groups":4}"#
    try SafetensorsWriter.write(items, metadata: ["config": config], to: path)
    try body(path)
  }

  @Test(.enabled(if: isAvailable, "reference files are absent"), arguments: [false, true])
  func legacyAttentionNamesAreRead(asConvolution: Bool) throws {
    let file = try SafetensorsFile(path: Self.golden)
    let latents = try tensor(file, "in.z")
    let names = ["to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"]
    try withWeights { name, shape in
      guard name.contains("attentions"),
        let (new, old) = names.first(where: { name.contains($0.key) })
      else { return (name, shape) }
      return (
        name.replacing(new, with: old), asConvolution && shape.count == 2 ? shape + [1, 1] : shape
      )
    } _: { path in
      let model = try AutoencoderKL(path: path)
      #expect(error(model.decode(latents), try tensor(file, "out.decode")) < 1e-5)
    }
  }

  @Test(
    .enabled(if: isAvailable, "reference files are absent"),
    arguments: [
      ("decoder.mid_block.attentions.0.to_k.weight", "missing"),
      ("encoder.conv_in.weight", "shape"), ("quant_conv.bias", "renamed"),
    ])
  func misfitsAreNamed(key: String, fault: String) throws {
    try withWeights { name, shape in
      guard name == key else { return (name, shape) }
      switch fault {
      case "missing": return nil
      case "shape": return (name, [7] + shape.dropFirst())
      default: return (name + ".ema", shape)
      }
    } _: { path in
      let error = #expect(throws: FileError.self) { try AutoencoderKL(path: path) }
      #expect(error?.message.contains(path) == true && error?.message.contains(key) == true)
    }
  }

  @Test(.enabled(if: isAvailable, "reference files are absent"))
  func leftOverKeysAreRefused() throws {
    try withWeights(adding: ["decoder.up_blocks.3.surplus"]) { name, shape in
      (name, shape)
    } _: { path in
      let error = #expect(throws: FileError.self) { try AutoencoderKL(path: path) }
      #expect(error?.message.contains(path) == true)
      #expect(error?.message.contains("decoder.up_blocks.3.surplus") == true)
    }
  }

  @Test(arguments: [
    (#"{"layers_per_block": 2}"#, "block_out_channels"),
    (#"{"block_out_channels": "128"}"#, "block_out_channels"),
    (#"{"block_out_channels": [12], "norm_num_groups": 8}"#, "norm_num_groups"),
    (#"{"block_out_channels": [32], "latent_mean": [0, 0, 0, 0]}"#, "latent_std"),
    (#"{"block_out_channels": [32], "latent_mean": [0], "latent_std": [1]}"#, "latent_mean"),
    (#"{"block_out_channels": [32], "scaling_factor": 0}"#, "scaling_factor"),
    (#"{"block_out_channels": [32], "scaling_factor": 1e-300}"#, "scaling_factor"),
    (
      #"{"block_out_channels": [32], "scaling_factor": 1, "scaling_factor": 2}"#,
      "has the key 'scaling_factor' twice"
    ),
    (#"{"block_out_channels": []}"#, "block_out_channels"), ("[]", "JSON object"),
  ])
  func badConfigurationsAreRefused(text: String, reason: String) {
    let error = #expect(throws: FileError.self) {
      try AutoencoderKLConfig.parse(Data(text.utf8), file: "vae/config.json")
    }
    #expect(error?.message.contains("vae/config.json") == true)
    #expect(error?.message.contains(reason) == true)
  }

  @Test(arguments: [
    (#"{"block_out_channels": [32], "act_fn": "relu"}"#, "act_fn"),
    (#"{"block_out_channels": [32], "down_block_types": ["DownBlock2D"]}"#, "DownBlock2D"),
    (#"{"block_out_channels": [32], "up_block_types": []}"#, "up_block_types"),
    (
      #"{"block_out_channels": [32], "latents_mean": [0, 0], "latents_std": [1, 1]}"#, "latent_mean"
    ), (#"{"block_out_channels": [32], "latents_mean": [0, 0, 0, 0]}"#, "latents_std"),
    (#"{"block_out_channels": [32], "latents_std": [1, 1, 1, 1]}"#, "latents_std"),
    (
      #"{"block_out_channels": [32], "latents_mean": [0, 0, 0, 0], "latents_std": [1, 1, 1, 1], "shift_factor": 0.1}"#,
      "shift_factor"
    ),
    (#"{"block_out_channels": [32], "use_quant_conv": 3}"#, "use_quant_conv"),
  ])
  func whatCannotBeBuiltIsNamed(text: String, reason: String) {
    badConfigurationsAreRefused(text: text, reason: reason)
  }

  /// A file of latent-diffusion, as VA-VAE and MAR publish them, below a training's entry with what it trained
  /// beside the autoencoder: the same network as under the names of diffusers, with attention in the last stage.
  @Test func namesOfLatentDiffusion() throws {
    var config = AutoencoderKLConfig(blockOutChannels: [32, 64], layersPerBlock: 1)
    (config.downBlockTypes[1], config.upBlockTypes[0]) = (
      "AttnDownEncoderBlock2D", "AttnUpDecoderBlock2D"
    )
    let recorder = Recorder()
    let model = try AutoencoderKL(config: config, weights: recorder)
    let plain = try randomAutoencoder(
      AutoencoderKLConfig(blockOutChannels: [32, 64], layersPerBlock: 1))
    let names = [
      (#/mid_block\.resnets\.0/#, "mid.block_1"), (#/mid_block\.resnets\.1/#, "mid.block_2"),
      (#/mid_block\.attentions\.0/#, "mid.attn_1"), (#/conv_norm_out/#, "norm_out"),
      (#/down_blocks/#, "down"), (#/up_blocks\.0/#, "up.one"), (#/up_blocks\.1/#, "up.0"),
      (#/up\.one/#, "up.1"), (#/resnets/#, "block"), (#/attentions/#, "attn"),
      (#/downsamplers\.0/#, "downsample"), (#/upsamplers\.0/#, "upsample"),
      (#/conv_shortcut/#, "nin_shortcut"), (#/group_norm/#, "norm"), (#/to_q/#, "q"),
      (#/to_k/#, "k"), (#/to_v/#, "v"), (#/to_out\.0/#, "proj_out"),
    ]
    var items = recorder.tensors.map { name, value in
      let own = names.reduce(name) { $0.replacing($1.0, with: $1.1) }
      // Its attention is made of 1x1 convolutions.
      let isLinear = own.contains("attn") && value.shape.count == 2
      return TensorItem(
        name: own, shape: value.shape + (isLinear ? [1, 1] : []), floats: value.values)
    }
    for name in ["encoder.down.1.attn.0.q.weight", "decoder.up.0.block.0.nin_shortcut.bias"] {
      #expect(items.contains { $0.name == name }, "\(name)")
    }
    items += ["loss.logvar", "foundation_model.model.norm.weight"].map {
      TensorItem(name: $0, shape: [1], floats: [0])
    }
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try TorchWriter.write(items, entry: "state_dict", to: "\(folder)/autoencoder.ckpt")
    var random = RandomSequence(seed: 4)
    let (images, latents) = (random.normal([1, 3, 8, 12]), random.normal([1, 4, 4, 6]))
    let opened = try AutoencoderKL(path: "\(folder)/autoencoder.ckpt")
    #expect(opened.config == config)
    #expect(opened.encode(images).mean.values == model.encode(images).mean.values)
    #expect(opened.decode(latents).values == model.decode(latents).values)
    #expect(plain.decode(latents).values != model.decode(latents).values)

    // Diffusers gets its own names, linear layers and kinds of stages.
    _ = try ModelWriter.writeAutoencoder("\(folder)/autoencoder.ckpt", to: "\(folder)/vae")
    let exported = try AutoencoderKL(path: "\(folder)/vae")
    #expect(exported.config == config)
    #expect(exported.decode(latents).values == model.decode(latents).values)
    let file = try AutoencoderKL.file(of: "\(folder)/vae")
    #expect(file.entry("decoder.up_blocks.0.attentions.1.to_out.0.weight")?.shape == [64, 64])
  }

  /// diffusers multiplies by `latents_std` and adds `latents_mean`, or adds `shift_factor`.
  @Test func latentStatisticsOfDiffusers() throws {
    let text = #"{"block_out_channels": [32], "latent_channels": 2, "scaling_factor": 0.5, "#
    let config = try AutoencoderKLConfig.parse(
      Data((text + #""latents_mean": [1, -1], "latents_std": [2, 4]}"#).utf8), file: "c.json")
    #expect(config.latentMean == [1, -1] && config.latentStd == [4, 8])
    let shifted = try AutoencoderKLConfig.parse(
      Data((text + #""shift_factor": 0.25}"#).utf8), file: "c.json")
    #expect(shifted.latentMean == [0.25, 0.25] && shifted.latentStd == [2, 2])
  }

  /// Parts that a configuration leaves out are left out.
  @Test func partsMayBeAbsent() throws {
    var config = tinyConfig
    (config.useQuantConv, config.usePostQuantConv, config.midBlockAddAttention) = (
      false, false, false
    )
    final class Names: WeightSource {
      var taken: [String] = []
      func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
        taken.append(name)
        return RandomWeights().tensor(name, shape, initializer)
      }
    }
    let names = Names()
    let model = try AutoencoderKL(config: config, weights: names)
    #expect(!names.taken.contains { $0.contains("quant_conv") || $0.contains("attentions") })
    var random = RandomSequence(seed: 4)
    let images = random.normal([1, 3, 8, 8])
    #expect(
      model.encode(images).mean.values.prefix(4) == model.encoderFeatures(images).values.prefix(4))
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    let read = try AutoencoderKLConfig.parse(encoder.encode(config), file: "c.json")
    #expect(read == config)
  }

  /// A mean and a deviation per channel go into the convolutions at the latents, so that programs that
  /// know a scaling factor alone decode and encode alike.
  @Test(arguments: [true, false])
  func statisticsAreFoldedIntoTheExport(hasConvolutions: Bool) throws {
    var config = tinyConfig
    (config.useQuantConv, config.usePostQuantConv) = (hasConvolutions, hasConvolutions)
    (config.latentMean, config.latentStd) = ([1, -2, 0.5, 3], [2, 0.25, 4, 1])
    let recorder = Recorder()
    let model = try AutoencoderKL(config: config, weights: recorder)
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = "\(folder)/autoencoder.safetensors"
    let json = String(decoding: try JSONEncoder().encode(config), as: UTF8.self)
    try SafetensorsWriter.write(recorder.items, metadata: ["config": json], to: path)
    _ = try ModelWriter.writeAutoencoder(path, to: "\(folder)/vae")
    let exported = try AutoencoderKL(path: "\(folder)/vae")
    #expect(exported.config.latentMean == nil && exported.config.scalingFactor == 1)
    var random = RandomSequence(seed: 4)
    let latents = random.normal([2, 4, 3, 5])
    #expect(error(exported.decode(latents), model.decode(model.unscaled(latents))) < 1e-5)
    let images = random.normal([2, 3, 12, 20])
    let (own, other) = (model.encode(images), exported.encode(images))
    #expect(error(other.mean, model.scaled(own.mean)) < 1e-5)
    let noise = random.normal([2, 4, 3, 5])
    #expect(error(other.sample(noise: noise), model.scaled(own.sample(noise: noise))) < 1e-5)
  }

  @Test func configurationDefaultsAreStableDiffusion() throws {
    let text = #"{"_class_name": "AutoencoderKL", "block_out_channels": [128, 256, 512, 512]}"#
    let config = try AutoencoderKLConfig.parse(Data(text.utf8), file: "config.json")
    #expect(config.normNumGroups == 32 && config.layersPerBlock == 2 && config.latentChannels == 4)
    #expect(config.scalingFactor == 0.18215 && config.spatialFactor == 8)
  }

  @Test func rowsOfABatchAreIndependent() throws {
    let model = try randomAutoencoder(tinyConfig)
    var random = RandomSequence(seed: 4)
    let images = random.normal([5, 3, 12, 20])
    let latents = model.encode(images).mean
    let decoded = model.decode(latents)
    #expect(latents.shape == [5, 4, 3, 5] && decoded.shape == images.shape)
    for row in [0, 4] {
      let alone = model.encode(images.rows(row..<(row + 1))).mean
      #expect(error(alone, latents.rows(row..<(row + 1))) < 1e-6)
      #expect(error(model.decode(alone), decoded.rows(row..<(row + 1))) < 1e-5)
    }
  }

  @Test func scalingIsInvertible() throws {
    var config = tinyConfig
    config.latentMean = [0.5, -1, 0, 2]
    config.latentStd = [2, 0.5, 1, 3]
    let latents = Tensor([Float](repeating: 1, count: 8), shape: [1, 4, 1, 2])
    let scaled = try randomAutoencoder(config).scaled(latents)
    let expected: [Float] = [0.25, 0.25, 4, 4, 1, 1, -1 / 3, -1 / 3]
    #expect(error(scaled, Tensor(expected, shape: [1, 4, 1, 2])) < 1e-6)
    #expect(error(try randomAutoencoder(config).unscaled(scaled), latents) < 1e-6)
    #expect(try randomAutoencoder(tinyConfig).scaled(latents)[0] == Float(0.18215))
  }

  @Test func posteriorSamples() {
    let posterior = AutoencoderKL.Posterior(
      mean: Tensor([1, 2], shape: [1, 1, 1, 2]),
      logVariance: Tensor([0, 2 * log(3)], shape: [1, 1, 1, 2]))
    let sample = posterior.sample(noise: Tensor([2, -1], shape: [1, 1, 1, 2])).values
    #expect(abs(sample[0] - 3) < 1e-6 && abs(sample[1] + 1) < 1e-5)
  }
}

/// Draws N(0, 0.3^2) for every key.
struct RandomWeights: WeightSource {
  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
    let random = RandomStream(seed: 9, name)
    return Initializer.normal(0.3).tensor(shape, random)
  }
}

/// Draws weights and keeps them.
private final class Recorder: WeightSource {
  var tensors: [(name: String, value: Tensor)] = []
  var items: [TensorItem] {
    tensors.map { TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values) }
  }

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let tensor = RandomWeights().tensor(name, shape, initializer)
    tensors.append((name, tensor))
    return tensor
  }
}

@MainActor @Suite("Convolution 3x3")
struct Convolution3x3Tests {
  /// The definition, in double precision.
  private func reference(
    _ x: Tensor, _ weight: Tensor, _ bias: Tensor, upsample: Int, stride: Int, pad: Int
  ) -> [Double] {
    let (batch, inputs, height, width) = (x.shape[0], x.shape[1], x.shape[2], x.shape[3])
    let outputs = weight.shape[0]
    let rows = (height * upsample + pad + 1 - 3) / stride + 1
    let columns = (width * upsample + pad + 1 - 3) / stride + 1
    var result: [Double] = []
    for image in 0..<batch {
      for output in 0..<outputs {
        for row in 0..<rows {
          for column in 0..<columns {
            var sum = Double(bias[output])
            for input in 0..<inputs {
              for tap in 0..<9 {
                let y = row * stride + tap / 3 - pad
                let z = column * stride + tap % 3 - pad
                guard y >= 0, z >= 0, y < height * upsample, z < width * upsample else { continue }
                let at = ((image * inputs + input) * height + y / upsample) * width + z / upsample
                sum += Double(x[at]) * Double(weight[(output * inputs + input) * 9 + tap])
              }
            }
            result.append(sum)
          }
        }
      }
    }
    return result
  }

  private static let kinds: [(Convolution3x3.Resampling, Int, Int, Int)] = [
    (.none, 1, 1, 1), (.doubling, 2, 1, 1), (.halving(padsAllSides: false), 1, 2, 0),
    (.halving(padsAllSides: true), 1, 2, 1),
  ]

  @Test(arguments: [
    (3, 5, 7, 9), (4, 4, 8, 16), (2, 6, 1, 3), (5, 9, 33, 26), (1, 1, 2, 2), (8, 7, 20, 26),
    (20, 33, 9, 130), (270, 17, 4, 20), (3, 16, 1, 1),
  ])
  func matchesDefinition(inputs: Int, outputs: Int, height: Int, width: Int) throws {
    var random = RandomSequence(seed: UInt64(inputs * 100 + width))
    let x = random.normal([2, inputs, height, width])
    let weights = RandomWeights()
    let weight = weights.tensor("conv.weight", [outputs, inputs, 3, 3], .zeros)
    let bias = weights.tensor("conv.bias", [outputs], .zeros)
    let tolerance = 2e-5 * max(1, Double(inputs) / 50)
    for (resampling, upsample, stride, pad) in Self.kinds {
      if height == 1 && stride == 2 && pad == 0 { continue }
      let layer = try Convolution3x3(weights, "conv", inputs, outputs, resampling)
      let found = layer(x)
      let expected = reference(x, weight, bias, upsample: upsample, stride: stride, pad: pad)
      #expect(found.count == expected.count)
      let worst = zip(found.values, expected).map { abs(Double($0) - $1) }.max()
      #expect((worst ?? .infinity) < tolerance, "\(resampling)")
      let residual = random.normal(found.shape)
      let clamped = layer(x, plus: residual, clampsNegative: true)
      let wrong = zip(zip(clamped.values, residual.values), expected).filter {
        abs(Double($0.0) - max(0, $1 + Double($0.1))) > tolerance
      }
      #expect(wrong.isEmpty, "\(resampling) with residual")
    }
  }

  /// The values that bfloat16 holds.
  private func rounded(_ x: Tensor) -> Tensor {
    let values = x.values.map { value in
      Float(bitPattern: (value.bitPattern + 0x7fff + (value.bitPattern >> 16 & 1)) & 0xffff_0000)
    }
    return Tensor(values, shape: x.shape)
  }

  /// Weights that bfloat16 holds, and their sums too.
  private struct CoarseWeights: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let floats = RandomWeights().tensor(name, shape, initializer)
      return Tensor(floats.values.map { ($0 * 16).rounded() / 16 }, shape: shape)
    }
  }

  @Test(arguments: [(3, 5, 7, 9), (6, 4, 8, 16), (5, 9, 33, 26), (1, 1, 2, 2), (18, 17, 5, 70)])
  func roundedFactorsGiveTheirExactProducts(inputs: Int, outputs: Int, height: Int, width: Int)
    throws
  {
    var random = RandomSequence(seed: UInt64(inputs * 100 + width))
    let x = random.normal([2, inputs, height, width])
    let weights = CoarseWeights()
    let weight = weights.tensor("conv.weight", [outputs, inputs, 3, 3], .zeros)
    let bias = weights.tensor("conv.bias", [outputs], .zeros)
    for (resampling, upsample, stride, pad) in Self.kinds {
      let layer = try Convolution3x3(
        weights, "conv", inputs, outputs, resampling, PrecisionRule(.bfloat16, smallest: 1))
      let residual = random.normal(layer(x).shape)
      let found = layer(x, plus: residual, clampsNegative: true)
      let expected = reference(
        rounded(x), weight, bias, upsample: upsample, stride: stride, pad: pad)
      let worst = zip(zip(found.values, residual.values), expected)
        .map { abs(Double($0.0) - max(0, $1 + Double($0.1))) }.max()
      #expect((worst ?? .infinity) < 2e-5, "\(resampling)")
    }
  }

  @Test(arguments: [0, 1, 2, 3])
  func normalisationComesBeforeRounding(kind: Int) throws {
    let (inputs, outputs) = (20, 24)
    var random = RandomSequence(seed: 3)
    let x = random.normal([2, inputs, 12, 22])
    let weights = RandomWeights()
    let norm = try GroupNorm(weights, "norm", channels: inputs, groups: 4)
    let resampling = Self.kinds[kind].0
    func convolve(_ precision: PrecisionRule, _ x: Tensor, _ norm: GroupNorm?) throws
      -> [Float]
    {
      try Convolution3x3(weights, "conv", inputs, outputs, resampling, precision)(x, after: norm)
        .values
    }
    let activated = Tensor(norm(x).values.map { $0 / (1 + exp(-$0)) }, shape: x.shape)
    let exact = try convolve(.float32, x, norm)
    let largest = exact.map { abs($0) }.max() ?? 0
    let plain = try convolve(.float32, activated, nil)
    #expect(zip(exact, plain).allSatisfy { abs($0 - $1) < 1e-5 * largest })
    let coarse = try convolve(PrecisionRule(.bfloat16, smallest: 1), x, norm)
    #expect(zip(exact, coarse).allSatisfy { abs($0 - $1) < 1e-2 * largest })
    #expect(exact != coarse)
    // One that is small stays as it is.
    #expect(exact == (try convolve(PrecisionRule(.bfloat16), x, norm)))
  }
}
