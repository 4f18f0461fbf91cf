import Foundation
import Models
import TensorCore

/// DPM-Solver++(2M) (Lu et al., arXiv 2211.01095) as in diffusers' `DPMSolverMultistepScheduler` with its
/// defaults: second order, midpoint, a last step to noise level zero.
extension GaussianDiffusion {
  /// The process of `steps` evenly spread timesteps, the highest one included and timestep 0 not
  /// (`timestep_spacing` "linspace" of diffusers).
  ///
  /// - Parameter steps: Number of steps, at least 1 and fewer than the full process has.
  /// - Returns: DiT's linear process at those timesteps.
  /// - Throws: `SamplingError` if there are not that many different timesteps.
  package static func evenlySpread(_ steps: Int) throws(SamplingError) -> GaussianDiffusion {
    GaussianDiffusion(schedule: try NoiseSchedule.linear().evenlySpread(steps))
  }

  /// Draws samples by DPM-Solver++(2M) over the steps of this process, without added noise.
  ///
  /// With s = sqrt((1 - a) / a), the ratio of noise to signal, a step from s to s' is
  /// x' = (sigma' / sigma) x - alpha' (s' / s - 1) (x0 + D / 2), where D extrapolates the predicted
  /// start in the logarithm of s; D is 0 at the first step and at the last one, which goes to s' = 0.
  /// - Parameters:
  ///   - latents: Standard normal start x_T (batch, C, H, W).
  ///   - model: The network; only its noise prediction, the first C channels, is used.
  ///   - onStep: Called after each step; may throw to stop.
  /// - Returns: The samples x_0.
  /// - Throws: Only what the closures throw.
  package func dpmSolverSamples(
    from latents: Tensor, model: DenoisingModel, onStep: (SamplerStep) throws -> Void = { _ in }
  ) throws -> Tensor {
    var current = latents
    var previous: (start: Tensor, level: NoiseLevel)?
    for position in 0..<schedule.count {
      let step = schedule.count - 1 - position
      let steps = [Int](repeating: step, count: latents.shape[0])
      let level = NoiseLevel(alphaCumprod: schedule.alphasCumprod[step])
      let output = try model(current, modelTimesteps(steps))
      let start = predictedStart(modelOutput: output, latents: current, at: level)
      if step == 0 {
        current = start
      } else {
        let next = NoiseLevel(alphaCumprod: schedule.alphasCumprod[step - 1])
        current = advance(current, start, from: level, to: next, previous: previous)
      }
      previous = (start, level)
      try onStep(
        SamplerStep(
          position: position, count: schedule.count, sample: current, predictedStart: start))
    }
    return current
  }

  /// Returns the clean latents implied by the noise prediction in the first C channels.
  private func predictedStart(modelOutput: Tensor, latents: Tensor, at level: NoiseLevel) -> Tensor
  {
    let shape = latents.shape
    precondition(
      shape.count == 4 && modelOutput.shape.count == 4 && modelOutput.shape[0] == shape[0]
        && modelOutput.shape[1] >= shape[1] && modelOutput.shape[2...] == shape[2...],
      "diffusion: model output \(modelOutput.shape), latents \(shape)")
    let result = Tensor(shape)
    let width = latents.count / max(1, shape[0])
    for row in 0..<shape[0] {
      let noise = modelOutput.pointer + row * (modelOutput.count / shape[0])
      for i in 0..<width {
        let x = Double(latents[row * width + i])
        result[row * width + i] = Float((x - level.sigma * Double(noise[i])) / level.alpha)
      }
    }
    return result
  }

  private func advance(
    _ latents: Tensor, _ start: Tensor, from level: NoiseLevel, to next: NoiseLevel,
    previous: (start: Tensor, level: NoiseLevel)?
  ) -> Tensor {
    let kept = next.sigma / level.sigma
    let moved = -next.alpha * (next.ratio / level.ratio - 1)
    // D / 2 = slope (start - previous start).
    let slope = previous.map {
      0.5 * (log(level.ratio) - log(next.ratio)) / (log($0.level.ratio) - log(level.ratio))
    }
    let result = Tensor(latents.shape)
    for i in 0..<result.count {
      var target = Double(start[i])
      if let slope, let previous { target += slope * (target - Double(previous.start[i])) }
      result[i] = Float(kept * Double(latents[i]) + moved * target)
    }
    return result
  }
}

/// Weights of signal and noise at one step, x_t = alpha x_0 + sigma noise.
private struct NoiseLevel {
  let alpha, sigma: Double
  var ratio: Double { sigma / alpha }

  init(alphaCumprod: Double) {
    alpha = alphaCumprod.squareRoot()
    sigma = (1 - alphaCumprod).squareRoot()
  }
}
