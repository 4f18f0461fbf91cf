import Autograd
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
    let parts = stride(from: 0, to: rows, by: microBatch).map { $0..<min(rows, $0 + microBatch) }
    let sums = accumulate(batch, parts)
    let (loss, mse, vb) = (sums[0], sums[1], sums[2])
    let norm = optimizer.step(rate: Float(rate), clipNorm: clipNorm, gradientScale: 1)
    ema.update(decay: emaDecay)
    let scale = 1 / Double(rows)
    return TrainingStepReport(
      loss: loss * scale, mse: mse * scale, vb: vb * scale, gradientNorm: norm)
  }

  /// Largest size of all gradient stores of a step, in bytes; beyond it the parts follow each other.
  private static let storeBudget = 1 << 29

  /// Adds up the gradients of all parts and returns the sums of loss, mse and vb over the rows.
  ///
  /// Parts run side by side, each on one thread with a gradient store of its own, and are added in
  /// their order: the result depends neither on the number of threads nor on their timing.
  private func accumulate(_ batch: DiffusionBatch, _ parts: [Range<Int>]) -> [Double] {
    let rows = batch.steps.count
    let bytes = optimizer.parameters.reduce(0) { $0 + $1.value.count } * 4
    var sums = [Double](repeating: 0, count: 3 * parts.count)
    if parts.count == 1 || bytes * parts.count > Self.storeBudget {
      for (index, part) in parts.enumerated() {
        let terms = backward(batch, part, share: Float(part.count) / Float(rows), Tape())
        sums.replaceSubrange((3 * index)..<(3 * index + 3), with: terms)
      }
    } else {
      let stores = parts.map { _ in GradientStore() }
      sums.withUnsafeMutableBufferPointer { sums in
        Parallel.tasks(parts.count) { index in
          let share = Float(parts[index].count) / Float(rows)
          let terms = backward(batch, parts[index], share: share, Tape(gradients: stores[index]))
          for term in 0..<3 { sums[3 * index + term] = terms[term] }
        }
      }
      Parallel.tasks(optimizer.parameters.count) { index in
        let parameter = optimizer.parameters[index]
        for store in stores {
          if let gradient = store.gradient(of: parameter) { parameter.addGradient(gradient) }
        }
      }
    }
    return (0..<3).map { term in
      stride(from: term, to: sums.count, by: 3).reduce(0) { $0 + sums[$1] }
    }
  }

  private func backward(
    _ batch: DiffusionBatch, _ range: Range<Int>, share: Float, _ tape: Tape
  ) -> [Double] {
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
    if share != 1 { for index in 0..<gradient.count { gradient[index] *= share } }
    tape.backward(output, gradient)
    return [terms.loss, terms.mse, terms.vb].map { $0.reduce(0) { $0 + Double($1) } }
  }
}
