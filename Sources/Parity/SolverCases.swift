import Files
import Foundation
import Sampling
import TensorCore

/// DPM-Solver++(2M) with the exact noise prediction for Gaussian data (`diffusion_dpmpp`).
enum SolverCases {
  static func run(_ check: ParityCheck) throws {
    let fixture = check.fixture
    let scheduler = try fixture.settings.table("scheduler")
    try requireDefaults(scheduler, fixture)
    let count = try scheduler.integer("num_train_timesteps", in: 2...1_000_000)
    let full = NoiseSchedule.linear(
      steps: count, from: try scheduler.number("beta_start"), to: try scheduler.number("beta_end"))
    let diffusion = GaussianDiffusion(
      schedule: try full.evenlySpread(try fixture.settings.integer("steps", in: 1...(count - 1))))
    let schedule = diffusion.schedule
    try check.exact("out.timesteps", schedule.timesteps.reversed())
    try check.forward(
      "out.sigmas", schedule.sqrtRecipMinusOneAlphasCumprod.reversed() + [0])

    let start = try fixture.tensor("in.x_T", shape: [-1, -1, -1, -1])
    let channels = start.shape[1]
    let mean = try fixture.tensor("in.mu", shape: [channels])
    let variance = try fixture.tensor("in.s2", shape: [channels])
    let shape = [schedule.count] + start.shape
    let (samples, starts) = (Tensor(shape), Tensor(shape))
    _ = try diffusion.dpmSolverSamples(
      from: start,
      model: { latents, timesteps in
        let result = Tensor(latents.shape)
        let plane = latents.shape[2] * latents.shape[3]
        for i in 0..<result.count {
          let channel = i / plane % channels
          let a = full.alphasCumprod[Int(timesteps[i / (plane * channels)])]
          let distance = Double(latents[i]) - a.squareRoot() * Double(mean[channel])
          result[i] = Float(
            (1 - a).squareRoot() * distance / (a * Double(variance[channel]) + 1 - a))
        }
        return result
      },
      onStep: { step in
        samples.rows(step.position..<(step.position + 1)).assign(step.sample)
        starts.rows(step.position..<(step.position + 1)).assign(step.predictedStart)
      })
    try check.forward("out.trajectory", samples)
    try check.forward("out.pred_x0", starts)
    try check.forward("out.trajectory_diffusers_f32", samples)
  }

  /// Throws if the file configures another solver.
  private static func requireDefaults(_ scheduler: Settings, _ fixture: Fixture) throws {
    let expected = [
      "algorithm_type": "dpmsolver++", "beta_schedule": "linear", "final_sigmas_type": "zero",
      "prediction_type": "epsilon", "solver_type": "midpoint", "timestep_spacing": "linspace",
    ]
    for (key, value) in expected.sorted(by: { $0.key < $1.key }) {
      let found = try scheduler.text(key)
      guard found == value else {
        throw FileError(
          "\(fixture.path): config key 'scheduler.\(key)' is '\(found)', expected '\(value)'; this"
            + " build has no other DPM-Solver, leave the file out")
      }
    }
    guard try scheduler.integer("solver_order") == 2 else {
      throw FileError(
        "\(fixture.path): config key 'scheduler.solver_order' is not 2; this build has no other"
          + " DPM-Solver, leave the file out")
    }
  }
}
