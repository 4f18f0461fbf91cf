import TensorCore

/// Batch of clean latents with all random draws of one training step.
package struct DiffusionBatch {
  /// Clean latents (batch, channels, size, size).
  package let latents: Tensor
  /// Standard normal noise, same shape.
  package let noise: Tensor
  /// One step of the diffusion process per row.
  package let steps: [Int]
  /// Labels after label dropout, which replaces labels by the model's `nullClass`.
  package let labels: [Int]
  /// Indices of the samples in the data set; empty if unknown.
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
