import Autograd
import Models
import TensorCore

extension LatentSampler {
  /// Defaults for PixArt-Σ: DPM-Solver++, 20 steps, guidance 4.5.
  package static let pixArtDefaults = LatentSampler(
    method: .dpmpp, steps: 20, guidance: 4.5, seed: 0)

  /// Samples latents (captions, inChannels, height, width) for captions.
  ///
  /// Guidance acts on all channels with DPM-Solver++, and on three with the samplers of DiT, as
  /// PixArt-sigma's `scripts/inference.py` has it. Noise is as for class-conditional models.
  /// - Parameters:
  ///   - model: The network, grafted or not.
  ///   - captions: One caption per sample.
  ///   - null: Caption of the unconditional prediction; unused without guidance.
  ///   - height: Height of the latents, a multiple of the patch size.
  ///   - width: Width of the latents, a multiple of the patch size.
  ///   - first: Index of the first sample.
  ///   - start: Initial noise in the shape of the latents; nil draws it from the seed.
  ///   - onStep: Called after every step.
  /// - Returns: The clean latents.
  /// - Throws: `SamplingError` for invalid sampler settings.
  package func sample(
    _ model: PixArt, captions: Captions, null: Captions?, height: Int, width: Int,
    first: Int = 0, start: Tensor? = nil, onStep: StepObserver = { _, _, _ in }
  ) throws -> Tensor {
    let config = model.config
    var shown = captions
    if isGuided {
      guard let null else {
        throw SamplingError(
          description: "guidance \(guidance) needs the embedding of the empty caption; give it with"
            + " --null-caption, or --guidance 1 for none")
      }
      let repeated = null.selecting(
        [Int](repeating: 0, count: captions.count), length: null.length)
      shown = captions.followed(by: repeated)
    }
    shown = shown.trimmed()
    return try sample(
      shape: [captions.count, config.inChannels, height, width], first: first, start: start,
      guidedChannels: method == .dpmpp ? config.inChannels : Guidance.guidedChannels,
      network: { latents, timesteps in
        model.predict(
          latents,
          PixArt.Conditioning(
            timesteps: timesteps, caption: Value(constant: shown.embeddings), mask: shown.mask))
      }, onStep: onStep)
  }
}
