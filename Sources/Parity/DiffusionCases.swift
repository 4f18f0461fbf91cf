import Autograd
import Files
import Models
import Plans
import Sampling
import TensorCore

/// Clean latents, noise, steps and labels of a training step.
struct TrainingBatch {
  private let start, noise: Tensor
  private let steps, labels: [Int]

  /// Reads `<prefix>x0`, `noise`, `t` and `y`, where `t` indexes a process of `count` steps.
  init(_ fixture: Fixture, _ prefix: String, _ config: ModelShape, steps count: Int) throws {
    guard config.learnSigma else {
      throw FileError(
        "\(fixture.path): config key 'dit.learn_sigma' is false, expected true for the training"
          + " loss; the file is of another format")
    }
    start = try DiTCases.latents(fixture, prefix + "x0", config)
    noise = try fixture.tensor(prefix + "noise", shape: start.shape)
    try fixture.require(prefix + "t", shape: [start.shape[0]])
    try fixture.require(prefix + "y", shape: [start.shape[0]])
    steps = try fixture.integers(prefix + "t", in: 0..<count)
    labels = try fixture.integers(prefix + "y", in: 0..<(config.numClasses + 1))
  }

  /// Intermediate results of the training loss.
  struct Terms {
    let latents: Tensor
    let loss, mse, vb: [Double]
  }

  /// Runs the model and, if the tape records, the backward pass from the mean loss.
  func run(_ model: DiT, _ diffusion: GaussianDiffusion, tape: Tape) -> Terms {
    let latents = diffusion.noisy(start, noise: noise, steps: steps)
    let conditioning = DiT.Conditioning(
      timesteps: diffusion.modelTimesteps(steps), labels: labels)
    let output = model(Value(constant: latents), conditioning, on: tape)
    let terms = diffusion.trainingLoss(
      modelOutput: output.tensor, start: start, latents: latents, noise: noise, steps: steps)
    tape.backward(
      output,
      diffusion.lossGradient(
        modelOutput: output.tensor, start: start, latents: latents, noise: noise, steps: steps))
    return Terms(
      latents: latents, loss: terms.loss.map(Double.init), mse: terms.mse.map(Double.init),
      vb: terms.vb.map(Double.init))
  }
}

/// The diffusion process's tables and losses (`diffusion_schedule`, `diffusion_losses`).
enum DiffusionCases {
  /// Refuses schedules that are not linear.
  static func scheduleRefusal(_ fixture: Fixture) throws -> String? {
    let kind = try fixture.settings.text("schedule")
    return kind == "linear" ? nil : "there is no \(kind) noise schedule"
  }

  /// Compares all tables (float64 ones at 1e-9) and the respaced processes.
  static func schedule(_ check: ParityCheck) throws {
    let settings = check.fixture.settings
    let (first, last) = (try settings.number("beta_start"), try settings.number("beta_end"))
    guard first > 0, first <= 1, last > 0, last <= 1 else {
      throw FileError(
        "\(check.fixture.path): config keys 'beta_start' and 'beta_end' are \(first) and \(last),"
          + " expected numbers above 0, at most 1; the file is damaged, copy it again")
    }
    let steps = try settings.integer("steps", in: 1...1_000_000)
    let schedule = NoiseSchedule.linear(steps: steps, from: first, to: last)
    let tables = [
      "betas": schedule.betas, "alphas_cumprod": schedule.alphasCumprod,
      "alphas_cumprod_prev": schedule.alphasCumprodPrevious,
      "posterior_variance": schedule.posteriorVariance,
      "posterior_log_variance_clipped": schedule.posteriorLogVarianceClipped,
      "posterior_mean_coef1": schedule.posteriorMeanCoefficient1,
      "posterior_mean_coef2": schedule.posteriorMeanCoefficient2,
      "sqrt_recip_alphas_cumprod": schedule.sqrtRecipAlphasCumprod,
      "sqrt_recipm1_alphas_cumprod": schedule.sqrtRecipMinusOneAlphasCumprod,
    ]
    for (name, table) in tables.sorted(by: { $0.key < $1.key }) {
      if check.fixture.has("out.\(name)") { try check.forward("out.\(name)", table) }
      let double = "out.f64.\(name)"
      if check.fixture.has(double) { try check.forward(double, table, tolerance: 1e-9) }
    }
    for spacing in try settings.texts("respacings") {
      let respaced = try schedule.respaced(spacing)
      let name = "out.respaced.\(spacing)"
      try check.exact("\(name).timesteps", respaced.timesteps)
      try check.forward("\(name).betas", respaced.betas)
      try check.forward("\(name).posterior_variance", respaced.posteriorVariance)
    }
  }

  /// Compares the training loss of the full and the respaced processes.
  static func losses(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let config = try DiTCases.config(fixture)
    let model = try DiT(config: config, weights: try fixture.weights())
    for spacing in try fixture.settings.texts("respacings") {
      let tag = spacing.isEmpty ? "full" : "r\(spacing)"
      let diffusion = try GaussianDiffusion(spacing: spacing)
      let batch = try TrainingBatch(
        fixture, "in.\(tag).", config, steps: diffusion.schedule.count)
      let terms = batch.run(model, diffusion, tape: Tape(recording: false))
      try check.forward("out.\(tag).x_t", terms.latents)
      try check.forward("out.\(tag).mse", terms.mse)
      try check.forward("out.\(tag).vb", terms.vb)
      try check.forward("out.\(tag).loss", terms.loss)
    }
  }
}
