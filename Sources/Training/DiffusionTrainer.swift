import Autograd
import CKernels
import Datasets
import Foundation
import Models
import Nn
import Sampling
import TensorCore

/// Losses of a batch, means over its rows.
package struct DiffusionLosses: Sendable {
  /// What is minimised: mse + vb, and the weighted distillation term where there is one.
  package fileprivate(set) var loss = 0.0
  package fileprivate(set) var mse = 0.0
  package fileprivate(set) var vb = 0.0
  /// Mean squared difference from the teacher's output; 0 without a teacher.
  package fileprivate(set) var distillation = 0.0

  /// Adds the sums of another part of the batch.
  fileprivate static func + (first: DiffusionLosses, second: DiffusionLosses) -> DiffusionLosses {
    var sum = first
    sum.loss += second.loss
    sum.mse += second.mse
    sum.vb += second.vb
    sum.distillation += second.distillation
    return sum
  }

  fileprivate func scaled(by factor: Double) -> DiffusionLosses {
    var scaled = self
    scaled.loss *= factor
    scaled.mse *= factor
    scaled.vb *= factor
    scaled.distillation *= factor
    return scaled
  }
}

/// What one training step did.
package struct TrainingStepReport: Sendable {
  /// The losses before the step.
  package let losses: DiffusionLosses
  /// Global gradient norm before clipping; not finite when the step was not taken.
  package let gradientNorm: Double

  package var loss: Double { losses.loss }
  package var mse: Double { losses.mse }
  package var vb: Double { losses.vb }
}

/// A model whose output is learnt beside the data.
package struct OutputTeacher {
  /// Sees what the trained model sees.
  package let model: DiT
  /// Weight of the mean squared difference of the outputs.
  package let weight: Double

  package init(model: DiT, weight: Double) {
    self.model = model
    self.weight = weight
  }
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
  private let teacher: OutputTeacher?
  private let recomputesBlocks: Bool

  /// Makes a trainer for all parameters that are not frozen, and all adapters.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - diffusion: The process whose loss is minimised.
  ///   - emaDecay: Decay of the averaged weights.
  ///   - teacher: A model whose output is learnt as well; nil for none.
  ///   - recomputesBlocks: Whether blocks run again on the way back instead of keeping activations.
  ///   - makeOptimizer: Makes the optimizer of the given parameters.
  package init(
    model: DiT, diffusion: GaussianDiffusion, emaDecay: Float, teacher: OutputTeacher? = nil,
    recomputesBlocks: Bool = false,
    makeOptimizer: ([Parameter]) -> any Optimizer = { AdamW($0) }
  ) {
    self.model = model
    self.diffusion = diffusion
    self.teacher = teacher
    self.recomputesBlocks = recomputesBlocks
    let trained = model.parameters.flatMap(\.trained)
    optimizer = makeOptimizer(trained)
    ema = EMA(trained, decay: emaDecay)
  }

  /// Takes one optimizer step, unless loss or gradient are not finite: the weights then stay as they
  /// are.
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
    let sums = parts.accumulate(into: optimizer.parameters, recomputing: recomputesBlocks) {
      run(batch, $0, on: $1(), gradientShare: Float($0.count) / Float(rows))
    }
    let losses = sums.reduce(DiffusionLosses(), +).scaled(by: 1 / Double(rows))
    guard losses.loss.isFinite else {
      for parameter in optimizer.parameters { parameter.clearGradient() }
      return TrainingStepReport(losses: losses, gradientNorm: .nan)
    }
    let norm = optimizer.step(rate: Float(rate), clipNorm: clipNorm, gradientScale: 1)
    if norm.isFinite { ema.update(decay: emaDecay) }
    return TrainingStepReport(losses: losses, gradientNorm: norm)
  }

  /// The losses of a batch, without the distillation term.
  package func evaluate(_ batch: DiffusionBatch, microBatch: Int) -> DiffusionLosses {
    let rows = batch.steps.count
    let sums = MicroBatches(rows: rows, size: microBatch).map {
      run(batch, $0, on: Tape(recording: false), gradientShare: nil)
    }
    return sums.reduce(DiffusionLosses(), +).scaled(by: 1 / Double(rows))
  }

  /// Calls `body` while the model has its averaged weights.
  package func withAverages<Result>(_ body: () throws -> Result) rethrows -> Result {
    let parameters = optimizer.parameters
    let trained = parameters.map(\.value)
    for (parameter, average) in zip(parameters, ema.averages) { parameter.update { $0 = average } }
    defer {
      for (parameter, value) in zip(parameters, trained) { parameter.update { $0 = value } }
    }
    return try body()
  }

  /// The first place in the model, by upstream name, where some row of a batch is not finite; nil when
  /// all is finite.
  package func firstNonFinitePlace(_ batch: DiffusionBatch) -> String? {
    for row in batch.steps.indices {
      let (noisy, conditioning) = input(batch, row..<(row + 1))
      var place: String?
      _ = model(
        Value(constant: noisy), conditioning, on: Tape(recording: false),
        observe: { name, tensor in
          if place == nil, !tensor.isFinite { place = name }
        })
      if let place { return place }
    }
    return nil
  }

  /// The first parameter, by upstream name, whose gradient by a batch is not finite; nil when all are.
  package func firstNonFiniteGradient(_ batch: DiffusionBatch, microBatch: Int) -> String? {
    let rows = batch.steps.count
    _ = MicroBatches(rows: rows, size: microBatch)
      .accumulate(into: optimizer.parameters, recomputing: recomputesBlocks) {
        run(batch, $0, on: $1(), gradientShare: Float($0.count) / Float(rows))
      }
    defer { for parameter in optimizer.parameters { parameter.clearGradient() } }
    return optimizer.parameters.first { !$0.hasFiniteGradient }?.name
  }

  /// The noised latents of some rows and what else the model sees.
  private func input(_ batch: DiffusionBatch, _ range: Range<Int>) -> (Tensor, DiT.Conditioning) {
    let steps = Array(batch.steps[range])
    return (
      diffusion.noisy(batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps),
      DiT.Conditioning(
        timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range]))
    )
  }

  /// The sums of the losses of some rows; adds their gradients if they are given a share of the batch.
  private func run(
    _ batch: DiffusionBatch, _ range: Range<Int>, on tape: Tape, gradientShare: Float?
  ) -> DiffusionLosses {
    let (latents, noise) = (batch.latents.rows(range), batch.noise.rows(range))
    let steps = Array(batch.steps[range])
    let (noisy, conditioning) = input(batch, range)
    let output = model(Value(constant: noisy), conditioning, on: tape)
    let terms = diffusion.trainingLoss(
      modelOutput: output.tensor, start: latents, latents: noisy, noise: noise, steps: steps)
    func sum(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } }
    var losses = DiffusionLosses(
      loss: sum(terms.loss), mse: sum(terms.mse), vb: sum(terms.vb))
    guard let gradientShare else { return losses }
    let gradient = diffusion.lossGradient(
      modelOutput: output.tensor, start: latents, latents: noisy, noise: noise, steps: steps)
    if let teacher {
      let target = teacher.model.predict(noisy, conditioning)
      let (distance, slope) = RegressionObjective.l2.lossAndGradient(output.tensor, target)
      ck_axpy_f32(gradient.pointer, Float(teacher.weight), slope.pointer, gradient.count)
      losses.distillation = distance * Double(range.count)
      losses.loss += teacher.weight * losses.distillation
    }
    ck_scale_f32(gradient.pointer, gradientShare, gradient.count)
    tape.backward(output, gradient)
    return losses
  }
}
