import Files
import Models
import Plans
import Sampling
import TensorCore

/// The sampling loops with stored noise (`diffusion_psample`, `diffusion_ddim`).
///
/// Each run is done twice: with the engine's sinusoidal embeddings, and with the stored ones, for
/// which the samples have a tighter tolerance. Predicted starts scale noise predictions by up to
/// 157, so one float32 rounding error exceeds that tolerance; they keep the wider one.
enum SamplerCases {
  /// Ancestral sampling.
  static func ancestral(_ check: ParityCheck) throws {
    try run(check) { diffusion, run, noise, model, onStep in
      _ = try diffusion.ancestralSamples(
        from: run.start, clipsStart: run.clipsStart, noise: noise, model: model, onStep: onStep)
    }
  }

  /// DDIM with the file's eta.
  static func ddim(_ check: ParityCheck) throws {
    let eta = try check.fixture.settings.number("eta")
    try run(check) { diffusion, run, noise, model, onStep in
      _ = try diffusion.ddimSamples(
        from: run.start, eta: eta, clipsStart: run.clipsStart, noise: noise, model: model,
        onStep: onStep)
    }
  }

  private typealias Loop = (
    GaussianDiffusion, Run, _ noise: StepNoise, _ model: DenoisingModel,
    _ onStep: (SamplerStep) throws -> Void
  ) throws -> Void

  /// One run of a fixture: plain or guided, with or without clipping of predicted starts.
  private struct Run {
    let name: String
    let isGuided, clipsStart: Bool
    let start: Tensor
    let labels: [Int]

    init(_ name: String, _ fixture: Fixture, _ config: ModelShape) throws {
      let description = try fixture.settings.table("runs").text(name)
      self.name = name
      isGuided = description.contains("forward_with_cfg")
      clipsStart = description.contains("clip_denoised=True")
      start = try DiTCases.latents(fixture, "in.\(name).x_T", config)
      let own = "in.y_\(name)"
      let key = fixture.has(own) ? own : "in.y"
      try fixture.require(key, shape: [start.shape[0]])
      labels = try fixture.integers(key, in: 0..<(config.numClasses + 1))
      guard config.learnSigma, !isGuided || start.shape[0] % 2 == 0 else {
        throw FileError(
          "\(fixture.path): run '\(name)' has \(start.shape[0]) rows and dit.learn_sigma"
            + " \(config.learnSigma), expected learned variances and an even batch for guidance;"
            + " the file is damaged, copy it again")
      }
    }
  }

  private static func run(_ check: ParityCheck, _ loop: Loop) throws {
    let fixture = check.fixture
    let settings = fixture.settings
    let config = try DiTCases.config(fixture)
    let model = try DiT(config: config, weights: try fixture.weights())
    let diffusion = try GaussianDiffusion(spacing: try settings.text("respacing"))
    let count = diffusion.schedule.count
    try check.exact("out.timestep_map", diffusion.schedule.timesteps)
    let executed = Array((0..<count).reversed())
    try check.forward(
      "out.t_freq", DiT.timestepFeatures(diffusion.modelTimesteps(executed)))
    let stored = try fixture.tensor("out.t_freq", shape: [count, 256])
    let tolerance = try settings.table("tolerance")
    for name in try settings.table("runs").keys {
      let run = try Run(name, fixture, config)
      let own = try trajectory(run, fixture, model, diffusion, features: nil, loop)
      try check.forward(
        "out.\(name).samples", own.samples, tolerance: try tolerance.number("samples"))
      let wide = try tolerance.number("pred_xstart")
      try check.forward("out.\(name).pred_xstart", own.starts, tolerance: wide)
      let exact = try trajectory(run, fixture, model, diffusion, features: stored, loop)
      let narrow = try tolerance.number("with_stored_t_freq")
      let remark = "stored sinusoids"
      try check.forward(
        "out.\(name).samples", exact.samples, tolerance: narrow, remark: remark)
      try check.forward(
        "out.\(name).pred_xstart", exact.starts, tolerance: wide, remark: remark)
    }
  }

  /// Runs a loop and stacks the tensors of all steps, each (steps, batch, C, H, W).
  private static func trajectory(
    _ run: Run, _ fixture: Fixture, _ model: DiT, _ diffusion: GaussianDiffusion, features: Tensor?,
    _ loop: Loop
  ) throws -> (samples: Tensor, starts: Tensor) {
    let count = diffusion.schedule.count
    let shape = [count] + run.start.shape
    let (samples, starts) = (Tensor(shape), Tensor(shape))
    var position = 0
    let plain: DenoisingModel = { latents, timesteps in
      let sinusoids = features.map { table in
        let rows = Tensor([timesteps.count, table.shape[1]])
        for row in 0..<timesteps.count {
          rows.rows(row..<(row + 1)).assign(table.rows(position..<(position + 1)))
        }
        return rows
      }
      return model.predict(
        latents,
        Conditioning(timesteps: timesteps, labels: run.labels, timestepFeatures: sinusoids))
    }
    let scale = Float(try fixture.settings.number("cfg_scale"))
    let network = run.isGuided ? Guidance.guided(plain) { _ in scale } : plain
    let noiseName = "in.\(run.name).noise"
    let noise = fixture.has(noiseName) ? try fixture.tensor(noiseName, shape: shape) : nil
    try loop(
      diffusion, run,
      { step, _ in
        guard let noise else {
          throw FileError(
            "\(fixture.path): has no tensor '\(noiseName)', but the sampler needs noise; the file"
              + " is damaged, copy it again")
        }
        return noise.rows(step..<(step + 1)).reshaped(run.start.shape)
      }, network,
      { step in
        samples.rows(step.position..<(step.position + 1)).assign(step.sample)
        starts.rows(step.position..<(step.position + 1)).assign(step.predictedStart)
        position = step.position + 1
      })
    return (samples, starts)
  }
}
