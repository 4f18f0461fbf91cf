import Files
import Foundation
import Models
import Nn
import TensorCore

/// Autoencoder with current and early parameter names (`vae_tiny`).
enum AutoencoderCases {
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try config(fixture)
    let parameters = try fixture.parameters()
    let model = try AutoencoderKL(
      config: config, weights: DictionaryWeights(parameters, origin: fixture.path),
      precision: check.convolutionPrecision)
    let images = try fixture.tensor("in.x", shape: [-1, config.inChannels, -1, -1])
    let factor = config.spatialFactor
    guard images.shape[2] % factor == 0, images.shape[3] % factor == 0 else {
      throw FileError(
        "\(fixture.path): tensor 'in.x' has shape \(images.shape), expected sides that are"
          + " multiples of \(factor); the file is damaged, copy it again")
    }
    let latents = try fixture.tensor("in.z", shape: [-1, config.latentChannels, -1, -1])
    try check.forward("out.encoder", model.encoderFeatures(images))
    let posterior = model.encode(images)
    try check.forward("out.mean", posterior.mean)
    try check.forward("out.logvar", posterior.logVariance)
    try check.forward("out.moments", moments(posterior))
    try check.forward("out.decode", model.decode(latents))

    let early = try AutoencoderKL(
      config: config,
      weights: DictionaryWeights(
        try earlyNames(parameters, fixture.settings), origin: fixture.path),
      precision: check.convolutionPrecision)
    try check.forward("out.decode", early.decode(latents), remark: "early attention names")
    try check.forward(
      "out.encoder", early.encoderFeatures(images), remark: "early attention names")
  }

  private static func config(_ fixture: Fixture) throws -> AutoencoderKLConfig {
    let vae = try fixture.settings.table("vae")
    var config = AutoencoderKLConfig(
      blockOutChannels: try vae.integers("block_out_channels"),
      layersPerBlock: try vae.integer("layers_per_block"),
      normNumGroups: try vae.integer("norm_num_groups"))
    config.inChannels = try vae.integer("in_channels")
    config.outChannels = try vae.integer("out_channels")
    config.latentChannels = try vae.integer("latent_channels")
    config.scalingFactor = try fixture.settings.number("scaling_factor", default: 0.18215)
    try config.validate(file: fixture.path)
    return config
  }

  /// Means and log variances in the layout of the encoder's output (batch, 2C, h, w).
  private static func moments(_ posterior: AutoencoderKL.Posterior) -> Tensor {
    let shape = posterior.mean.shape
    let result = Tensor([shape[0], 2 * shape[1], shape[2], shape[3]])
    let halves = result.reshaped([2 * shape[0], shape[1] * shape[2] * shape[3]])
    for row in 0..<shape[0] {
      halves.rows((2 * row)..<(2 * row + 1)).assign(posterior.mean.rows(row..<(row + 1)))
      halves.rows((2 * row + 1)..<(2 * row + 2))
        .assign(posterior.logVariance.rows(row..<(row + 1)))
    }
    return result
  }

  /// Renames the parameters of the attention layers to those of early diffusers releases.
  private static func earlyNames(_ parameters: [String: Tensor], _ settings: Settings) throws
    -> [String: Tensor]
  {
    let names = try settings.table("old_attention_names")
    var result: [String: Tensor] = [:]
    for (key, tensor) in parameters {
      var name = key
      for present in names.keys where key.contains(".attentions.") {
        name = name.replacing(".\(present).", with: ".\(try names.text(present)).")
      }
      result[name] = tensor
    }
    return result
  }
}
