import Models
import Plans
import TensorCore

/// Process on which a model of a family is trained: how data are mixed with noise, and the loss of what it
/// predicts.
package enum TrainingProcess: Sendable {
  /// Prediction of noise, with the variance if the model has it.
  case noise(GaussianDiffusion)
  /// Prediction of the velocity of a path.
  case velocity(Interpolant)

  /// Makes the process of a family.
  ///
  /// - Throws: `SamplingError`, never in practice.
  package init(of family: ModelFamily) throws(SamplingError) {
    switch family.prediction {
    case .noise: self = .noise(try GaussianDiffusion(spacing: ""))
    case .velocity: self = .velocity(.linear)
    }
  }

  /// Random draws of rows, of which a process uses one: a step of 1000 or a time in [0, 1).
  package struct Draws: Sendable {
    package let steps: [Int]
    package let times: [Double]

    package init(steps: [Int], times: [Double] = []) { (self.steps, self.times) = (steps, times) }

    package subscript(range: Range<Int>) -> Draws { self[Array(range)] }

    package subscript(rows: [Int]) -> Draws {
      Draws(steps: rows.map { steps[$0] }, times: times.isEmpty ? [] : rows.map { times[$0] })
    }
  }

  /// Losses of rows: mean squared error and, of a noise process, the variational bound in bits.
  package struct Terms {
    package let loss, mse, vb: [Float]
  }

  /// Times that the model is told.
  package func modelTimes(_ draws: Draws) -> [Float] {
    switch self {
    case .noise(let diffusion): diffusion.modelTimesteps(draws.steps)
    case .velocity: draws.times.map { Float($0) }
    }
  }

  /// Noisy latents of clean ones (batch, C, H, W).
  package func noisy(_ data: Tensor, noise: Tensor, _ draws: Draws) -> Tensor {
    switch self {
    case .noise(let diffusion): diffusion.noisy(data, noise: noise, steps: draws.steps)
    case .velocity(let path):
      VelocityLoss(data: data, noise: noise, times: draws.times, path: path).latents
    }
  }

  /// Clean latents and noise that a model's output predicts; `noisy` makes the noisy latents of them again.
  ///
  /// - Parameters:
  ///   - output: (batch, C or 2C, H, W).
  ///   - latents: Noisy latents (batch, C, H, W).
  ///   - draws: Steps or times of the rows.
  /// - Returns: Both in the shape of the latents.
  package func decomposed(
    _ output: Tensor, _ latents: Tensor, _ draws: Draws
  ) -> (data: Tensor, noise: Tensor) {
    switch self {
    case .noise(let diffusion):
      let start = diffusion.denoised(
        modelOutput: output, latents: latents, steps: draws.steps, clipsStart: false
      ).predictedStart
      return (start, output.leadingChannels(latents.shape[1]).copied())
    case .velocity(let path):
      let (data, noise) = (Tensor(latents.shape), Tensor(latents.shape))
      let rows = latents.shape[0]
      let (width, all) = (latents.count / rows, output.count / rows)
      for (row, time) in draws.times.enumerated() {
        let at = path(at: time)
        for index in 0..<width {
          let (v, x) = (Double(output[row * all + index]), Double(latents[row * width + index]))
          data[row * width + index] = Float(at.data(v, at: x))
          noise[row * width + index] = Float(at.noise(v, at: x))
        }
      }
      return (data, noise)
    }
  }

  /// Losses of a model's output.
  ///
  /// - Parameters:
  ///   - output: (batch, C or 2C, H, W).
  ///   - data: Clean latents (batch, C, H, W).
  ///   - latents: As from `noisy`.
  ///   - noise: The noise in them.
  ///   - draws: Steps or times of the rows.
  ///   - wantsGradient: Whether the gradient of the mean loss is computed as well.
  /// - Returns: The losses of the rows, and the gradient in the shape of the output.
  package func losses(
    _ output: Tensor, data: Tensor, latents: Tensor, noise: Tensor, _ draws: Draws,
    wantsGradient: Bool
  ) -> (terms: Terms, gradient: Tensor?) {
    switch self {
    case .noise(let diffusion):
      let terms = diffusion.trainingLoss(
        modelOutput: output, start: data, latents: latents, noise: noise, steps: draws.steps)
      let gradient =
        wantsGradient
        ? diffusion.lossGradient(
          modelOutput: output, start: data, latents: latents, noise: noise, steps: draws.steps)
        : nil
      return (Terms(loss: terms.loss, mse: terms.mse, vb: terms.vb), gradient)
    case .velocity(let path):
      let (rows, gradient) = VelocityLoss(
        data: data, noise: noise, times: draws.times, path: path
      ).losses(output)
      let losses = rows.map { Float($0) }
      return (
        Terms(loss: losses, mse: losses, vb: [Float](repeating: 0, count: losses.count)), gradient
      )
    }
  }

  /// Channels of an output with C latent channels that mean anything: a velocity model may have twice as
  /// many as it uses.
  package func usedChannels(of output: Tensor, latents: Tensor) -> Int {
    switch self {
    case .noise: output.shape[1]
    case .velocity: latents.shape[1]
    }
  }
}

extension Tensor {
  /// Copies the leading channels of (batch, channels, H, W).
  package func leadingChannels(_ channels: Int) -> Tensor {
    if channels == shape[1] { return self }
    let result = Tensor([shape[0], channels] + shape[2...])
    let (width, all) = (result.count / max(1, shape[0]), count / max(1, shape[0]))
    for row in 0..<shape[0] {
      (result.pointer + row * width).update(from: pointer + row * all, count: width)
    }
    return result
  }
}
