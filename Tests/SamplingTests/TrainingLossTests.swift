import Foundation
import TensorCore
import TestSupport
import Testing

import Sampling

@Suite("Training loss")
@MainActor struct TrainingLossTests {
  private struct Batch {
    let diffusion: GaussianDiffusion
    let start: Tensor
    let noise: Tensor
    let latents: Tensor
    let output: Tensor
    let steps: [Int]
  }

  private func batch(spacing: String = "") throws -> Batch {
    let diffusion = try GaussianDiffusion(spacing: spacing)
    var random = RandomSequence(seed: 11)
    let count = diffusion.schedule.count
    let steps = [0, 1, count / 2, count - 1]
    let start = random.normal([4, 2, 3, 2])
    // Row 0 visits the three branches of the decoder likelihood.
    for (i, value) in [-1.2, -0.9995, -0.4, 0.2, 0.9995, 1.3].enumerated() {
      start[i] = Float(value)
    }
    let noise = random.normal([4, 2, 3, 2])
    let latents = diffusion.noisy(start, noise: noise, steps: steps)
    // A good model: the true noise with small errors, so that no probability hits its clamp.
    let output = random.normal([4, 4, 3, 2])
    for row in 0..<4 {
      for i in 0..<12 {
        output[row * 24 + i] = noise[row * 12 + i] + 0.3 * output[row * 24 + i]
      }
    }
    return Batch(
      diffusion: diffusion, start: start, noise: noise, latents: latents, output: output,
      steps: steps)
  }

  /// The mean loss in double precision as a function of the output, with the mean of the bound fixed.
  private func meanLoss(_ batch: Batch, _ output: [Double]) -> Double {
    var total = 0.0
    for (row, step) in batch.steps.enumerated() {
      let numbers = StepCoefficients(batch.diffusion.schedule, step)
      for i in 0..<12 {
        let at = row * 12 + i
        let error = Double(batch.noise[at]) - output[row * 24 + i]
        let bound = numbers.bound(
          start: Double(batch.start[at]), latent: Double(batch.latents[at]),
          noise: Double(batch.output[row * 24 + i]), parameter: output[row * 24 + 12 + i],
          isLast: step == 0)
        total += (error * error + bound.value / log(2)) / 48
      }
    }
    return total
  }

  /// Without a variance parameter the loss is the mean squared error, and its gradient that of the noise.
  @Test func modelsWithoutVariance() throws {
    let batch = try batch()
    let noise = Tensor([4, 2, 3, 2])
    for row in 0..<4 {
      for i in 0..<12 { noise[row * 12 + i] = batch.output[row * 24 + i] }
    }
    func loss(_ output: Tensor) -> (loss: [Float], mse: [Float], vb: [Float]) {
      batch.diffusion.trainingLoss(
        modelOutput: output, start: batch.start, latents: batch.latents, noise: batch.noise,
        steps: batch.steps)
    }
    let (plain, learned) = (loss(noise), loss(batch.output))
    #expect(plain.loss == learned.mse && plain.mse == learned.mse && plain.vb == [0, 0, 0, 0])
    func gradient(_ output: Tensor) -> Tensor {
      batch.diffusion.lossGradient(
        modelOutput: output, start: batch.start, latents: batch.latents, noise: batch.noise,
        steps: batch.steps)
    }
    let (short, long) = (gradient(noise), gradient(batch.output))
    #expect(short.shape == [4, 2, 3, 2])
    for row in 0..<4 {
      for i in 0..<12 { #expect(short[row * 12 + i] == long[row * 24 + i]) }
    }
  }

  @Test(arguments: ["", "10"])
  func gradientMatchesFiniteDifferences(spacing: String) throws {
    let batch = try batch(spacing: spacing)
    let gradient = batch.diffusion.lossGradient(
      modelOutput: batch.output, start: batch.start, latents: batch.latents, noise: batch.noise,
      steps: batch.steps)
    let values = batch.output.values.map { Double($0) }
    let step = 1e-5
    for i in values.indices {
      var upper = values
      upper[i] += step
      var lower = values
      lower[i] -= step
      let expected = (meanLoss(batch, upper) - meanLoss(batch, lower)) / (2 * step)
      let tolerance = 1e-6 * max(1, abs(expected))
      #expect(abs(Double(gradient[i]) - expected) <= tolerance, "element \(i)")
    }
    // All three branches of the decoder likelihood have a slope.
    #expect((12..<18).allSatisfy { gradient[$0] != 0 })
  }

  @Test func lossIsTheSumOfItsTerms() throws {
    let batch = try batch()
    let terms = batch.diffusion.trainingLoss(
      modelOutput: batch.output, start: batch.start, latents: batch.latents, noise: batch.noise,
      steps: batch.steps)
    for row in 0..<4 {
      let squares = (0..<12).map { i in
        let error = batch.noise[row * 12 + i] - batch.output[row * 24 + i]
        return error * error
      }
      #expect(abs(terms.mse[row] - squares.reduce(0, +) / 12) < 1e-5)
      #expect(abs(terms.loss[row] - terms.mse[row] - terms.vb[row]) < 1e-5)
    }
    let mean = terms.loss.reduce(0) { $0 + Double($1) } / 4
    #expect(abs(mean - meanLoss(batch, batch.output.values.map { Double($0) })) < 1e-5 * mean)
  }

  @Test func perfectModelHasNoDivergence() throws {
    let batch = try batch()
    // True noise, and the posterior's own variance.
    let output = Tensor.full([4, 4, 3, 2], -1)
    for row in 0..<4 {
      for i in 0..<12 { output[row * 24 + i] = batch.noise[row * 12 + i] }
    }
    let terms = batch.diffusion.trainingLoss(
      modelOutput: output, start: batch.start, latents: batch.latents, noise: batch.noise,
      steps: batch.steps)
    #expect(terms.mse == [0, 0, 0, 0])
    #expect(terms.vb[1...].allSatisfy { abs($0) < 1e-5 })
    #expect(terms.vb[0] > 0.01)
  }

  @Test func divergenceOfGaussians() {
    let value = gaussianDivergence(1, log(4), from: 3, log(9)).value
    // ln(3/2) + (4 + 4) / 18 - 1/2
    #expect(abs(value - (log(1.5) + 8.0 / 18 - 0.5)) < 1e-12)
  }

  @Test func decoderLikelihoodsSumToOne() {
    // 256 levels, from -1 to 1.
    for (mean, deviation) in [(0.1, 0.05), (-0.98, 0.02), (0.6, 0.4)] {
      let total = (0..<256).reduce(0.0) { sum, level in
        let value = Double(level) / 127.5 - 1
        let term = discretizedNegativeLogLikelihood(
          value, mean: mean, logVariance: 2 * log(deviation))
        return sum + exp(-term.value)
      }
      #expect(abs(total - 1) < 1e-6)
    }
    let impossible = discretizedNegativeLogLikelihood(0.5, mean: -1, logVariance: -12)
    #expect(abs(impossible.value + log(1e-12)) < 1e-9 && impossible.slope == 0)
  }
}
