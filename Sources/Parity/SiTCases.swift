import Autograd
import Files
import Foundation
import Models
import Nn
import Plans
import Sampling
import TensorCore

/// Velocity models of SiT (`sit`).
enum SiTCases {
  private static func config(_ fixture: Fixture) throws -> ModelShape {
    let table = try fixture.settings.table("sit")
    let config = ModelShape(
      family: .sit, depth: try table.integer("depth"), hiddenSize: try table.integer("hidden_size"),
      numHeads: try table.integer("num_heads"), patchSize: try table.integer("patch_size"),
      inputSize: try table.integer("input_size"), inChannels: try table.integer("in_channels"),
      numClasses: try table.integer("num_classes"), learnSigma: try table.flag("learn_sigma"))
    try config.validate(file: fixture.path)
    return config
  }

  private static func times(_ fixture: Fixture, _ name: String, rows: Int) throws -> [Float] {
    try fixture.tensor(name, shape: [rows]).values
  }

  /// Velocity, guidance, training terms and gradients.
  static func model(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try config(fixture)
    let model = try DiT(config: config, weights: try fixture.weights())
    try check.requireNames(model.parameters)
    check.round(model.parameters)
    let x = try DiTCases.latents(fixture, "in.x", config)
    let labels = try fixture.integers("in.y", in: 0..<(config.numClasses + 1))
    let inputs = Conditioning(
      timesteps: try times(fixture, "in.t", rows: x.shape[0]), labels: labels)
    try check.forward(
      "out.velocity", model.predict(x, inputs).leadingChannels(config.inChannels))
    try files(check, x, inputs)

    let guidedLatents = try DiTCases.latents(fixture, "in.cfg.x", config)
    let guidedLabels = try fixture.integers("in.cfg.y", in: 0..<(config.numClasses + 1))
    let scale = Float(try fixture.settings.number("cfg_scale"))
    let guided = Guidance.guided(
      { latents, timesteps in
        model.predict(latents, Conditioning(timesteps: timesteps, labels: guidedLabels))
      }, channels: try fixture.settings.integer("guided_channels")
    ) { _ in scale }
    try check.forward(
      "out.cfg",
      try guided(guidedLatents, try times(fixture, "in.cfg.t", rows: guidedLatents.shape[0]))
        .leadingChannels(config.inChannels))
    try training(check, model)
  }

  /// Files of the model beside the fixture: as published it gives the same velocity; the checkpoint of its training,
  /// one optimizer step of 1e-4 later, gives nearly the same.
  private static func files(_ check: ParityCheck, _ x: Tensor, _ inputs: Conditioning) throws {
    let heads = try config(check.fixture).numHeads
    for (name, entry, tolerance) in [
      ("SiT-tiny.pt", nil, nil), ("train_0000001.pt", "model", 0.05),
    ] as [(String, String?, Double?)] {
      let path = try check.fixture.path(inFolder: name)
      guard FileManager.default.fileExists(atPath: path) else { continue }
      let file = try ModelWeights(path: path, container: entry).model(numHeads: heads)
      guard file.shape.family == .sit else {
        throw FileError("\(path): was taken for a \(file.shape.family.title), expected a SiT")
      }
      let model = try file.network()
      check.round(model.parameters)
      try check.forward(
        "out.velocity", model.predict(x, inputs).leadingChannels(file.shape.inChannels),
        tolerance: tolerance, remark: name)
    }
  }

  private static func training(_ check: ParityCheck, _ model: DiT) throws {
    let (fixture, config) = (check.fixture, model.config)
    let data = try DiTCases.latents(fixture, "in.train.x1", config)
    let noise = try fixture.tensor("in.train.x0", shape: data.shape)
    let rows = data.shape[0]
    let terms = VelocityLoss(
      data: data, noise: noise,
      times: try times(fixture, "in.train.t", rows: rows).map(Double.init),
      path: .linear)
    try check.forward("out.train.x_t", terms.latents)
    try check.forward("out.train.target", terms.target)
    let tape = Tape()
    let output = model(
      Value(constant: terms.latents),
      Conditioning(
        timesteps: try times(fixture, "in.train.t", rows: rows),
        labels: try fixture.integers("in.train.y", in: 0..<(config.numClasses + 1))), on: tape)
    let (losses, cotangent) = terms.losses(output.tensor)
    try check.forward("out.train.loss", losses)
    try check.forward("out.train.loss_mean", [losses.reduce(0, +) / Double(rows)])
    tape.backward(output, cotangent)
    let frozen = try fixture.settings.texts("params_without_grad")
    try check.gradients(of: model.parameters.filter { !frozen.contains($0.name) })
  }

  /// Coefficients of the paths, conversions of the velocity, and diffusion coefficients.
  static func paths(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let times = try fixture.doubles("in.t")
    let (noise, data) = (try fixture.doubles("in.x0"), try fixture.doubles("in.x1"))
    let width = noise.count / max(1, times.count)
    guard noise.count == width * times.count, data.count == noise.count else {
      throw FileError(
        "\(fixture.path): 'in.x0' and 'in.x1' do not fit 'in.t'; copy the file again")
    }
    let rates = try fixture.settings.table("vp")
    let paths: [String: Interpolant] = [
      "linear": .linear, "gvp": .trigonometric,
      "vp": .variancePreserving(
        lowest: try rates.number("sigma_min"), highest: try rates.number("sigma_max")),
    ]
    for name in try fixture.settings.texts("paths") {
      guard let path = paths[name] else {
        throw FileError("\(fixture.path): the path '\(name)' is unknown; leave the file out")
      }
      let at = times.map { path(at: $0) }
      let each = noise.indices.map { index in (at[index / width], noise[index], data[index]) }
      let x = each.map { $0.alpha * $2 + $0.sigma * $1 }
      let u = each.map { $0.alphaRate * $2 + $0.sigmaRate * $1 }
      for (key, values) in [
        ("alpha", at.map(\.alpha)), ("d_alpha", at.map(\.alphaRate)), ("sigma", at.map(\.sigma)),
        ("d_sigma", at.map(\.sigmaRate)), ("x_t", x), ("u_t", u),
        ("score", each.indices.map { each[$0].0.score(u[$0], at: x[$0]) }),
        ("noise", each.indices.map { each[$0].0.noise(u[$0], at: x[$0]) }),
      ] { try check.forward("out.\(name).\(key)", values) }
    }
    for form in Interpolant.Diffusion.allCases
    where fixture.has("out.linear.diffusion.\(form.rawValue)") {
      try check.forward(
        "out.linear.diffusion.\(form.rawValue)",
        times.map { Interpolant.linear.diffusion(form, at: $0) })
    }
  }

  /// Trajectories of deterministic and stochastic samplers.
  static func sampling(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try config(fixture)
    let model = try DiT(config: config, weights: try fixture.weights())
    let points = try fixture.settings.integer("num_steps", in: 2...1000)
    let last = try fixture.settings.number("last_step_size")
    let scale = Float(try fixture.settings.number("cfg_scale"))
    let tolerance = try fixture.settings.table("tolerance").number("trajectory")
    let runs = try fixture.settings.table("runs")
    for name in runs.keys {
      let run = try runs.table(name)
      let input = try run.text("input")
      let start = try DiTCases.latents(fixture, "in.\(input).z", config)
      let labels = try fixture.integers("in.\(input).y", in: 0..<(config.numClasses + 1))
      let plain: DenoisingModel = { latents, timesteps in
        model.predict(latents, Conditioning(timesteps: timesteps, labels: labels))
      }
      let network = input == "cfg" ? Guidance.guided(plain) { _ in scale } : plain
      let velocities: VelocityModel = { latents, time in
        try network(latents, [Float](repeating: Float(time), count: latents.shape[0]))
          .leadingChannels(config.inChannels)
      }
      guard let order = VelocitySampler.Order(rawValue: try run.text("method")) else {
        throw FileError("\(fixture.path): the method of '\(name)' is unknown; leave the file out")
      }
      var states: [Float] = []
      if try run.text("kind") == "ode" {
        states += start.values
        _ = try VelocitySampler.deterministic(
          from: start, times: VelocitySampler.times(points), order: order, model: velocities,
          onStep: { states += $0.sample.values })
        try check.forward("out.ode.t", VelocitySampler.times(points))
      } else {
        let lastStep =
          run.has("last_step")
          ? VelocitySampler.LastStep(rawValue: try run.text("last_step"))
          : VelocitySampler.LastStep.none
        guard let lastStep, let form = Interpolant.Diffusion(rawValue: try run.text("form")) else {
          throw FileError(
            "\(fixture.path): the sampler of '\(name)' is unknown; leave the file out")
        }
        let noise = try fixture.tensor("in.\(name).noise", shape: [points - 1] + start.shape)
        let end = try VelocitySampler.stochastic(
          from: start, points: points, order: order, diffusion: (form, try run.number("norm")),
          lastStep: lastStep, last: last,
          noise: { noise.rows($0..<($0 + 1)).reshaped(start.shape) }, model: velocities,
          onStep: { states += $0.sample.values })
        if lastStep == .none { states += end.values }
        try check.forward(
          "out.\(name).t", VelocitySampler.times(points, end: lastStep == .none ? 1 : 1 - last))
      }
      try check.forward(
        "out.\(name)", Tensor(states, shape: [states.count / start.count] + start.shape),
        tolerance: tolerance)
    }
  }
}
