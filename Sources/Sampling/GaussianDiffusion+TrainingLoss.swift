import Foundation
import Models
import TensorCore

/// The training loss of DiT: mean squared error of the noise plus the variational bound in bits.
///
/// `create_diffusion` defaults: learned-range variance, no rescaling of the bound, and the mean detached
/// in it, so that the bound trains only the variance parameter. A model without that parameter is trained
/// on the first term alone.
extension GaussianDiffusion {
  /// The loss per row of a batch, and its two terms; loss = mse + vb.
  ///
  /// - Parameters:
  ///   - modelOutput: (batch, 2C, H, W): noise prediction, then variance parameter; (batch, C, H, W)
  ///     without the latter.
  ///   - start: Clean latents x_0 (batch, C, H, W).
  ///   - latents: Noisy latents x_t, as from `noisy`, same shape.
  ///   - noise: The noise in them, same shape.
  ///   - steps: One step per row.
  /// - Returns: Three numbers per row; vb is in bits per element.
  package func trainingLoss(
    modelOutput: Tensor, start: Tensor, latents: Tensor, noise: Tensor, steps: [Int]
  ) -> (loss: [Float], mse: [Float], vb: [Float]) {
    let output = DiffusionOutput(modelOutput, latents, steps, schedule)
    precondition(start.shape == latents.shape && noise.shape == latents.shape, "loss: shapes")
    let width = output.width
    var mse: [Float] = []
    var vb: [Float] = []
    var loss: [Float] = []
    for (row, step) in steps.enumerated() {
      let coefficients = StepCoefficients(schedule, step)
      var squares = 0.0
      var bound = 0.0
      for i in 0..<width {
        let at = row * width + i
        let predicted = output.noise(row, i)
        let error = Double(noise[at]) - predicted
        squares += error * error
        guard let parameter = output.variance(row, i) else { continue }
        bound +=
          coefficients.bound(
            start: Double(start[at]), latent: Double(latents[at]), noise: predicted,
            parameter: parameter, isLast: step == 0
          ).value
      }
      mse.append(Float(squares / Double(width)))
      vb.append(Float(bound / Double(width) / log(2)))
      loss.append(Float((squares + bound / log(2)) / Double(width)))
    }
    return (loss, mse, vb)
  }

  /// The gradient of the batch mean of `trainingLoss` with respect to the model output.
  ///
  /// The noise channels receive the gradient of mse alone, the variance channels that of vb.
  /// - Returns: A tensor of the output's shape, to seed a backward pass.
  package func lossGradient(
    modelOutput: Tensor, start: Tensor, latents: Tensor, noise: Tensor, steps: [Int]
  ) -> Tensor {
    let output = DiffusionOutput(modelOutput, latents, steps, schedule)
    precondition(start.shape == latents.shape && noise.shape == latents.shape, "loss: shapes")
    let gradient = Tensor(modelOutput.shape)
    let width = output.width
    let scale = 1 / Double(latents.count)
    for (row, step) in steps.enumerated() {
      let coefficients = StepCoefficients(schedule, step)
      for i in 0..<width {
        let at = row * width + i
        let noiseAt = output.noiseIndex(row, i)
        let predicted = output.noise(row, i)
        gradient[noiseAt] = Float(2 * (predicted - Double(noise[at])) * scale)
        guard let parameter = output.variance(row, i) else { continue }
        let bound = coefficients.bound(
          start: Double(start[at]), latent: Double(latents[at]), noise: predicted,
          parameter: parameter, isLast: step == 0)
        gradient[noiseAt + width] = Float(bound.slope * scale / log(2))
      }
    }
    return gradient
  }
}

extension StepCoefficients {
  /// One element of the variational bound in nats, and its derivative with respect to the variance
  /// parameter.
  ///
  /// - Parameters:
  ///   - start: True clean value.
  ///   - latent: Noisy value.
  ///   - noise: Predicted noise, taken as a constant.
  ///   - parameter: Variance parameter v.
  ///   - isLast: True for step 0, whose term is the likelihood of the discretised decoder.
  /// - Returns: The term and its derivative with respect to v.
  package func bound(
    start: Double, latent: Double, noise: Double, parameter: Double, isLast: Bool
  ) -> (value: Double, slope: Double) {
    let logVariance = logVariance(parameter)
    let mean = mean1 * self.start(latent, noise: noise) + mean2 * latent
    let term =
      isLast
      ? discretizedNegativeLogLikelihood(start, mean: mean, logVariance: logVariance)
      : gaussianDivergence(
        mean1 * start + mean2 * latent, minLogVariance, from: mean, logVariance)
    return (term.value, term.slope * (maxLogVariance - minLogVariance) / 2)
  }
}

/// KL divergence of two Gaussians in nats, and its derivative with respect to the second log
/// variance.
package func gaussianDivergence(
  _ mean: Double, _ logVariance: Double, from otherMean: Double, _ otherLogVariance: Double
) -> (value: Double, slope: Double) {
  let ratio = exp(logVariance - otherLogVariance)
  let distance = (mean - otherMean) * (mean - otherMean) * exp(-otherLogVariance)
  return (
    0.5 * (-1 + otherLogVariance - logVariance + ratio + distance), 0.5 * (1 - ratio - distance)
  )
}

/// Negative log likelihood in nats under a discretised Gaussian, and its derivative with respect to
/// the log variance.
///
/// There are 256 levels on [-1, 1]. The tails beyond -0.999 and 0.999 belong to the outermost
/// levels; probabilities are clamped to at least 1e-12, where the derivative is zero.
package func discretizedNegativeLogLikelihood(
  _ value: Double, mean: Double, logVariance: Double
) -> (value: Double, slope: Double) {
  let inverse = exp(-0.5 * logVariance)
  let upper = (value - mean + 1 / 255) * inverse
  let lower = (value - mean - 1 / 255) * inverse
  let probability: Double
  let slope: Double
  // The derivative of `upper` and `lower` with respect to the log variance is -1/2 of their value.
  if value < -0.999 {
    probability = approximateNormal(upper)
    slope = -0.5 * upper * approximateNormalSlope(upper)
  } else if value > 0.999 {
    probability = 1 - approximateNormal(lower)
    slope = 0.5 * lower * approximateNormalSlope(lower)
  } else {
    probability = approximateNormal(upper) - approximateNormal(lower)
    slope = 0.5 * (lower * approximateNormalSlope(lower) - upper * approximateNormalSlope(upper))
  }
  if probability < 1e-12 { return (-log(1e-12), 0) }
  return (-log(probability), -slope / probability)
}

private let normalScale = (2 / Double.pi).squareRoot()

/// The tanh approximation of the standard normal distribution function.
private func approximateNormal(_ x: Double) -> Double {
  0.5 * (1 + tanh(normalScale * (x + 0.044715 * x * x * x)))
}

/// Derivative of `approximateNormal`.
private func approximateNormalSlope(_ x: Double) -> Double {
  let t = tanh(normalScale * (x + 0.044715 * x * x * x))
  return 0.5 * (1 - t * t) * normalScale * (1 + 3 * 0.044715 * x * x)
}
