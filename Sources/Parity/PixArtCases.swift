import Autograd
import Files
import Models
import Nn
import TensorCore

/// Text-conditional transformer in the naming of diffusers (`pixart_tiny`).
enum PixArtCases {
  static func config(_ fixture: Fixture) throws -> PixArtConfig {
    let table = try fixture.settings.table("pixart")
    let sampleSize = try table.integer("sample_size")
    let heads = try table.integer("num_attention_heads")
    guard try !table.has("use_additional_conditions") || !table.flag("use_additional_conditions")
    else {
      throw FileError(
        "\(fixture.path): config key 'pixart.use_additional_conditions' is true, expected false; this"
          + " build has no size conditions, leave the file out")
    }
    let config = PixArtConfig(
      depth: try table.integer("num_layers"),
      hiddenSize: heads * (try table.integer("attention_head_dim")), numHeads: heads,
      patchSize: try table.integer("patch_size"), sampleSize: sampleSize,
      inChannels: try table.integer("in_channels"),
      learnSigma: try table.integer("out_channels") == 2 * table.integer("in_channels"),
      captionChannels: try table.integer("caption_channels"),
      interpolationScale: try table.number(
        "interpolation_scale",
        default: PixArtConfig.defaultInterpolationScale(sampleSize: sampleSize)),
      normEpsilon: try table.number("norm_eps"))
    try config.validate(fixture.path)
    return config
  }

  /// Compares the forward pass with and without a mask, the embeddings and final layer, and all
  /// gradients.
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try config(fixture)
    let model = try PixArt(
      config: config,
      weights: RenamedWeights(try fixture.weights()) { PixArtKeyMap.keys($0, in: .diffusers) })
    try check.requireNames(model.parameters.flatMap { PixArtKeyMap.keys($0.name, in: .diffusers) })
    check.round(model.parameters)
    let latents = try fixture.tensor("in.latent", shape: [-1, config.inChannels, -1, -1])
    guard latents.shape[2] % config.patchSize == 0, latents.shape[3] % config.patchSize == 0 else {
      throw FileError(
        "\(fixture.path): tensor 'in.latent' has shape \(latents.shape), expected sides that are"
          + " multiples of \(config.patchSize); the file is damaged, copy it again")
    }
    let rows = latents.shape[0]
    let captions = try fixture.tensor("in.caption", shape: [rows, -1, config.captionChannels])
    try fixture.require("in.caption_mask", shape: [rows, captions.shape[1]])
    let mask = Tensor(
      try fixture.integers("in.caption_mask", in: 0..<2).map(Float.init),
      shape: [rows, captions.shape[1]])
    try fixture.require("in.t", shape: [rows])
    let timesteps = try fixture.integers("in.t", in: 0..<1_000_000).map(Float.init)

    var seen: [String: Tensor] = [:]
    let tape = Tape()
    let (x, caption) = (tape.leaf(latents), tape.leaf(captions))
    let output = model(
      x, Conditioning(timesteps: timesteps, caption: caption, mask: mask), on: tape,
      observe: { seen[$0] = $1.tensor })
    try check.forward("out.sample", output.tensor)
    let cotangent = try fixture.tensor("in.cotangent", shape: output.shape)
    try check.forward("out.L", [OperatorCases.inner(output.tensor, cotangent)])
    for (name, module) in [
      ("adaln_mod", "t_block"), ("caption_proj", "y_embedder"), ("pos_embed", "pos_embed"),
      ("t_emb", "t_embedder"),
    ] {
      if let tensor = seen[module] { try check.forward("out.\(name)", tensor) }
    }
    try check.forward(
      "out.sample_nomask",
      model.predict(
        latents, Conditioning(timesteps: timesteps, caption: Value(constant: captions))))

    tape.backward(output, cotangent)
    try check.gradient("in.latent", tape.gradient(of: x) ?? .zeros(latents.shape))
    try check.gradient("in.caption", tape.gradient(of: caption) ?? .zeros(captions.shape))
    for parameter in model.parameters {
      let gradient = parameter.gradient ?? .zeros(parameter.shape)
      let keys = PixArtKeyMap.keys(parameter.name, in: .diffusers)
      let size = gradient.shape[0] / keys.count
      for (index, key) in keys.enumerated() {
        try check.gradient("param.\(key)", gradient.rows((index * size)..<((index + 1) * size)))
      }
    }
  }
}
