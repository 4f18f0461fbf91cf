import Models
import Sampling
import TensorCore

/// Batch of clean latents with all random draws of one training step.
package struct DiffusionBatch {
  /// Clean latents (batch, channels, size, size).
  package let latents: Tensor
  /// Standard normal noise, same shape.
  package let noise: Tensor
  /// One step of a noise process and one time of a velocity process per row.
  package let draws: TrainingProcess.Draws
  /// Labels after label dropout, which replaces labels by the model's `nullClass`; zeros with captions.
  package let labels: [Int]
  /// Captions after caption dropout, of captioned data.
  package let captions: Captions?
  /// Indices of the samples in the data set; empty if unknown.
  package let samples: [Int]

  /// One step of the diffusion process per row.
  package var steps: [Int] { draws.steps }

  package init(
    latents: Tensor, noise: Tensor, steps: [Int], times: [Double] = [], labels: [Int],
    captions: Captions? = nil, samples: [Int] = []
  ) {
    self.samples = samples
    self.latents = latents
    self.noise = noise
    self.labels = labels
    self.captions = captions
    draws = .init(steps: steps, times: times)
  }

  /// Noisy latents and conditioning of some rows.
  package func input(
    _ range: Range<Int>, of process: TrainingProcess
  ) -> (noisy: Tensor, Conditioning) {
    let draws = draws[range]
    let times = process.modelTimes(draws)
    return (
      process.noisy(latents.rows(range), noise: noise.rows(range), draws),
      captions.map {
        Conditioning(
          timesteps: times, captions: $0.selecting(Array(range), length: $0.length))
      } ?? Conditioning(timesteps: times, labels: Array(labels[range]))
    )
  }
}
