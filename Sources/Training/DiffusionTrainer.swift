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
  /// Total loss: mse + vb and the teacher's terms, each with its weight.
  package fileprivate(set) var loss = 0.0
  package fileprivate(set) var mse = 0.0
  package fileprivate(set) var vb = 0.0
  /// Mean squared difference from the teacher's output; 0 without a teacher.
  package fileprivate(set) var distillation = 0.0
  /// Relative squared difference from the teacher's features; 0 without that term.
  package fileprivate(set) var features = 0.0

  private static var terms: [WritableKeyPath<DiffusionLosses, Double>] {
    [\.loss, \.mse, \.vb, \.distillation, \.features]
  }

  /// Adds the sums of two parts of a batch.
  fileprivate static func + (first: DiffusionLosses, second: DiffusionLosses) -> DiffusionLosses {
    var sum = first
    for term in terms { sum[keyPath: term] += second[keyPath: term] }
    return sum
  }

  fileprivate func scaled(by factor: Double) -> DiffusionLosses {
    var scaled = self
    for term in Self.terms { scaled[keyPath: term] *= factor }
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
  private let diffusionWeight: Double
  private let distillation: Distillation?
  private let recomputesBlocks: Bool

  /// Makes a trainer of all unfrozen parameters and all adapters.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - process: The process whose loss is minimised.
  ///   - emaDecay: Decay of the averaged weights.
  ///   - diffusionWeight: Weight of mse + vb; with 0 the held-out loss is the teacher's term.
  ///   - distillation: The teacher's terms; nil for none.
  ///   - recomputesBlocks: Whether blocks are recomputed in the backward pass (activation
  ///     checkpointing).
  ///   - makeOptimizer: Makes the optimizer of the given parameters.
  package init(
    model: any DiffusionTransformer, process: TrainingProcess, emaDecay: Float,
    diffusionWeight: Double = 1, distillation: Distillation? = nil,
    recomputesBlocks: Bool = false,
    makeOptimizer: ([Parameter]) -> any Optimizer = { AdamW($0) }
  ) {
    self.model = model
    self.process = process
    self.diffusionWeight = diffusionWeight
    self.distillation = distillation
    self.recomputesBlocks = recomputesBlocks
    let trained = model.parameters.flatMap(\.trained)
    optimizer = makeOptimizer(trained)
    ema = EMA(trained, decay: emaDecay)
  }

  /// Takes one optimizer step; skips it if loss or gradient is not finite.
  ///
  /// - Parameters:
  ///   - batch: The samples.
  ///   - null: The same samples without their condition, for a teacher's term on both; nil for none.
  ///   - number: Number of a batch that comes again, whose teacher's outputs are kept; nil if it does not.
  ///   - featureWeight: Weight of the term of features in this step.
  ///   - microBatch: Rows per forward pass; micro-batches run in parallel and accumulate gradients.
  ///   - rate: Learning rate.
  ///   - clipNorm: Maximum global gradient norm.
  ///   - emaDecay: EMA decay of this step; nil selects that of the trainer.
  /// - Returns: The losses before the step and the gradient norm.
  package func step(
    _ batch: DiffusionBatch, null: DiffusionBatch? = nil, number: Int? = nil,
    featureWeight: Double = 0, microBatch: Int, rate: Double, clipNorm: Float,
    emaDecay: Float? = nil
  ) -> TrainingStepReport {
    let pass = Pass(
      batch: batch, null: null, number: number, featureWeight: featureWeight)
    let rows = batch.steps.count
    let parts = MicroBatches(rows: rows, size: microBatch)
    let sums = parts.accumulate(into: optimizer.parameters, recomputing: recomputesBlocks) {
      run(pass, $0, on: $1(), gradientShare: Float($0.count) / Float(rows))
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

  /// Computes the losses of a batch: mse + vb or, where these have no weight, the teacher's term.
  package func evaluate(
    _ batch: DiffusionBatch, null: DiffusionBatch? = nil, microBatch: Int
  ) -> DiffusionLosses {
    let rows = batch.steps.count
    let pass = Pass(batch: batch, null: null)
    let sums = MicroBatches(rows: rows, size: microBatch).map {
      run(pass, $0, on: Tape(recording: false), gradientShare: nil)
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
        observe: { name, value in
          if place == nil, !value.tensor.isFinite { place = name }
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
        run(
          Pass(batch: batch), $0, on: $1(), gradientShare: Float($0.count) / Float(rows))
      }
    defer { for parameter in optimizer.parameters { parameter.clearGradient() } }
    return optimizer.parameters.first { !$0.hasFiniteGradient }?.name
  }

  /// What a step trains on.
  private struct Pass {
    let batch: DiffusionBatch
    var null: DiffusionBatch?
    var number: Int?
    var featureWeight = 0.0
  }

  /// Sums the losses of some rows; runs the backward pass if the share of the batch is given.
  private func run(
    _ pass: Pass, _ range: Range<Int>, on tape: Tape, gradientShare: Float?
  ) -> DiffusionLosses {
    let batch = pass.batch
    let (latents, noise) = (batch.latents.rows(range), batch.noise.rows(range))
    let (noisy, conditioning) = batch.input(range, of: process)
    let isTraining = gradientShare != nil
    var student = Distillation.Prediction(
      of: model, noisy, conditioning, on: tape,
      features: pass.featureWeight > 0 ? Array((distillation?.features ?? [:]).keys) : [])
    let (terms, slope) = process.losses(
      student.output.tensor, data: latents, latents: noisy, noise: noise, batch.draws[range],
      wantsGradient: isTraining)
    func sum(_ values: [Float]) -> Double { values.reduce(0) { $0 + Double($1) } }
    var losses = DiffusionLosses(
      loss: sum(terms.loss), mse: sum(terms.mse), vb: sum(terms.vb))
    let teaches = distillation != nil && (isTraining || diffusionWeight == 0)
    guard isTraining || teaches else { return losses }
    losses.loss *= diffusionWeight
    if let slope {
      if diffusionWeight == 0 { slope.fill(0) }
      if diffusionWeight != 1 { ck_scale_f32(slope.pointer, Float(diffusionWeight), slope.count) }
    }
    var seeds = slope.map { [(student.output, $0)] } ?? []
    if let distillation, teaches {
      let conditionings =
        [conditioning] + (pass.null.map { [$0.input(range, of: process).1] } ?? [])
      let share = 1 / Double(conditionings.count)
      let channels = process.usedChannels(of: student.output.tensor, latents: latents)
      for (index, conditioning) in conditionings.enumerated() {
        if index > 0 {
          student = Distillation.Prediction(
            of: model, noisy, conditioning, on: tape, features: Array(student.features.keys))
        }
        let compared = distillation.compare(
          student, noisy, conditioning,
          at: pass.number.map { .init(batch: $0, row: range.lowerBound, condition: index) },
          channels: channels, outputShare: share, featureShare: share * pass.featureWeight,
          wantsGradient: isTraining)
        losses.distillation += share * compared.output * Double(range.count)
        losses.features += share * compared.features * Double(range.count)
        seeds += compared.seeds
      }
      losses.loss +=
        isTraining
        ? distillation.weight * losses.distillation + pass.featureWeight * losses.features
        : losses.distillation
    }
    if let gradientShare {
      for (_, gradient) in seeds { ck_scale_f32(gradient.pointer, gradientShare, gradient.count) }
      tape.backward(seeds)
    }
    return losses
  }
}
