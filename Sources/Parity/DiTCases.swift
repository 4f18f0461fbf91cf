import Autograd
import Files
import Models
import Nn
import Operators
import Plans
import Sampling
import TensorCore

/// The diffusion transformer (`dit_tiny`, `dit_hybrid`).
enum DiTCases {
  /// The model's configuration in a fixture.
  static func config(_ fixture: Fixture) throws -> ModelShape {
    let dit = try fixture.settings.table("dit")
    let config = ModelShape(
      depth: try dit.integer("depth"), hiddenSize: try dit.integer("hidden_size"),
      numHeads: try dit.integer("num_heads"), patchSize: try dit.integer("patch_size"),
      inputSize: try dit.integer("input_size"), inChannels: try dit.integer("in_channels"),
      numClasses: try dit.integer("num_classes"), learnSigma: try dit.flag("learn_sigma"),
      mlpRatio: try fixture.settings.number("mlp_ratio", default: 4))
    try config.validate(file: fixture.path)
    return config
  }

  /// Inputs of a model call and the shape of its latents.
  static func conditioning(
    _ fixture: Fixture, timesteps: String, labels: String, rows: Int, config: ModelShape
  ) throws -> Conditioning {
    try fixture.require(timesteps, shape: [rows])
    try fixture.require(labels, shape: [rows])
    return Conditioning(
      timesteps: try fixture.integers(timesteps, in: 0..<1_000_000).map(Float.init),
      labels: try fixture.integers(labels, in: 0..<(config.numClasses + 1)))
  }

  /// Latents of the model's size with any number of rows.
  static func latents(_ fixture: Fixture, _ name: String, _ config: ModelShape) throws -> Tensor {
    try fixture.tensor(
      name, shape: [-1, config.inChannels, config.inputSize, config.inputSize])
  }

  /// `dit_tiny`: forward, guidance, intermediate tensors, tables, training terms, gradients.
  static func model(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try config(fixture)
    let model = try DiT(config: config, weights: try fixture.weights())
    try check.requireNames(model.parameters)
    check.round(model.parameters)
    let x = try latents(fixture, "in.x", config)
    let inputs = try conditioning(
      fixture, timesteps: "in.t", labels: "in.y", rows: x.shape[0], config: config)
    try activations(check, model, x, inputs)
    try guidance(check, model, x)
    try check.forward("out.t_freq", DiT.timestepFeatures(inputs.timesteps))
    try check.forward(
      "out.pos_embed_sincos",
      Tensor(
        config.positionTable(), shape: [1, config.tokens, config.hiddenSize]))
    try training(check, model)
  }

  private static func activations(
    _ check: ParityCheck, _ model: DiT, _ x: Tensor, _ inputs: Conditioning
  ) throws {
    let fixture = check.fixture
    let rows = min(x.shape[0], try fixture.settings.integer("act_rows", in: 1...65536))
    var seen: [String: Tensor] = [:]
    let output = model(
      Value(constant: x), inputs, on: Tape(recording: false), observe: { seen[$0] = $1.tensor },
      observeBlock: { seen.merge(operatorTensors($0, $1)) { $1 } })
    try check.forward("out.eps_sigma", output.tensor)
    for name in fixture.names("out.act.") {
      guard let tensor = seen[String(name.dropFirst(8))] else { continue }
      try check.forward(name, tensor.rows(0..<rows))
    }
    for name in fixture.names("out.attn_map.blocks.") {
      guard let block = Int(name.dropFirst(20)), model.blocks.indices.contains(block),
        let mixer = model.blocks[block].sequenceMixer as? MultiHeadAttention,
        let input = seen["blocks.\(block).attn.in"]
      else { continue }
      try check.forward(name, mixer.attentionMap(input.rows(0..<rows)))
    }
  }

  /// Inputs and outputs of the operators of a block, by the names of the reference.
  private static func operatorTensors(_ block: Int, _ activations: AdaLNBlock.Activations)
    -> [String: Tensor]
  {
    [
      "blocks.\(block).attn.in": activations.attentionInput,
      "blocks.\(block).attn.out": activations.attentionOutput,
      "blocks.\(block).mlp.in": activations.mlpInput,
      "blocks.\(block).mlp.out": activations.mlpOutput,
    ]
  }

  private static func guidance(_ check: ParityCheck, _ model: DiT, _ x: Tensor) throws {
    let fixture = check.fixture
    let inputs = try conditioning(
      fixture, timesteps: "in.cfg.t", labels: "in.cfg.y", rows: x.shape[0], config: model.config)
    guard x.shape[0] % 2 == 0 else {
      throw FileError(
        "\(fixture.path): tensor 'in.x' has \(x.shape[0]) rows, expected an even number for"
          + " guidance; the file is damaged, copy it again")
    }
    let scale = Float(try fixture.settings.number("cfg_scale"))
    let guided = Guidance.guided({ latents, timesteps in
      model.predict(latents, Conditioning(timesteps: timesteps, condition: inputs.condition))
    }) { _ in scale }
    try check.forward("out.cfg", try guided(x, inputs.timesteps))
  }

  private static func training(_ check: ParityCheck, _ model: DiT) throws {
    let fixture = check.fixture
    let count = try fixture.settings.integer("diffusion_steps", in: 1...1_000_000)
    let diffusion = GaussianDiffusion(schedule: .linear(steps: count))
    let batch = try TrainingBatch(fixture, "in.train.", model.config, steps: count)
    let terms = batch.run(model, diffusion, tape: Tape())
    try check.forward("out.train.x_t", terms.latents)
    try check.forward("out.train.mse", terms.mse)
    try check.forward("out.train.vb", terms.vb)
    try check.forward("out.train.loss", terms.loss)
    try check.forward(
      "out.train.loss_mean", [terms.loss.reduce(0, +) / Double(terms.loss.count)])
    try check.gradients(of: model.parameters)
  }

  // MARK: - Hybrids

  /// Replaced operators of the file, or of the files that its parameters come from.
  private static func grafts(_ fixture: Fixture) throws -> [(key: String, settings: Settings)] {
    let sources = try [fixture] + fixture.bases()
    let source = sources.first { $0.settings.has("grafts") } ?? fixture
    let table = try source.settings.table("grafts")
    return try table.keys.map { ($0, try table.table($0)) }
  }

  /// Returns a sentence naming the operators of a hybrid that the registry lacks; nil if none.
  static func hybridRefusal(_ fixture: Fixture) throws -> String? {
    let lacking = try grafts(fixture).map { try $0.settings.text("op") }
      .filter { OperatorCases.missing($0) != nil }
    if lacking.isEmpty { return nil }
    return "the hybrid needs operator \(Set(lacking).sorted().joined(separator: ", "))"
  }

  /// `dit_hybrid`: output and gradients of a model with replaced operators, and the activations of
  /// these.
  static func hybrid(_ check: ParityCheck) throws {
    let model = try hybridModel(check)
    try hybridGradients(check, model)
  }

  /// Builds the model of a hybrid with its parameters.
  static func hybridModel(_ check: ParityCheck) throws -> DiT {
    let fixture = check.fixture
    let config = try config(fixture)
    var edits: [SlotID: OperatorSpec] = [:]
    for (key, settings) in try grafts(fixture) {
      guard let id = config.slots.first(where: { $0.checkpointPrefix == key + "." }) else {
        throw FileError(
          "\(fixture.path): config key 'grafts.\(key)' names no slot, expected blocks.N.attn or"
            + " blocks.N.mlp; the file is damaged, copy it again")
      }
      edits[id] = try OperatorCases.spec(settings, in: fixture, shape: config).0
    }
    let model = try DiT(config: config, edits: edits, weights: try fixture.weights())
    try check.requireNames(model.parameters)
    check.round(model.parameters)
    return model
  }

  private static func hybridGradients(_ check: ParityCheck, _ model: DiT) throws {
    let fixture = check.fixture
    let x = try latents(fixture, "in.x", model.config)
    let inputs = try conditioning(
      fixture, timesteps: "in.t", labels: "in.y", rows: x.shape[0], config: model.config)
    let tape = Tape()
    let leaf = tape.leaf(x)
    var seen: [String: Tensor] = [:]
    let output = model(
      leaf, inputs, on: tape,
      observeBlock: { seen.merge(operatorTensors($0, $1)) { $1 } })
    try check.forward("out.eps_sigma", output.tensor)
    for name in fixture.names("out.act.") {
      if let tensor = seen[String(name.dropFirst(8))] { try check.forward(name, tensor) }
    }
    let cotangent = try fixture.tensor("in.cotangent", shape: output.shape)
    try check.forward("out.L", [OperatorCases.inner(output.tensor, cotangent)])
    tape.backward(output, cotangent)
    try check.gradient("in.x", tape.gradient(of: leaf) ?? .zeros(x.shape))
    try check.gradients(of: model.parameters)
  }
}
