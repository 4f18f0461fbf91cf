import Autograd
import Foundation
import Models
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
  }

  package var method: Method
  /// Number of steps.
  package var steps: Int
  /// Guidance scale; 1 is no guidance.
  package var guidance: Float
  /// Seed of the start noise and of the ancestral noise.
  package var seed: UInt64
  /// DDIM's eta: 0 is deterministic, 1 adds the noise of ancestral sampling.
  package var eta: Double
  /// Number of leading latent channels that are guided; nil selects that of the model's own
  /// pipeline.
  package var guidedChannels: Int?

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

  /// Defaults for DiT: DDIM, 25 steps, guidance 2.
  package static let ditDefaults = LatentSampler(steps: 25, guidance: 2, seed: 0)

  /// Whether the network is called with a doubled batch [conditional | unconditional].
  var isGuided: Bool { guidance != 1 }

  /// Called after every step with its number and the predicted clean latents; may throw to stop.
  package typealias StepObserver = (_ step: Int, _ steps: Int, _ predictedStart: Tensor) throws ->
    Void

  /// Samples latents (count, channels, size, size) for a list of labels.
  ///
  /// Guidance acts on three channels as in the official DiT, and on all channels for a model with
  /// the conventions of diffusers, as in its pipeline. A model without a null class is not guided.
  ///
  /// Row i uses the noise of sample `first + i` of the seed, independent of the batch size.
  /// - Parameters:
  ///   - model: The network, grafted or not.
  ///   - labels: One class per sample.
  ///   - first: Index of the first sample.
  ///   - start: Initial noise in the shape of the latents; nil draws it from the seed.
  ///   - observeBlock: Called with every block's index and operator activations at every step.
  ///   - onStep: Called after every step.
  /// - Returns: The clean latents.
  /// - Throws: `SamplingError` for an invalid number of steps.
  package func sample(
    _ model: DiT, labels: [Int], first: Int = 0, start: Tensor? = nil,
    observeBlock: ((Int, DiTBlock.Activations) -> Void)? = nil,
    onStep: StepObserver = { _, _, _ in }
  ) throws -> Tensor {
    let config = model.config
    var sampler = self
    if config.nullClass == nil { sampler.guidance = 1 }
    let null = [Int](repeating: config.nullClass ?? 0, count: labels.count)
    // Samplers run from the last timestep to the first.
    let modulations = TrajectoryModulations(
      model, labels: sampler.isGuided ? labels + null : labels,
      timesteps: try timesteps().reversed().map(Float.init))
    return try sampler.sample(
      shape: [labels.count, config.inChannels, config.inputSize, config.inputSize],
      first: first, start: start,
      guidedChannels: config.frequencyShift == 0 ? Guidance.guidedChannels : config.inChannels,
      network: { latents, timesteps in
        model(
          Value(constant: latents), modulations(at: timesteps[0]), on: Tape(recording: false),
          observeBlock: observeBlock
        ).tensor
      }, onStep: onStep)
  }

  /// Samples latents from any denoising network.
  ///
  /// - Parameters:
  ///   - shape: (count, channels, height, width) of the latents.
  ///   - first: Index of the first sample.
  ///   - start: Initial noise of that shape; nil draws it from the seed.
  ///   - guidedChannels: Number of leading channels that are guided unless the sampler sets it.
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
      ? Guidance.guided(
        network, scale: guidance, channels: self.guidedChannels ?? guidedChannels) : network
    let stepNoise: StepNoise = { position, _ in draw("\(position)") }
    let report: (SamplerStep) throws -> Void = { step in
      try onStep(step.position + 1, step.count, step.predictedStart.rows(0..<count))
    }
    let diffusion = try process()
    let start = start.map { given in batch { given.rows($0..<($0 + 1)) } } ?? draw("start")
    let result =
      switch method {
      case .ddim:
        try diffusion.ddimSamples(
          from: start, eta: eta, noise: stepNoise, model: model, onStep: report)
      case .ancestral:
        try diffusion.ancestralSamples(from: start, noise: stepNoise, model: model, onStep: report)
      case .dpmpp: try diffusion.dpmSolverSamples(from: start, model: model, onStep: report)
      }
    guard result.isFinite else {
      throw SamplingError(
        description:
          "sampling gave values that are not finite, although all weights are finite; use"
          + " --precision fp32, less guidance or other weights")
    }
    return result.rows(0..<count).copied()
  }

  /// Start noise (seeds, channels, size, size) of the first sample of each of several seeds.
  package static func start(seeds: [UInt64], for model: DiT) -> Tensor {
    let config = model.config
    let shape = [config.inChannels, config.inputSize, config.inputSize]
    let result = Tensor([seeds.count] + shape)
    for (row, seed) in seeds.enumerated() {
      result.rows(row..<(row + 1)).assign(
        RandomStream(seed: seed, "sampling/start").normal([1] + shape, from: 0))
    }
    return result
  }

  /// Timesteps of the training process passed to the network, ascending.
  package func timesteps() throws -> [Int] { try process().schedule.timesteps }

  /// DDIM's integer strides exist for some step counts only; the others use fractional strides.
  private func process() throws(SamplingError) -> GaussianDiffusion {
    if method == .dpmpp { return try .evenlySpread(steps) }
    if method == .ddim, let process = try? GaussianDiffusion(spacing: "ddim\(steps)") {
      return process
    }
    return try GaussianDiffusion(spacing: "\(steps)")
  }
}
