import Foundation
import Models
import TensorCore

/// Denoising network.
///
/// Arguments: noisy latents (batch, C, H, W) and one timestep per row, on the scale of the process
/// that the model was trained on. Result: noise prediction and variance parameter (batch, 2C, H,
/// W), or noise prediction alone (batch, C, H, W).
package typealias DenoisingModel = (_ latents: Tensor, _ timesteps: [Float]) throws -> Tensor

/// The predicted distribution p(x_{t-1} | x_t); each tensor is (batch, C, H, W).
package struct DenoisedDistribution {
  /// Mean of p(x_{t-1} | x_t).
  package let mean: Tensor
  /// Logarithm of its variance.
  package let logVariance: Tensor
  /// Predicted clean latents.
  package let predictedStart: Tensor
}

/// Gaussian diffusion with noise prediction, as DiT is trained; the variance is learned within a
/// range, or fixed to its upper end for a model without a variance parameter.
///
/// Follows `GaussianDiffusion` and `SpacedDiffusion` of the DiT repository. Steps are indices of
/// `schedule`. Table entries are rounded to float32 where they meet a tensor, as upstream.
package struct GaussianDiffusion: Sendable {
  /// The steps of this process.
  package let schedule: NoiseSchedule

  /// Makes a process over a schedule.
  package init(schedule: NoiseSchedule) { self.schedule = schedule }

  /// Makes DiT's process: 1000 linear steps, optionally respaced.
  ///
  /// - Parameter spacing: As for `NoiseSchedule.respaced`; "" keeps all 1000 steps.
  /// - Throws: `SamplingError` if the spacing cannot be used.
  package init(spacing: String) throws(SamplingError) {
    schedule = try NoiseSchedule.linear().respaced(spacing)
  }

  /// Returns the timesteps passed to the model at the given steps.
  package func modelTimesteps(_ steps: [Int]) -> [Float] {
    steps.map { Float(schedule.timesteps[$0]) }
  }

  /// Noisy latents x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) noise.
  ///
  /// - Parameters:
  ///   - start: Clean latents (batch, C, H, W).
  ///   - noise: Standard normal, same shape.
  ///   - steps: One step per row.
  /// - Returns: x_t, same shape.
  package func noisy(_ start: Tensor, noise: Tensor, steps: [Int]) -> Tensor {
    precondition(start.shape == noise.shape && start.shape[0] == steps.count, "noisy: shapes")
    let result = Tensor(start.shape)
    let width = start.count / max(1, steps.count)
    for (row, step) in steps.enumerated() {
      let signal = Float(schedule.sqrtAlphasCumprod[step])
      let sigma = Float(schedule.sqrtOneMinusAlphasCumprod[step])
      for i in (row * width)..<((row + 1) * width) {
        result[i] = signal * start[i] + sigma * noise[i]
      }
    }
    return result
  }

  /// The posterior q(x_{t-1} | x_t, x_0): its mean, and its clipped log variance per row.
  ///
  /// - Parameters:
  ///   - start: Clean latents (batch, C, H, W).
  ///   - latents: Noisy latents x_t, same shape.
  ///   - steps: One step per row.
  /// - Returns: The mean (batch, C, H, W) and one log variance per row.
  package func posterior(
    start: Tensor, latents: Tensor, steps: [Int]
  ) -> (mean: Tensor, logVariance: [Float]) {
    precondition(start.shape == latents.shape && start.shape[0] == steps.count, "posterior: shapes")
    let mean = Tensor(start.shape)
    let width = start.count / max(1, steps.count)
    for (row, step) in steps.enumerated() {
      let coefficients = StepCoefficients(schedule, step)
      for i in (row * width)..<((row + 1) * width) {
        mean[i] = Float(
          coefficients.mean1 * Double(start[i]) + coefficients.mean2 * Double(latents[i]))
      }
    }
    return (mean, steps.map { Float(schedule.posteriorLogVarianceClipped[$0]) })
  }

  /// Turns a model output into the distribution of x_{t-1} (`p_mean_variance` upstream).
  ///
  /// - Parameters:
  ///   - modelOutput: (batch, 2C, H, W): noise prediction, then variance parameter; (batch, C, H, W)
  ///     without the latter.
  ///   - latents: Noisy latents x_t (batch, C, H, W).
  ///   - steps: One step per row.
  ///   - clipsStart: If true, the predicted start is clamped to [-1, 1].
  /// - Returns: Mean, log variance and predicted start.
  package func denoised(
    modelOutput: Tensor, latents: Tensor, steps: [Int], clipsStart: Bool
  ) -> DenoisedDistribution {
    let output = DiffusionOutput(modelOutput, latents, steps, schedule)
    let mean = Tensor(latents.shape)
    let logVariance = Tensor(latents.shape)
    let predictedStart = Tensor(latents.shape)
    let width = latents.count / max(1, steps.count)
    for (row, step) in steps.enumerated() {
      let coefficients = StepCoefficients(schedule, step)
      for i in 0..<width {
        let at = row * width + i
        let x = Double(latents[at])
        var start = coefficients.start(x, noise: output.noise(row, i))
        if clipsStart { start = min(1, max(-1, start)) }
        predictedStart[at] = Float(start)
        mean[at] = Float(coefficients.mean1 * start + coefficients.mean2 * x)
        logVariance[at] = Float(
          output.variance(row, i).map(coefficients.logVariance) ?? coefficients.fixedLogVariance)
      }
    }
    return DenoisedDistribution(
      mean: mean, logVariance: logVariance, predictedStart: predictedStart)
  }
}

/// Element access to a model output, by the layout of its latents.
struct DiffusionOutput {
  private let values: Tensor
  /// Number of latent elements per row.
  let width: Int
  /// Whether the output includes a variance parameter.
  let hasVariance: Bool

  /// - Precondition: The output has as many or twice as many channels as the latents, one row per step.
  init(_ output: Tensor, _ latents: Tensor, _ steps: [Int], _ schedule: NoiseSchedule) {
    let shape = latents.shape
    precondition(
      shape.count == 4 && shape[0] == steps.count && output.shape.count == 4
        && output.shape[0] == shape[0] && output.shape[2...] == shape[2...]
        && [shape[1], 2 * shape[1]].contains(output.shape[1]),
      "diffusion: model output \(output.shape), latents \(shape), \(steps.count) steps")
    precondition(steps.allSatisfy(schedule.betas.indices.contains), "diffusion: step out of range")
    values = output
    width = latents.count / max(1, steps.count)
    hasVariance = output.shape[1] == 2 * shape[1]
  }

  /// Offset in the output of the noise prediction for an element of a row.
  func noiseIndex(_ row: Int, _ index: Int) -> Int {
    row * (hasVariance ? 2 : 1) * width + index
  }

  /// Predicted noise for an element of a row.
  func noise(_ row: Int, _ index: Int) -> Double { Double(values[noiseIndex(row, index)]) }

  /// Variance parameter for an element of a row; nil if the model has none.
  func variance(_ row: Int, _ index: Int) -> Double? {
    hasVariance ? Double(values[noiseIndex(row, index) + width]) : nil
  }
}

/// Coefficients of one step, rounded to float32 and stored as doubles.
package struct StepCoefficients {
  /// Weight of x_t in the predicted start.
  package let recip: Double
  /// Weight of the noise in the predicted start, subtracted.
  package let recipMinusOne: Double
  /// Weight of x_0 in the posterior mean.
  package let mean1: Double
  /// Weight of x_t in the posterior mean.
  package let mean2: Double
  /// Logarithm of the posterior variance, the lower end of the learned range.
  package let minLogVariance: Double
  /// Logarithm of beta, the upper end of the learned range.
  package let maxLogVariance: Double
  /// Log variance for a model without a variance parameter: that of beta, at step 0 that of the
  /// posterior of step 1 (`FIXED_LARGE` upstream).
  package let fixedLogVariance: Double

  /// Reads the coefficients of one step.
  package init(_ schedule: NoiseSchedule, _ step: Int) {
    func entry(_ table: [Double]) -> Double { Double(Float(table[step])) }
    recip = entry(schedule.sqrtRecipAlphasCumprod)
    recipMinusOne = entry(schedule.sqrtRecipMinusOneAlphasCumprod)
    mean1 = entry(schedule.posteriorMeanCoefficient1)
    mean2 = entry(schedule.posteriorMeanCoefficient2)
    minLogVariance = entry(schedule.posteriorLogVarianceClipped)
    maxLogVariance = entry(schedule.logBetas)
    fixedLogVariance = step == 0 ? minLogVariance : maxLogVariance
  }

  /// Returns the clean value implied by a noisy value and a noise prediction.
  package func start(_ x: Double, noise: Double) -> Double { recip * x - recipMinusOne * noise }

  /// Interpolates the log variance: -1 gives that of the posterior, 1 gives log beta.
  package func logVariance(_ parameter: Double) -> Double {
    let fraction = (parameter + 1) / 2
    return fraction * maxLogVariance + (1 - fraction) * minLogVariance
  }
}
