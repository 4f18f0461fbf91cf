import Autograd
import Foundation
import Models
import Sampling
import TensorCore

/// Draws latents from a class-conditional DiT with classifier-free guidance.
package struct LatentSampler: Sendable {
  /// The sampling loops.
  package enum Method: String, Sendable, CaseIterable, Codable {
    /// DDIM with eta 0, spacing `ddimN`.
    case ddim
    /// Ancestral sampling with the learned variance, spacing `N`.
    case ancestral
  }

  package var method: Method
  /// Number of steps.
  package var steps: Int
  /// Guidance scale on the first three channels; 1 is no guidance.
  package var guidance: Float
  package var seed: UInt64

  package init(method: Method = .ddim, steps: Int, guidance: Float, seed: UInt64) {
    self.method = method
    self.steps = steps
    self.guidance = guidance
    self.seed = seed
  }

  /// The latents (count, channels, size, size) of a list of labels.
  ///
  /// Sample i has the start noise of stream `seed` and index `first + i`, whatever the batch it is in.
  /// - Parameters:
  ///   - model: The network, grafted or not.
  ///   - labels: One class per sample.
  ///   - first: Index of the first sample.
  ///   - observeBlock: Called with every block's index and operator activations at every step.
  ///   - onStep: Called after every step with its number and the predicted clean latents; may throw to
  ///     stop.
  /// - Returns: The clean latents.
  /// - Throws: `SamplingError` for a number of steps that cannot be used.
  package func sample(
    _ model: DiT, labels: [Int], first: Int = 0,
    observeBlock: ((Int, DiTBlock.Activations) -> Void)? = nil,
    onStep: (_ step: Int, _ steps: Int, _ predictedStart: Tensor) throws -> Void = { _, _, _ in }
  ) throws -> Tensor {
    let config = model.config
    let diffusion = try process()
    let count = labels.count
    let shape = [count, config.inChannels, config.inputSize, config.inputSize]
    let noise = GaussianNoise(seed: seed)
    func draw(stream: UInt64) -> Tensor {
      let result = Tensor(shape)
      for row in 0..<count {
        let sample = noise.tensor(
          [1] + shape.dropFirst(), stream: (UInt64(first + row) << 16) | stream)
        result.rows(row..<(row + 1)).assign(sample)
      }
      return result
    }
    let start = draw(stream: 0)
    let guided = guidance != 1
    let null = [Int](repeating: config.numClasses, count: count)
    let allLabels = guided ? labels + null : labels
    let plain: DenoisingModel = { latents, timesteps in
      model(
        Value(constant: latents), DiT.Conditioning(timesteps: timesteps, labels: allLabels),
        on: Tape(recording: false), observeBlock: observeBlock
      ).tensor
    }
    let network = guided ? Guidance.guided(plain, scale: guidance) : plain
    let latents: Tensor
    if guided {
      latents = Tensor([2 * count] + shape.dropFirst())
      latents.rows(0..<count).assign(start)
      latents.rows(count..<(2 * count)).assign(start)
    } else {
      latents = start
    }
    func stepNoise(_ position: Int, _ shape: [Int]) -> Tensor {
      let single = draw(stream: UInt64(position + 1))
      guard guided else { return single }
      let both = Tensor(shape)
      both.rows(0..<count).assign(single)
      both.rows(count..<(2 * count)).assign(single)
      return both
    }
    let result: Tensor
    switch method {
    case .ddim:
      result = try diffusion.ddimSamples(from: latents, model: network) { step in
        try onStep(step.position + 1, step.count, step.predictedStart.rows(0..<count))
      }
    case .ancestral:
      result = try diffusion.ancestralSamples(from: latents, noise: stepNoise, model: network) {
        step in
        try onStep(step.position + 1, step.count, step.predictedStart.rows(0..<count))
      }
    }
    return result.rows(0..<count).copied()
  }

  /// The original timesteps that the network sees, in ascending order.
  package func timesteps() throws -> [Int] { try process().schedule.timesteps }

  /// DDIM's integer strides exist for some step counts only; the others use fractional strides.
  private func process() throws(SamplingError) -> GaussianDiffusion {
    if method == .ddim, let process = try? GaussianDiffusion(spacing: "ddim\(steps)") {
      return process
    }
    return try GaussianDiffusion(spacing: "\(steps)")
  }
}
