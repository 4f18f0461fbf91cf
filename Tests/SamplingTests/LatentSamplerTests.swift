import Autograd
import Models
import Nn
import Sampling
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Latent sampler")
struct LatentSamplerTests {
  /// Start noise that is given replaces the seed's, with and without guidance, in every sampler.
  @Test(arguments: LatentSampler.Method.allCases, [Float(1), 3])
  func startNoise(method: LatentSampler.Method, guidance: Float) throws {
    let model = try TinyModel.make()
    let sampler = LatentSampler(method: method, steps: 3, guidance: guidance, seed: 4)
    let start = RandomStream(seed: 4, "sampling/start").normal([3, 2, 4, 4])
    let kept = start.values
    let drawn = try sampler.sample(model, labels: [0, 1, 2]).values
    #expect(try sampler.sample(model, labels: [0, 1, 2], start: start).values == drawn)
    #expect(start.values == kept)
    for index in 0..<start.count { start[index] += 0.5 }
    #expect(try sampler.sample(model, labels: [0, 1, 2], start: start).values != drawn)
  }

  @Test(arguments: LatentSampler.Method.allCases)
  func resultsThatAreNotFiniteAreRefused(method: LatentSampler.Method) throws {
    let model = try TinyModel.make()
    let start = Tensor.full([1, 2, 4, 4], .infinity)
    let error = #expect(throws: SamplingError.self) {
      try LatentSampler(method: method, steps: 3, guidance: 2, seed: 4)
        .sample(model, labels: [1], start: start)
    }
    #expect(error?.description.contains("values that are not finite") == true)
  }

  /// Modulations made for several steps at a time are those of each step, wherever a walk begins.
  @Test(arguments: [3, 30, 70])
  func modulationsOfATrajectory(batch: Int) throws {
    let model = try TinyModel.make()
    let labels = (0..<batch).map { $0 % 4 }
    let timesteps: [Float] = [999, 750, 500, 250, 0]
    let modulations = TrajectoryModulations(model, labels: labels, timesteps: timesteps)
    var random = RandomSequence(seed: 5)
    let x = random.normal([batch, 2, 4, 4])
    for timestep in timesteps + [500, 250, 999] {
      let found = model(
        Value(constant: x), modulations(at: timestep), on: Tape(recording: false)
      ).tensor
      let expected = model.predict(
        x,
        DiT.Conditioning(
          timesteps: [Float](repeating: timestep, count: batch), labels: labels))
      #expect(
        zip(found.values, expected.values).allSatisfy { abs($0 - $1) < 1e-5 * max(1, abs($1)) })
    }
  }
}
