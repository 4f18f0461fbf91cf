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

  /// Shifted times t -> s t / (1 + (s - 1) t), and guidance at some times alone, against the definition.
  @Test(arguments: [LatentSampler.Method.euler, .heun])
  func shiftedTimesAndGuidanceInterval(method: LatentSampler.Method) throws {
    let model = try TinyModel.make(.velocity)
    var sampler = LatentSampler(method: method, steps: 5, guidance: 4, seed: 4)
    let plain = try sampler.sample(model, labels: [2]).values
    (sampler.timeShift, sampler.guidanceInterval) = (0.3, 0.125...0.6)
    let times = (0...5).map { index in
      let t = Double(index) / 5
      return 0.3 * t / (1 - 0.7 * t)
    }
    #expect(times.filter(sampler.guidanceInterval.contains).count == 3)
    func velocity(_ x: [Double], _ t: Double) -> [Double] {
      func predict(_ label: Int) -> [Double] {
        model.predict(
          Tensor(x.map { Float($0) }, shape: [1, 2, 4, 4]),
          Conditioning(timesteps: [Float(t)], labels: [label])
        ).values.prefix(x.count).map(Double.init)
      }
      let own = predict(2)
      guard (0.125...0.6).contains(t) else { return own }
      return zip(predict(3), own).map { $0 + 4 * ($1 - $0) }
    }
    func moved(_ x: [Double], _ h: Double, _ v: [Double]) -> [Double] {
      zip(x, v).map { $0 + h * $1 }
    }
    var x = RandomStream(seed: 4, "sampling/start").normal([32]).values.map(Double.init)
    for (t, next) in zip(times, times.dropFirst()) {
      let first = velocity(x, t)
      if method == .euler {
        x = moved(x, next - t, first)
      } else {
        let second = velocity(moved(x, next - t, first), next)
        x = moved(x, (next - t) / 2, zip(first, second).map { $0 + $1 })
      }
    }
    let found = try sampler.sample(model, labels: [2]).values
    let scale = x.map { abs($0) }.max() ?? 1
    #expect(zip(found, x).allSatisfy { abs(Double($0) - $1) < 1e-4 * scale })
    #expect(zip(plain, x).contains { abs(Double($0) - $1) > 1e-2 * scale })
  }

  /// The settings of LightningDiT's published samples are its defaults; REPA guides all channels.
  @Test func velocityModelsOfOthers() throws {
    let lightning = LatentSampler.defaults(of: .lightningdit)
    #expect(lightning.timeShift == 0.3 && lightning.guidanceInterval == 0.125...1)
    var shape = TinyModel.config
    (shape.family, shape.inChannels) = (.sit, 4)
    let sampler = LatentSampler.defaults(of: .sit)
    #expect(sampler.timeShift == 1 && sampler.guidanceInterval == 0...1)
    #expect(sampler.guidedChannels(of: shape) == 3)
    shape.reversedTime = true
    #expect(sampler.guidedChannels(of: shape) == 4)
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
