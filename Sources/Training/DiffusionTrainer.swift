import Autograd
import CKernels
import Datasets
import Foundation
import Models
import Nn
import Sampling
import TensorCore

/// Losses of a batch, averaged over its rows.
package struct DiffusionLosses: Sendable {
  /// Total loss: mse + vb and the weighted distillation term, if any.
  package fileprivate(set) var loss = 0.0
  package fileprivate(set) var mse = 0.0
  package fileprivate(set) var vb = 0.0
  /// Mean squared difference from the teacher's output; 0 without a teacher.
  package fileprivate(set) var distillation = 0.0

  /// Adds the sums of two parts of a batch.
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

/// Result of one training step.
package struct TrainingStepReport: Sendable {
  /// The losses before the step.
  package let losses: DiffusionLosses
  /// Global gradient norm before clipping; non-finite if the step was skipped.
  package let gradientNorm: Double

  package var loss: Double { losses.loss }
  package var mse: Double { losses.mse }
  package var vb: Double { losses.vb }
}

/// Teacher of output distillation.
package struct OutputTeacher {
  /// Model evaluated on the same inputs as the trained model.
  package let model: any DiffusionTransformer
  /// Weight of the mean squared difference of the outputs.
  package let weight: Double

  package init(model: any DiffusionTransformer, weight: Double) {
    self.model = model
    self.weight = weight
  }
}

/// Trains a diffusion transformer with the loss of its family, in pretraining and stage 2.
///
/// Loss of noise prediction: mse + variational bound as `training_losses` of facebookresearch/DiT; of velocity
/// prediction: mse as `training_losses` of willisma/SiT. AdamW unless another
/// optimizer is given, global-norm clipping, EMA.
package final class DiffusionTrainer {
  package let model: any DiffusionTransformer
  package let optimizer: any Optimizer
  package let ema: EMA
  private let process: TrainingProcess
  private let teacher: OutputTeacher?
  private let recomputesBlocks: Bool

  /// Makes a trainer of all unfrozen parameters and all adapters.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - process: The process whose loss is minimised.
  ///   - emaDecay: Decay of the averaged weights.
  ///   - teacher: Teacher of output distillation; nil for none.
  ///   - recomputesBlocks: Whether blocks are recomputed in the backward pass (activation
  ///     checkpointing).
  ///   - makeOptimizer: Makes the optimizer of the given parameters.
  package init(
    model: any DiffusionTransformer, process: TrainingProcess, emaDecay: Float,
    teacher: OutputTeacher? = nil,
    recomputesBlocks: Bool = false,
    makeOptimizer: ([Parameter]) -> any Optimizer = { AdamW($0) }
  ) {
    self.model = model
    self.process = process
    self.teacher = teacher
    self.recomputesBlocks = recomputesBlocks
    let trained = model.parameters.flatMap(\.trained)
    optimizer = makeOptimizer(trained)
    ema = EMA(trained, decay: emaDecay)
  }

  /// Takes one optimizer step; skips it if loss or gradient is not finite.
  ///
  /// - Parameters:
  ///   - batch: The samples.
  ///   - microBatch: Rows per forward pass; micro-batches run in parallel and accumulate gradients.
  ///   - rate: Learning rate.
  ///   - clipNorm: Maximum global gradient norm.
  ///   - emaDecay: EMA decay of this step; nil selects that of the trainer.
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

  /// Computes the losses of a batch without the distillation term.
  package func evaluate(_ batch: DiffusionBatch, microBatch: Int) -> DiffusionLosses {
    let rows = batch.steps.count
    let sums = MicroBatches(rows: rows, size: microBatch).map {
      run(batch, $0, on: Tape(recording: false), gradientShare: nil)
    }
    return sums.reduce(DiffusionLosses(), +).scaled(by: 1 / Double(rows))
  }

  /// Calls `body` with the averaged weights in the model.
  package func withAverages<Result>(_ body: () throws -> Result) rethrows -> Result {
    let parameters = optimizer.parameters
    let trained = parameters.map(\.value)
    for (parameter, average) in zip(parameters, ema.averages) { parameter.update { $0 = average } }
    defer {
      for (parameter, value) in zip(parameters, trained) { parameter.update { $0 = value } }
    }
    return try body()
  }

  /// Upstream name of the first module whose output is not finite for a batch; nil if all are
  /// finite.
  package func firstNonFinitePlace(_ batch: DiffusionBatch) -> String? {
    for row in batch.steps.indices {
      let (noisy, conditioning) = batch.input(row..<(row + 1), of: process)
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

  /// Upstream name of the first parameter whose gradient is not finite for a batch; nil if all are
  /// finite.
  package func firstNonFiniteGradient(_ batch: DiffusionBatch, microBatch: Int) -> String? {
    let rows = batch.steps.count
    _ = MicroBatches(rows: rows, size: microBatch)
      .accumulate(into: optimizer.parameters, recomputing: recomputesBlocks) {
        run(batch, $0, on: $1(), gradientShare: Float($0.count) / Float(rows))
      }
    defer { for parameter in optimizer.parameters { parameter.clearGradient() } }
    return optimizer.parameters.first { !$0.hasFiniteGradient }?.name
  }

  /// Sums the losses of some rows; runs the backward pass if the share of the batch is given.
  private func run(
    _ batch: DiffusionBatch, _ range: Range<Int>, on tape: Tape, gradientShare: Float?
  ) -> DiffusionLosses {
    let (latents, noise) = (batch.latents.rows(range), batch.noise.rows(range))
    let (noisy, conditioning) = batch.input(range, of: process)
    let output = model(Value(constant: noisy), conditioning, on: tape)
    let (terms, slope) = process.losses(
      output.tensor, data: latents, latents: noisy, noise: noise, batch.draws[range],
      wantsGradient: gradientShare != nil)
    func sum(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } }
    var losses = DiffusionLosses(
      loss: sum(terms.loss), mse: sum(terms.mse), vb: sum(terms.vb))
    guard let gradientShare, let gradient = slope else { return losses }
    if let teacher {
      let channels = process.usedChannels(of: output.tensor, latents: latents)
      let (distance, slope) = RegressionObjective.l2.lossAndGradient(
        output.tensor.leadingChannels(channels),
        teacher.model.predict(noisy, conditioning).leadingChannels(channels))
      let (used, all) = (slope.count / range.count, gradient.count / range.count)
      for row in 0..<range.count {
        ck_axpy_f32(
          gradient.pointer + row * all, Float(teacher.weight), slope.pointer + row * used, used)
      }
      losses.distillation = distance * Double(range.count)
      losses.loss += teacher.weight * losses.distillation
    }
    ck_scale_f32(gradient.pointer, gradientShare, gradient.count)
    tape.backward(output, gradient)
    return losses
  }
}
