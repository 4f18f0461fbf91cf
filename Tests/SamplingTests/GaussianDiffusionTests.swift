import Foundation
import TensorCore
import TestSupport
import Testing

import Sampling

@Suite("Gaussian diffusion")
@MainActor struct GaussianDiffusionTests {
  /// Without a variance parameter the variance is beta, at step 0 the posterior's of step 1
  /// (`FIXED_LARGE` of the DiT repository).
  @Test func fixedVariance() throws {
    let diffusion = try GaussianDiffusion(spacing: "250")
    let (betas, posterior) = (diffusion.schedule.betas, diffusion.schedule.posteriorVariance)
    for (step, variance) in [(0, posterior[1]), (1, betas[1]), (249, betas[249])] {
      let latents = RandomStream(seed: 1, "latents").normal([1, 2, 2, 2])
      let output = RandomStream(seed: 1, "output").normal([1, 2, 2, 2])
      let found = diffusion.denoised(
        modelOutput: output, latents: latents, steps: [step], clipsStart: false)
      #expect(found.logVariance.values.allSatisfy { abs($0 - Float(log(variance))) < 1e-5 })
      // The mean does not depend on the variance.
      let learned = Tensor([1, 4, 2, 2])
      for i in 0..<8 { learned[i] = output[i] }
      let other = diffusion.denoised(
        modelOutput: learned, latents: latents, steps: [step], clipsStart: false)
      #expect(found.mean.values == other.mean.values)
    }
    #expect(abs(betas[249] - 0.0775193449924) < 1e-12)
  }

  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"),
    arguments: [("full", ""), ("r250", "250")])
  func noisyLatentsMatchReference(tag: String, spacing: String) throws {
    let goldens = try Goldens("diffusion_losses")
    let diffusion = try GaussianDiffusion(spacing: spacing)
    let noisy = diffusion.noisy(
      try goldens.tensor("in.\(tag).x0"), noise: try goldens.tensor("in.\(tag).noise"),
      steps: try goldens.integers("in.\(tag).t"))
    #expect(
      relativeError(noisy.values, try goldens.tensor("out.\(tag).x_t").values) < 1e-6)
  }

  /// A model that answers step by step with the noise and variance that the reference run implies.
  private func recordedModel(
    _ diffusion: GaussianDiffusion, starts: Tensor, logVariances: [[Double]]
  ) -> DenoisingModel {
    var position = 0
    return { latents, timesteps in
      let step = diffusion.schedule.count - 1 - position
      #expect(timesteps.allSatisfy { $0 == Float(diffusion.schedule.timesteps[step]) })
      let shape = latents.shape
      let output = Tensor([shape[0], 2 * shape[1], shape[2], shape[3]])
      let width = latents.count / shape[0]
      let numbers = StepCoefficients(diffusion.schedule, step)
      for row in 0..<shape[0] {
        for i in 0..<width {
          let at = row * width + i
          let start = Double(starts[position * latents.count + at])
          output[2 * row * width + i] = Float(
            (numbers.recip * Double(latents[at]) - start) / numbers.recipMinusOne)
          let range = numbers.maxLogVariance - numbers.minLogVariance
          output[(2 * row + 1) * width + i] = Float(
            2 * (logVariances[position][at] - numbers.minLogVariance) / range - 1)
        }
      }
      position += 1
      return output
    }
  }

  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"), arguments: ["plain", "cfg"])
  func ddimFollowsReference(run: String) throws {
    let goldens = try Goldens("diffusion_ddim")
    let diffusion = try GaussianDiffusion(spacing: "ddim8")
    #expect(diffusion.schedule.timesteps == (try goldens.integers("out.timestep_map")))
    let samples = try goldens.tensor("out.\(run).samples")
    let starts = try goldens.tensor("out.\(run).pred_xstart")
    let first = try goldens.tensor("in.\(run).x_T")
    let zeros = [[Double]](repeating: [Double](repeating: 0, count: first.count), count: 8)
    var worst = 0.0
    let last = try diffusion.ddimSamples(
      from: first, clipsStart: run == "plain",
      model: recordedModel(diffusion, starts: starts, logVariances: zeros)
    ) { step in
      let expected = samples.rows(step.position..<(step.position + 1)).values
      worst = max(worst, relativeError(step.sample.values, expected))
    }
    #expect(worst < 1e-5)
    #expect(relativeError(last.values, samples.rows(7..<8).values) < 1e-5)
  }

  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"), arguments: ["plain", "cfg"])
  func ancestralSamplingFollowsReference(run: String) throws {
    let goldens = try Goldens("diffusion_psample")
    let diffusion = try GaussianDiffusion(spacing: "8")
    #expect(diffusion.schedule.timesteps == (try goldens.integers("out.timestep_map")))
    let samples = try goldens.tensor("out.\(run).samples")
    let starts = try goldens.tensor("out.\(run).pred_xstart")
    let noise = try goldens.tensor("in.\(run).noise")
    let first = try goldens.tensor("in.\(run).x_T")
    // The reference's deviation from the posterior mean divided by its noise is its standard
    // deviation. It must be positive everywhere, and at the last step the deviation must vanish.
    var logVariances: [[Double]] = []
    var latents = first
    for position in 0..<8 {
      let step = 7 - position
      let numbers = StepCoefficients(diffusion.schedule, step)
      let offset = position * first.count
      var row = [Double](repeating: 0, count: first.count)
      for i in 0..<first.count {
        let mean =
          numbers.mean1 * Double(starts[offset + i]) + numbers.mean2 * Double(latents[i])
        let deviation = Double(samples[offset + i]) - mean
        if step == 0 {
          #expect(abs(deviation) < 1e-4)
        } else if abs(noise[offset + i]) > 0.01 {
          #expect(deviation / Double(noise[offset + i]) > 0)
        }
        let ratio = abs(deviation / Double(noise[offset + i]))
        row[i] = 2 * log(max(ratio, 1e-6))
      }
      logVariances.append(row)
      latents = samples.rows(position..<(position + 1)).reshaped(first.shape)
    }
    var worst = 0.0
    var asked: [Int] = []
    let last = try diffusion.ancestralSamples(
      from: first, clipsStart: run == "plain",
      noise: { position, shape in
        asked.append(position)
        return noise.rows(position..<(position + 1)).reshaped(shape)
      }, model: recordedModel(diffusion, starts: starts, logVariances: logVariances)
    ) { step in
      let expected = samples.rows(step.position..<(step.position + 1)).values
      worst = max(worst, relativeError(step.sample.values, expected))
    }
    #expect(worst < 1e-4)
    #expect(asked == Array(0..<7))
    #expect(relativeError(last.values, samples.rows(7..<8).values) < 1e-4)
  }

  @Test func fullNoiseDDIMHasThePosteriorOfAncestralSampling() throws {
    // With eta 1, DDIM's mean is the posterior mean and its variance the posterior variance.
    let diffusion = try GaussianDiffusion(spacing: "20")
    var random = RandomSequence(seed: 2)
    let latents = random.normal([1, 2, 3, 3])
    let output = random.normal([1, 4, 3, 3])
    // Variance parameter -1 selects the posterior variance.
    for i in 18..<36 { output[i] = -1 }
    let stop = CancellationError()
    func firstStep(_ sample: (_ onStep: (SamplerStep) throws -> Void) throws -> Tensor) -> [Float] {
      var values: [Float] = []
      _ = try? sample { step in
        values = step.sample.values
        throw stop
      }
      return values
    }
    let provider: StepNoise = { RandomStream(seed: 2, "step \($0)").normal($1) }
    let ancestral = firstStep { onStep in
      try diffusion.ancestralSamples(
        from: latents, noise: provider, model: { _, _ in output }, onStep: onStep)
    }
    let ddim = firstStep { onStep in
      try diffusion.ddimSamples(
        from: latents, eta: 1, noise: provider, model: { _, _ in output }, onStep: onStep)
    }
    #expect(ancestral.count == 18)
    #expect(relativeError(ddim, ancestral) < 1e-5)
  }

  @Test func predictedStartIsClippedOnRequest() throws {
    let diffusion = try GaussianDiffusion(spacing: "")
    let latents = Tensor([3, -3, 0.1, 0], shape: [1, 1, 2, 2])
    let output = Tensor.zeros([1, 2, 2, 2])
    let clipped = diffusion.denoised(
      modelOutput: output, latents: latents, steps: [10], clipsStart: true)
    let free = diffusion.denoised(
      modelOutput: output, latents: latents, steps: [10], clipsStart: false)
    #expect(clipped.predictedStart.values[0] == 1 && clipped.predictedStart.values[1] == -1)
    #expect(free.predictedStart.values[0] > 3)
    #expect(clipped.predictedStart.values[2] == free.predictedStart.values[2])
    // Variance parameter 0 lies halfway between the two logarithms.
    let schedule = diffusion.schedule
    let middle = (schedule.logBetas[10] + schedule.posteriorLogVarianceClipped[10]) / 2
    #expect(abs(Double(free.logVariance[0]) - middle) < 1e-6)
    let posterior = diffusion.posterior(
      start: free.predictedStart, latents: latents, steps: [10])
    #expect(relativeError(posterior.mean.values, free.mean.values) < 1e-6)
    #expect(posterior.logVariance == [Float(schedule.posteriorLogVarianceClipped[10])])
  }

  @Test func guidanceActsOnThreeChannels() throws {
    let output = RandomStream(seed: 3, "output").normal([4, 8, 1, 2])
    var seen: [Float] = []
    let model = Guidance.guided({ latents, _ in
      seen = latents.values
      return output
    }) { _ in 4 }
    let latents = RandomStream(seed: 3, "latents").normal([4, 4, 1, 2])
    let result = try model(latents, [5, 5, 5, 5])
    #expect(seen == latents.rows(0..<2).values + latents.rows(0..<2).values)
    for row in 0..<2 {
      for i in 0..<16 {
        let conditional = output[row * 16 + i]
        let unconditional = output[(row + 2) * 16 + i]
        let expected = i < 6 ? unconditional + 4 * (conditional - unconditional) : conditional
        #expect(result[row * 16 + i] == expected)
        #expect(result[(row + 2) * 16 + i] == (i < 6 ? expected : unconditional))
      }
    }
  }
}
