import Files
import Models
import Plans
import Nn
import TensorCore

/// DiT weights in the naming of diffusers, under its conventions and the official ones
/// (`dit_diffusers`).
enum DiffusersCases {
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let settings = fixture.settings
    let official = try DiTCases.config(fixture)
    try requireSameShape(fixture, official)
    var config = official
    config.frequencyShift = try settings.integer("diffusers_downscale_freq_shift", in: 0...1)
    config.mlpNormEpsilon = try settings.number("diffusers_norm3_eps")
    let weights = DiTKeyMap.renamed(try fixture.weights())
    let model = try DiT(config: config, weights: weights)
    for parameter in model.parameters {
      try check.forward("renamed.\(parameter.name)", parameter.value, tolerance: 1e-6)
    }
    let x = try DiTCases.latents(fixture, "in.latent", config)
    let inputs = try DiTCases.conditioning(
      fixture, timesteps: "in.t", labels: "in.y", rows: x.shape[0], config: config)
    try check.forward("out.sample", model.predict(x, inputs))

    let renamed = Dictionary(
      uniqueKeysWithValues: try fixture.names("renamed.").map { name in
        (String(name.dropFirst(8)), try fixture.tensor(name, shape: try fixture.shape(name)))
      })
    let reference = try DiT(
      config: official, weights: DictionaryWeights(renamed, origin: fixture.path))
    try check.requireSameNames(renamed.keys, reference.parameters.map(\.name))
    try check.forward("out.official", reference.predict(x, inputs))

    let shiftless = "out.sample_eps1e-5_shift0"
    if fixture.has(shiftless) {
      config.frequencyShift = 0
      let middle = try DiT(config: config, weights: weights)
      try check.forward(shiftless, middle.predict(x, inputs))
    }
  }

  /// Throws if the two configurations of a fixture describe different models.
  private static func requireSameShape(_ fixture: Fixture, _ config: ModelShape) throws {
    let table = try fixture.settings.table("diffusers")
    let heads = try table.integer("num_attention_heads")
    let found = [
      try table.integer("num_layers"), heads * (try table.integer("attention_head_dim")), heads,
      try table.integer("patch_size"), try table.integer("sample_size"),
      try table.integer("num_embeds_ada_norm"),
    ]
    let expected = [
      config.depth, config.hiddenSize, config.numHeads, config.patchSize, config.inputSize,
      config.numClasses,
    ]
    guard found == expected else {
      throw FileError(
        "\(fixture.path): config keys 'diffusers' and 'dit' describe different models; the file is"
          + " damaged, copy it again")
    }
  }
}
