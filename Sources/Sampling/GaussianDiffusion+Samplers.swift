import Foundation
import TensorCore

/// One executed step of a sampler.
package struct SamplerStep {
  /// Number of the step in order of execution, from 0 to count - 1.
  package let position: Int
  /// Number of steps of the whole loop.
  package let count: Int
  /// Latents after the step (batch, C, H, W).
  package let sample: Tensor
  /// Predicted clean latents before the step, same shape.
  package let predictedStart: Tensor
}

/// Returns the standard normal noise of the step at `position`, in the shape of the latents.
package typealias StepNoise = (_ position: Int, _ shape: [Int]) throws -> Tensor

/// The sampling loops.
extension GaussianDiffusion {
  /// Draws samples by ancestral sampling (`p_sample_loop` upstream), from the last step to step 0.
  ///
  /// - Parameters:
  ///   - latents: Standard normal start x_T (batch, C, H, W).
  ///   - clipsStart: If true, predicted starts are clamped to [-1, 1]; false for latents of an autoencoder.
  ///   - noise: Noise per executed step; not called for the last one, which adds none.
  ///   - model: The network.
  ///   - onStep: Called after each step; may throw to stop.
  /// - Returns: The samples x_0.
  /// - Throws: Only what the closures throw.
  package func ancestralSamples(
    from latents: Tensor, clipsStart: Bool = false, noise: StepNoise, model: DenoisingModel,
    onStep: (SamplerStep) throws -> Void = { _ in }
  ) throws -> Tensor {
    try loop(from: latents, clipsStart: clipsStart, model: model, onStep: onStep) {
      position, step, _, distribution in
      guard step > 0 else { return distribution.mean }
      let added = try noise(position, latents.shape)
      precondition(added.count == latents.count, "sampler: noise \(added.shape)")
      let result = Tensor(latents.shape)
      for i in 0..<result.count {
        result[i] = distribution.mean[i] + exp(0.5 * distribution.logVariance[i]) * added[i]
      }
      return result
    }
  }

  /// Draws samples by DDIM (`ddim_sample_loop` upstream; Song et al., arXiv 2010.02502).
  ///
  /// - Parameters:
  ///   - latents: Standard normal start x_T (batch, C, H, W).
  ///   - eta: 0 is deterministic, 1 has the noise of ancestral sampling.
  ///   - clipsStart: If true, predicted starts are clamped to [-1, 1].
  ///   - noise: Noise per executed step; called only if eta is not 0, and not for the last step.
  ///   - model: The network.
  ///   - onStep: Called after each step; may throw to stop.
  /// - Returns: The samples x_0.
  /// - Throws: Only what the closures throw.
  package func ddimSamples(
    from latents: Tensor, eta: Double = 0, clipsStart: Bool = false,
    noise: StepNoise = { _, shape in .zeros(shape) }, model: DenoisingModel,
    onStep: (SamplerStep) throws -> Void = { _ in }
  ) throws -> Tensor {
    try loop(from: latents, clipsStart: clipsStart, model: model, onStep: onStep) {
      position, step, latents, distribution in
      let coefficients = StepCoefficients(schedule, step)
      let alpha = Double(Float(schedule.alphasCumprod[step]))
      let previous = Double(Float(schedule.alphasCumprodPrevious[step]))
      let sigma =
        eta * ((1 - previous) / (1 - alpha)).squareRoot() * (1 - alpha / previous).squareRoot()
      let direction = max(0, 1 - previous - sigma * sigma).squareRoot()
      let added = step > 0 && sigma > 0 ? try noise(position, latents.shape) : nil
      let result = Tensor(latents.shape)
      for i in 0..<result.count {
        let start = Double(distribution.predictedStart[i])
        let direct = (coefficients.recip * Double(latents[i]) - start) / coefficients.recipMinusOne
        let value = start * previous.squareRoot() + direction * direct
        result[i] = Float(value + sigma * Double(added?[i] ?? 0))
      }
      return result
    }
  }

  private func loop(
    from latents: Tensor, clipsStart: Bool, model: DenoisingModel,
    onStep: (SamplerStep) throws -> Void,
    advance: (_ position: Int, _ step: Int, Tensor, DenoisedDistribution) throws -> Tensor
  ) throws -> Tensor {
    var current = latents
    for position in 0..<schedule.count {
      let step = schedule.count - 1 - position
      let steps = [Int](repeating: step, count: latents.shape[0])
      let output = try model(current, modelTimesteps(steps))
      let distribution = denoised(
        modelOutput: output, latents: current, steps: steps, clipsStart: clipsStart)
      current = try advance(position, step, current, distribution)
      try onStep(
        SamplerStep(
          position: position, count: schedule.count, sample: current,
          predictedStart: distribution.predictedStart))
    }
    return current
  }
}
