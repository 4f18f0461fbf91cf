import TensorCore

/// A batch of clean latents with everything random about one training step decided.
package struct DiffusionBatch {
  /// Clean latents (batch, channels, size, size).
  package let latents: Tensor
  /// Standard normal noise, same shape.
  package let noise: Tensor
  /// One step of the diffusion process per row.
  package let steps: [Int]
  /// Labels after label dropout; those dropped are the model's `nullClass`.
  package let labels: [Int]
  /// Which samples of the data set they are; empty if nobody has said.
  package let samples: [Int]

  package init(
    latents: Tensor, noise: Tensor, steps: [Int], labels: [Int], samples: [Int] = []
  ) {
    self.samples = samples
    self.latents = latents
    self.noise = noise
    self.steps = steps
    self.labels = labels
  }
}
