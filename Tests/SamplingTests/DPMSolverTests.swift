import Foundation
import Sampling
import TensorCore
import Testing

@MainActor @Suite("DPM-Solver++")
struct DPMSolverTests {
  @Test func timestepsOfTwentySteps() throws {
    let schedule = try GaussianDiffusion.evenlySpread(20).schedule
    #expect(
      schedule.timesteps.reversed() == [
        999, 949, 899, 849, 799, 749, 699, 649, 599, 549, 500, 450, 400, 350, 300, 250, 200, 150,
        100, 50,
      ])
    let full = NoiseSchedule.linear()
    for (step, timestep) in schedule.timesteps.enumerated() {
      #expect(abs(schedule.alphasCumprod[step] - full.alphasCumprod[timestep]) < 1e-12)
    }
  }

  @Test func everyNumberOfStepsHasDifferentTimesteps() throws {
    for steps in 1...999 {
      let timesteps = try GaussianDiffusion.evenlySpread(steps).schedule.timesteps
      #expect(timesteps.count == steps && timesteps.last == 999 && Set(timesteps).count == steps)
    }
    for steps in [-1, 0, 1000] {
      #expect(throws: SamplingError.self) { try GaussianDiffusion.evenlySpread(steps) }
    }
  }

  /// The noise prediction for data N(mean, variance), whose probability flow has a closed form.
  private func solve(_ steps: Int, mean: Double, variance: Double, _ start: Tensor) throws
    -> Double
  {
    let schedule = NoiseSchedule.linear()
    let samples = try GaussianDiffusion.evenlySpread(steps).dpmSolverSamples(
      from: start,
      model: { latents, timesteps in
        let a = schedule.alphasCumprod[Int(timesteps[0])]
        let result = Tensor.zeros([1, 2 * latents.shape[1]] + latents.shape.dropFirst(2))
        for i in 0..<latents.count {
          let distance = Double(latents[i]) - a.squareRoot() * mean
          result[i] = Float((1 - a).squareRoot() * distance / (a * variance + 1 - a))
        }
        return result
      })
    let a = schedule.alphasCumprod[999]
    let exact = start.values.map {
      mean + (Double($0) - a.squareRoot() * mean) * (variance / (a * variance + 1 - a)).squareRoot()
    }
    return zip(samples.values, exact).map { abs(Double($0) - $1) }.max() ?? .infinity
  }

  @Test func moreStepsComeCloserToTheExactFlow() throws {
    let start = RandomStream(seed: 4, "start").normal([1, 3, 2, 2])
    let coarse = try solve(10, mean: 0.5, variance: 0.3, start)
    let middle = try solve(40, mean: 0.5, variance: 0.3, start)
    let fine = try solve(160, mean: 0.5, variance: 0.3, start)
    #expect(middle < coarse / 4 && fine < middle)
    #expect(fine < 1e-3)
  }

  @Test func oneStepReturnsThePredictedStart() throws {
    let latents = Tensor([1, -2], shape: [1, 1, 1, 2])
    var seen: [SamplerStep] = []
    let result = try GaussianDiffusion.evenlySpread(1).dpmSolverSamples(
      from: latents, model: { _, _ in Tensor([0.5, 0.5], shape: [1, 1, 1, 2]) },
      onStep: { seen.append($0) })
    #expect(seen.count == 1 && seen[0].predictedStart.values == result.values)
    let a = NoiseSchedule.linear().alphasCumprod[999]
    #expect(abs(Double(result[0]) - (1 - (1 - a).squareRoot() / 2) / a.squareRoot()) < 1e-4)
  }
}
