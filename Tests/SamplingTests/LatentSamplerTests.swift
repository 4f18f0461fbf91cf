import Autograd
import Models
import Nn
import Plans
import Sampling
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Latent sampler")
struct LatentSamplerTests {
  /// Initial noise that is given replaces the seed's, with and without guidance, in every sampler.
  @Test(arguments: LatentSampler.Method.allCases, [Float(1), 3])
  func startNoise(method: LatentSampler.Method, guidance: Float) throws {
    let model = try TinyModel.make(method.prediction)
    let sampler = LatentSampler(method: method, steps: 3, guidance: guidance, seed: 4)
    let start = RandomStream(seed: 4, "sampling/start").normal([3, 2, 4, 4])
    let kept = start.values
    let drawn = try sampler.sample(model, labels: [0, 1, 2]).values
    #expect(try sampler.sample(model, labels: [0, 1, 2], start: start).values == drawn)
    #expect(start.values == kept)
    for index in 0..<start.count { start[index] += 0.5 }
    #expect(try sampler.sample(model, labels: [0, 1, 2], start: start).values != drawn)
  }

  /// Every sampler takes models that predict no variance, and models without a label for "no class".
  @Test(arguments: LatentSampler.Method.allCases)
  func modelsWithoutVarianceOrNullClass(method: LatentSampler.Method) throws {
    var config = TinyModel.config
    (config.learnSigma, config.hasNullClass) = (false, false)
    config.family = method.prediction == .velocity ? .sit : .dit
    let model = try DiT(config: config, weights: FreshWeights(seed: 3))
    var sampler = LatentSampler(method: method, steps: 3, guidance: 3, seed: 4)
    let guided = try sampler.sample(model, labels: [0, 2])
    #expect(guided.shape == [2, 2, 4, 4] && guided.isFinite)
    sampler.guidance = 1
    #expect(try sampler.sample(model, labels: [0, 2]).values == guided.values)
  }

  /// Guidance acts on three channels of an official model and on all of one of diffusers, or on as many
  /// as are asked for.
  @Test func guidedChannels() throws {
    var config = ModelShape(
      depth: 1, hiddenSize: 24, numHeads: 3, patchSize: 1, inputSize: 4, numClasses: 3)
    func sample(_ channels: Int?) throws -> [Float] {
      let model = try DiT(config: config, weights: TinyModel.Noise())
      let sampler = LatentSampler(
        steps: 1, guidance: 3, seed: 4, guidedChannels: channels)
      return try sampler.sample(model, labels: [1]).values
    }
    let (three, all) = (try sample(3), try sample(4))
    #expect(three[..<48] == all[..<48] && three[48...] != all[48...])
    #expect(try sample(nil) == three)
    config.frequencyShift = 1
    #expect(try sample(nil) == sample(4) && sample(nil) != sample(3))
  }

  @Test(arguments: LatentSampler.Method.allCases)
  func resultsThatAreNotFiniteAreRefused(method: LatentSampler.Method) throws {
    let model = try TinyModel.make(method.prediction)
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
        Conditioning(
          timesteps: [Float](repeating: timestep, count: batch), labels: labels))
      #expect(
        zip(found.values, expected.values).allSatisfy { abs($0 - $1) < 1e-5 * max(1, abs($1)) })
    }
  }
}
