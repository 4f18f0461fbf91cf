import Autograd
import Foundation
import Models
import Plans
import TensorCore

/// Draws latents from a diffusion transformer with classifier-free guidance.
package struct LatentSampler: Sendable {
  /// The sampling loops.
  package enum Method: String, Sendable, CaseIterable, Codable {
    /// DDIM, spacing `ddimN`.
    case ddim
    /// Ancestral sampling with the learned variance, spacing `N`.
    case ancestral
    /// DPM-Solver++(2M) on evenly spread timesteps.
    case dpmpp
    /// Euler's method for the velocity.
    case euler
    /// Heun's method for the velocity, with two predictions a step.
    case heun
    /// Euler-Maruyama for the velocity with noise (SiT's SDE).
    case sde
    /// Heun's method for the velocity with noise.
    case sdeHeun = "sde-heun"

    /// What the models predict that it draws from.
    package var prediction: ModelFamily.Prediction {
      switch self {
      case .ddim, .ancestral, .dpmpp: .noise
      case .euler, .heun, .sde, .sdeHeun: .velocity
      }
    }

    /// Whether it adds noise at every step to the velocity.
    package var isStochastic: Bool { self == .sde || self == .sdeHeun }

    /// The methods for a prediction.
    package static func fitting(_ prediction: ModelFamily.Prediction) -> [Method] {
      allCases.filter { $0.prediction == prediction }
    }
  }

  package var method: Method
  /// Number of steps.
  package var steps: Int
  /// Guidance scale; 1 is no guidance.
  package var guidance: Float
  /// Seed of the start noise and of the noise of steps.
  package var seed: UInt64
  /// DDIM's eta: 0 is deterministic, 1 adds the noise of ancestral sampling.
  package var eta: Double
  /// Number of leading latent channels that are guided; nil selects that of the model's own
  /// pipeline.
  package var guidedChannels: Int?
  /// Times of a velocity model at which guidance acts, 0 the noise and 1 the data; at others the conditional
  /// prediction is taken.
  package var guidanceInterval = 0.0...1.0
  /// Shift s of the times of `euler` and `heun`, t -> s t / (1 + (s - 1) t); below 1 more steps are near the noise.
  package var timeShift = 1.0
  /// Form and norm of the diffusion coefficient of `sde` and `sdeHeun`.
  package var diffusion: (form: Interpolant.Diffusion, norm: Double) = (.sigma, 1)
  /// Last step of `sde` and `sdeHeun`, and its length.
  package var lastStep: (kind: VelocitySampler.LastStep, length: Double) = (.mean, 0.04)
  /// When steps reuse what the blocks computed before; nil computes everything.
  package var cache: StepCache?

  package init(
    method: Method = .ddim, steps: Int, guidance: Float, seed: UInt64, eta: Double = 0,
    guidedChannels: Int? = nil
  ) {
    self.guidedChannels = guidedChannels
    self.method = method
    self.steps = steps
    self.guidance = guidance
    self.seed = seed
    self.eta = eta
  }

  /// Defaults of a family: those of its authors' scripts where a CPU can afford them.
  package static func defaults(of family: ModelFamily) -> LatentSampler {
    let method: Method =
      switch family {
      case .dit: .ddim
      case .sit, .lightningdit: .heun
      case .pixart: .dpmpp
      }
    let (steps, guidance) = family.samplerDefaults
    var sampler = LatentSampler(method: method, steps: steps, guidance: Float(guidance), seed: 0)
    if family == .lightningdit {
      (sampler.guidanceInterval, sampler.timeShift) = (0.125...1, 0.3)
    }
    return sampler
  }

  /// The fastest method with one prediction a step at any number of steps, for analyses and previews.
  package static func plainMethod(of family: ModelFamily) -> Method {
    family.prediction == .noise ? .ddim : .euler
  }

  /// Whether the network is called with a doubled batch [conditional | unconditional].
  var isGuided: Bool { guidance != 1 }

  /// Called after every step with its number and the predicted clean latents; may throw to stop.
  package typealias StepObserver = (_ step: Int, _ steps: Int, _ predictedStart: Tensor) throws ->
    Void

  /// What samples are drawn for, one entry each.
  package enum Conditions {
    /// Classes.
    case labels([Int])
    /// Captions, and the caption of the unconditional prediction, which guidance needs: one, or one each.
    case captions(Captions, null: Captions?)

    /// Number of samples.
    package var count: Int {
      switch self {
      case .labels(let labels): labels.count
      case .captions(let captions, _): captions.count
      }
    }
  }

  /// Samples latents (count, channels, height, width).
  ///
  /// Guidance acts on three channels as in the official DiT and SiT and PixArt's scripts; on all channels for
  /// a DiT with the conventions of diffusers and for DPM-Solver++ on captions, as in its pipelines, and for
  /// models of REPA. A model without a null class is not guided.
  ///
  /// Row i uses the noise of sample `first + i` of the seed, independent of the batch size.
  /// - Parameters:
  ///   - model: The network, grafted or not.
  ///   - conditions: Classes or captions, as its family takes them.
  ///   - size: Height and width of the latents; nil selects those of the model.
  ///   - first: Index of the first sample.
  ///   - start: Initial noise in the shape of the latents; nil draws it from the seed.
  ///   - reuse: Counts the evaluations that the cache saves.
  ///   - observeBlock: Called with the index and operator activations of every block that runs.
  ///   - onStep: Called after every step.
  /// - Returns: The clean latents.
  /// - Throws: `SamplingError` for settings that do not fit the model.
  package func sample(
    _ model: any DiffusionTransformer, for conditions: Conditions,
    size: (height: Int, width: Int)? = nil, first: Int = 0, start: Tensor? = nil,
    reuse: StepReuse? = nil, observeBlock: DiffusionTransformer.BlockObserver? = nil,
    onStep: StepObserver = { _, _, _ in }
  ) throws -> Tensor {
    let shape = model.shape
    guard method.prediction == shape.family.prediction else {
      let methods = Method.fitting(shape.family.prediction).map(\.rawValue)
      throw SamplingError(
        description:
          "the sampler \(method.rawValue) is not for a \(shape.family.title); choose one of"
          + " \(methods.joined(separator: ", "))")
    }
    var sampler = self
    let condition: Conditioning.Condition
    switch conditions {
    case .labels(let labels):
      if shape.nullClass == nil { sampler.guidance = 1 }
      let null = [Int](repeating: shape.nullClass ?? 0, count: labels.count)
      condition = .labels(sampler.isGuided ? labels + null : labels)
    case .captions(let captions, let null):
      var shown = captions
      if isGuided {
        guard let null else {
          throw SamplingError(
            description:
              "guidance \(guidance) needs the embedding of the empty caption; give it with"
              + " --null-caption, or --guidance 1 for none")
        }
        let rows = (0..<captions.count).map { null.count == captions.count ? $0 : 0 }
        shown = captions.followed(by: null.selecting(rows, length: null.length))
      }
      condition = Conditioning(timesteps: [], captions: shown).condition
    }
    let modulations = model.modulations(along: try sampler.modelTimes(), condition)
    let network: (Tensor, Float) -> Tensor
    if let cache {
      let cached = StepCachedNetwork(model, modulations, cache, reuse: reuse)
      network = { cached($0, $1, observeBlock: observeBlock) }
    } else {
      network = { latents, time in
        model(
          Value(constant: latents), modulations(time), on: Tape(recording: false),
          observeBlock: observeBlock
        ).tensor
      }
    }
    return try sampler.sample(
      shape: [
        conditions.count, shape.inChannels, size?.height ?? shape.inputSize,
        size?.width ?? shape.inputSize,
      ],
      first: first, start: start, guidedChannels: guidedChannels(of: shape),
      network: { latents, timesteps in network(latents, timesteps[0]) }, onStep: onStep)
  }

  /// Number of leading latent channels of a model that are guided.
  package func guidedChannels(of shape: ModelShape) -> Int {
    if let guidedChannels { return min(guidedChannels, shape.inChannels) }
    return method == .dpmpp && shape.family.condition == .captions
      ? shape.inChannels : Guidance.guidedChannels(of: shape)
  }

  /// The guidance scale at a time of a velocity model, or at any step of a noise model.
  private func guidance(at time: Double) -> Float {
    method.prediction == .noise || guidanceInterval.contains(time) ? guidance : 1
  }

  /// The guidance scale of every one of some draws of the training process.
  package func guidance(at draws: TrainingProcess.Draws) -> [Float] {
    draws.steps.indices.map { guidance(at: draws.times.isEmpty ? 0 : draws.times[$0]) }
  }

  /// Samples latents for a list of classes.
  package func sample(
    _ model: any DiffusionTransformer, labels: [Int], first: Int = 0, start: Tensor? = nil,
    reuse: StepReuse? = nil, observeBlock: DiffusionTransformer.BlockObserver? = nil,
    onStep: StepObserver = { _, _, _ in }
  ) throws -> Tensor {
    try sample(
      model, for: .labels(labels), first: first, start: start, reuse: reuse,
      observeBlock: observeBlock, onStep: onStep)
  }

  /// Samples latents from any denoising network.
  ///
  /// - Parameters:
  ///   - shape: (count, channels, height, width) of the latents.
  ///   - first: Index of the first sample.
  ///   - start: Initial noise of that shape; nil draws it from the seed.
  ///   - guidedChannels: Number of leading channels that are guided.
  ///   - network: The network; with guidance it receives [conditional | unconditional] batches.
  ///   - onStep: Called after every step.
  /// - Returns: The clean latents.
  /// - Throws: `SamplingError` for an invalid number of steps.
  func sample(
    shape: [Int], first: Int, start: Tensor?, guidedChannels: Int,
    network: @escaping DenoisingModel,
    onStep: StepObserver
  ) throws -> Tensor {
    precondition(start.map { $0.shape == shape } ?? true, "sampler: start \(start?.shape ?? [])")
    let count = shape[0]
    /// Stacks one row per sample, and repeats them for the second half of a guided batch.
    func batch(_ sample: (Int) -> Tensor) -> Tensor {
      let result = Tensor([isGuided ? 2 * count : count] + shape.dropFirst())
      for row in 0..<result.shape[0] {
        result.rows(row..<(row + 1)).assign(sample(row % count))
      }
      return result
    }
    let width = shape.dropFirst().reduce(1, *)
    func draw(_ name: String) -> Tensor {
      let noise = RandomStream(seed: seed, "sampling/\(name)")
      return batch { noise.normal([1] + shape.dropFirst(), from: (first + $0) * width) }
    }
    let model =
      isGuided
      ? Guidance.guided(network, channels: guidedChannels) { guidance(at: Double($0)) } : network
    let start = start.map { given in batch { given.rows($0..<($0 + 1)) } } ?? draw("start")
    func report(_ position: Int, _ steps: Int, _ clean: Tensor) throws {
      try onStep(position, steps, clean.rows(0..<count))
    }
    let result =
      method.prediction == .velocity
      ? try velocitySamples(from: start, noise: { draw("\($0)") }, model: model, onStep: report)
      : try noiseSamples(from: start, noise: { draw("\($0)") }, model: model, onStep: report)
    guard result.isFinite else {
      throw SamplingError(
        description:
          "sampling gave values that are not finite, although all weights are finite; use"
          + " --precision fp32, less guidance or other weights")
    }
    return result.rows(0..<count).copied()
  }

  private func noiseSamples(
    from start: Tensor, noise: @escaping (Int) -> Tensor, model: DenoisingModel,
    onStep: (Int, Int, Tensor) throws -> Void
  ) throws -> Tensor {
    let stepNoise: StepNoise = { position, _ in noise(position) }
    let report: (SamplerStep) throws -> Void = {
      try onStep($0.position + 1, $0.count, $0.predictedStart)
    }
    let diffusion = try process()
    switch method {
    case .ddim:
      return try diffusion.ddimSamples(
        from: start, eta: eta, noise: stepNoise, model: model, onStep: report)
    case .ancestral:
      return try diffusion.ancestralSamples(
        from: start, noise: stepNoise, model: model, onStep: report)
    default: return try diffusion.dpmSolverSamples(from: start, model: model, onStep: report)
    }
  }

  private func velocitySamples(
    from start: Tensor, noise: @escaping (Int) -> Tensor, model: DenoisingModel,
    onStep: (Int, Int, Tensor) throws -> Void
  ) throws -> Tensor {
    let channels = start.shape[1]
    let velocities: VelocityModel = { latents, time in
      try model(latents, [Float](repeating: Float(time), count: latents.shape[0]))
        .leadingChannels(channels)
    }
    let order: VelocitySampler.Order = method == .heun || method == .sdeHeun ? .heun : .euler
    let report: (VelocitySampler.Step) throws -> Void = {
      try onStep($0.position, steps, $0.predictedStart)
    }
    guard method.isStochastic else {
      return try VelocitySampler.deterministic(
        from: start, times: shiftedTimes, order: order, model: velocities, onStep: report)
    }
    return try VelocitySampler.stochastic(
      from: start, points: stochasticPoints, order: order, diffusion: diffusion,
      lastStep: lastStep.kind, last: lastStep.length, noise: { noise($0) }, model: velocities,
      onStep: report)
  }

  /// Times of the grid of `euler` and `heun`, from 0 to 1.
  private var shiftedTimes: [Double] {
    VelocitySampler.shifted(
      VelocitySampler.times(steps + 1), by: method.isStochastic ? 1 : timeShift)
  }

  /// Points of the grid of a stochastic sampler; the last step is one of `steps`.
  private var stochasticPoints: Int { lastStep.kind == .none ? steps + 1 : max(2, steps) }

  /// Start noise (seeds, channels, size, size) of the first sample of each of several seeds.
  package static func start(seeds: [UInt64], for model: any DiffusionTransformer) -> Tensor {
    let config = model.shape
    let shape = [config.inChannels, config.inputSize, config.inputSize]
    let result = Tensor([seeds.count] + shape)
    for (row, seed) in seeds.enumerated() {
      result.rows(row..<(row + 1)).assign(
        RandomStream(seed: seed, "sampling/start").normal([1] + shape, from: 0))
    }
    return result
  }

  /// Timesteps of the training process of a noise method, ascending.
  package func timesteps() throws -> [Int] { try process().schedule.timesteps }

  /// Steps or times of the training process at which the network is evaluated, in the order of the sampler.
  package func trainingDraws() throws -> TrainingProcess.Draws {
    switch method.prediction {
    case .noise: return .init(steps: try timesteps().reversed())
    case .velocity:
      let times = Array(shiftedTimes.dropLast())
      return .init(steps: [Int](repeating: 0, count: times.count), times: times)
    }
  }

  /// Times of all steps in order, as the network is told them.
  package func modelTimes() throws -> [Float] {
    switch method.prediction {
    case .noise: return try timesteps().reversed().map(Float.init)
    case .velocity:
      let times =
        method.isStochastic
        ? VelocitySampler.times(
          stochasticPoints, end: lastStep.kind == .none ? 1 : 1 - lastStep.length)
        : shiftedTimes
      return times.map { Float($0) }
    }
  }

  /// DDIM's integer strides exist for some step counts only; the others use fractional strides.
  private func process() throws(SamplingError) -> GaussianDiffusion {
    if method == .dpmpp { return try .evenlySpread(steps) }
    if method == .ddim, let process = try? GaussianDiffusion(spacing: "ddim\(steps)") {
      return process
    }
    return try GaussianDiffusion(spacing: "\(steps)")
  }
}
