import Autograd
import CKernels
import Foundation
import Models
import Nn
import Sampling
import TensorCore

/// A batch of clean latents with everything random about one training step decided.
package struct DiffusionBatch {
  /// Clean latents (batch, channels, size, size).
  package let latents: Tensor
  /// Standard normal noise, same shape.
  package let noise: Tensor
  /// One step of the diffusion process per row.
  package let steps: [Int]
  /// Labels after label dropout; the null class is the model's `numClasses`.
  package let labels: [Int]

  package init(latents: Tensor, noise: Tensor, steps: [Int], labels: [Int]) {
    self.latents = latents
    self.noise = noise
    self.steps = steps
    self.labels = labels
  }
}

/// What one training step did.
package struct TrainingStepReport: Sendable {
  /// Mean of mse + vb over the batch.
  package let loss: Double
  package let mse: Double
  package let vb: Double
  /// Global gradient norm before clipping.
  package let gradientNorm: Double
}

/// Trains a whole DiT with the diffusion loss: the loop of pretraining and of stage 2.
///
/// Loss: mse + variational bound as `training_losses` of facebookresearch/DiT; AdamW unless another
/// optimizer is given, global-norm clipping, EMA.
package final class DiffusionTrainer {
  package let model: DiT
  package let optimizer: any Optimizer
  package let ema: EMA
  private let diffusion: GaussianDiffusion

  /// Makes a trainer for all parameters that are not frozen.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - diffusion: The process whose loss is minimised.
  ///   - emaDecay: Decay of the averaged weights.
  ///   - makeOptimizer: Makes the optimizer of the given parameters.
  package init(
    model: DiT, diffusion: GaussianDiffusion, emaDecay: Float,
    makeOptimizer: ([Parameter]) -> any Optimizer = { AdamW($0) }
  ) {
    self.model = model
    self.diffusion = diffusion
    let trainable = model.parameters.filter { !$0.isFrozen }
    optimizer = makeOptimizer(trainable)
    ema = EMA(trainable, decay: emaDecay)
  }

  /// Takes one optimizer step.
  ///
  /// - Parameters:
  ///   - batch: The samples.
  ///   - microBatch: Rows per forward pass; the parts run side by side and their gradients add up.
  ///   - rate: Learning rate.
  ///   - clipNorm: Largest global gradient norm.
  ///   - emaDecay: Decay of this step; nil for the trainer's own.
  /// - Returns: The losses before the step and the gradient norm.
  package func step(
    _ batch: DiffusionBatch, microBatch: Int, rate: Double, clipNorm: Float, emaDecay: Float? = nil
  ) -> TrainingStepReport {
    let rows = batch.steps.count
    let parts = MicroBatches(rows: rows, size: microBatch)
    let terms = parts.accumulate(into: optimizer.parameters) { range, makeTape in
      backward(batch, range, share: Float(range.count) / Float(rows), makeTape())
    }
    let loss = terms.reduce(0) { $0 + $1.loss }
    let mse = terms.reduce(0) { $0 + $1.mse }
    let vb = terms.reduce(0) { $0 + $1.vb }
    let norm = optimizer.step(rate: Float(rate), clipNorm: clipNorm, gradientScale: 1)
    ema.update(decay: emaDecay)
    let scale = 1 / Double(rows)
    return TrainingStepReport(
      loss: loss * scale, mse: mse * scale, vb: vb * scale, gradientNorm: norm)
  }

  /// Adds the gradients of some rows; returns the sums of their losses.
  private func backward(
    _ batch: DiffusionBatch, _ range: Range<Int>, share: Float, _ tape: Tape
  ) -> (loss: Double, mse: Double, vb: Double) {
    let latents = batch.latents.rows(range)
    let noise = batch.noise.rows(range)
    let steps = Array(batch.steps[range])
    let noisy = diffusion.noisy(latents, noise: noise, steps: steps)
    let output = model(
      Value(constant: noisy),
      DiT.Conditioning(
        timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range])),
      on: tape)
    let terms = diffusion.trainingLoss(
      modelOutput: output.tensor, start: latents, latents: noisy, noise: noise, steps: steps)
    let gradient = diffusion.lossGradient(
      modelOutput: output.tensor, start: latents, latents: noisy, noise: noise, steps: steps)
    ck_scale_f32(gradient.pointer, share, gradient.count)
    tape.backward(output, gradient)
    func sum(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } }
    return (sum(terms.loss), sum(terms.mse), sum(terms.vb))
  }
}
