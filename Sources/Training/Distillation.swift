import Autograd
import CKernels
import Models
import Nn
import Synchronization
import TensorCore

/// A teacher's terms of the loss: the outputs, and the outputs of some blocks, on the same noisy samples.
package struct Distillation {
  /// Model evaluated on the same inputs as the trained model.
  package let teacher: any DiffusionTransformer
  /// Weight of the mean squared difference of the outputs.
  package let weight: Double
  /// Weight of the predicted variance, the channels beyond those of the latents, within that difference.
  package let varianceWeight: Double
  /// Upstream names of the block outputs that are compared, such as `blocks.2.out`, in the teacher by those
  /// in the student.
  package let features: [String: String]
  /// Values of the teacher's features further than this many standard deviations from their mean in a
  /// sample are left out; 0 keeps all.
  package let outlierDeviations: Double

  /// Outputs of the teacher on batches that come again.
  private let outputs = Outputs()

  package init(
    teacher: any DiffusionTransformer, weight: Double, varianceWeight: Double = 1,
    features: [String: String] = [:], outlierDeviations: Double = 0
  ) {
    (self.teacher, self.weight, self.features) = (teacher, weight, features)
    (self.varianceWeight, self.outlierDeviations) = (varianceWeight, outlierDeviations)
  }

  /// Rows of a batch that comes again, with or without their condition.
  struct Place: Hashable {
    let batch, row, condition: Int
  }

  private final class Outputs: Sendable {
    let values = Mutex<[Place: [Float]]>([:])
  }

  /// Output of a model, and block outputs by name.
  struct Prediction {
    let output: Value
    let features: [String: Value]

    init(output: Value, features: [String: Value]) {
      (self.output, self.features) = (output, features)
    }

    init(
      of model: any DiffusionTransformer, _ noisy: Tensor, _ conditioning: Conditioning,
      on tape: Tape, features names: some Collection<String>
    ) {
      let names = Set(names)
      var features: [String: Value] = [:]
      output = model(
        Value(constant: noisy), conditioning, on: tape,
        observe: names.isEmpty ? nil : { if names.contains($0) { features[$0] = $1 } })
      self.features = features
    }
  }

  /// Mean losses over samples, unweighted, and the gradients of the weighted ones by what they compare.
  struct Comparison {
    var output = 0.0
    var features = 0.0
    var seeds: [(Value, Tensor)] = []
  }

  /// Compares a student's prediction with the teacher's.
  ///
  /// - Parameters:
  ///   - student: The student's output, and the features that count in this step.
  ///   - noisy: Noisy latents (samples, channels, height, width).
  ///   - conditioning: Times and conditions of the samples.
  ///   - place: Where the rows come again, so that the teacher's output is kept; nil if they do not.
  ///   - channels: Leading channels of the outputs that are compared.
  ///   - outputShare: Factor of the gradient of the outputs' term besides its weight.
  ///   - featureShare: Factor of the gradient of the features' term.
  ///   - wantsGradient: Whether gradients are computed.
  /// - Returns: Losses and gradients.
  func compare(
    _ student: Prediction, _ noisy: Tensor, _ conditioning: Conditioning, at place: Place?,
    channels: Int, outputShare: Double, featureShare: Double, wantsGradient: Bool
  ) -> Comparison {
    let used = student.features.keys.sorted()
    let target = target(
      noisy, conditioning, at: place, features: used.compactMap { features[$0] },
      shape: student.output.shape)
    var result = Comparison()
    func compared(_ output: Value) -> Tensor {
      let kept = output.tensor.leadingChannels(channels)
      return varianceWeight == 1 ? kept : weighted(kept.copied(), latents: noisy.shape[1])
    }
    let (found, wanted) = (compared(student.output), compared(target.output))
    if wantsGradient {
      let (loss, unscaled) = RegressionObjective.l2.lossAndGradient(found, wanted)
      let slope = varianceWeight == 1 ? unscaled : weighted(unscaled, latents: noisy.shape[1])
      result.output = loss
      let gradient = Tensor.zeros(student.output.shape)
      let rows = noisy.shape[0]
      let (part, whole) = (slope.count / rows, gradient.count / rows)
      let factor = Float(weight * outputShare)
      for row in 0..<rows {
        let (from, to) = (slope.pointer + row * part, gradient.pointer + row * whole)
        for index in 0..<part { to[index] = factor * from[index] }
      }
      result.seeds.append((student.output, gradient))
    } else {
      result.output = RegressionObjective.l2.loss(found, wanted)
    }
    for name in used {
      guard let value = student.features[name],
        let goal = features[name].flatMap({ target.features[$0] })
      else { preconditionFailure("Distillation: no \(name) in the model") }
      let (loss, gradient) = relativeDistance(value.tensor, goal.tensor)
      let share = 1 / Double(used.count)
      result.features += share * loss
      for index in 0..<gradient.count { gradient[index] *= Float(featureShare * share) }
      result.seeds.append((value, gradient))
    }
    return result
  }

  /// The teacher's prediction, or the one that is kept for a place.
  private func target(
    _ noisy: Tensor, _ conditioning: Conditioning, at place: Place?, features names: [String],
    shape: [Int]
  ) -> Prediction {
    let place = names.isEmpty ? place : nil
    if let place, let kept = outputs.values.withLock({ $0[place] }) {
      return Prediction(output: Value(constant: Tensor(kept, shape: shape)), features: [:])
    }
    let found = Prediction(
      of: teacher, noisy, conditioning, on: Tape(recording: false), features: names)
    if let place {
      let values = found.output.tensor.values
      outputs.values.withLock { $0[place] = values }
    }
    return found
  }

  /// Multiplies the channels (rows, channels, height, width) beyond those of the latents by the root of the
  /// variance's weight, in place.
  private func weighted(_ values: Tensor, latents: Int) -> Tensor {
    let width = values.count / values.shape[0]
    let start = latents * width / values.shape[1]
    for row in 0..<values.shape[0] {
      ck_scale_f32(
        values.pointer + row * width + start, Float(varianceWeight.squareRoot()), width - start)
    }
    return values
  }

  /// Squared distance from the teacher's features relative to their squares, both over the values of a
  /// sample (tokens, dim) that are no outliers, as the mean over samples, and its gradient.
  package func relativeDistance(_ found: Tensor, _ wanted: Tensor) -> (
    loss: Double, gradient: Tensor
  ) {
    let rows = wanted.shape[0]
    let width = wanted.count / rows
    let gradient = Tensor.zeros(wanted.shape)
    var total = 0.0
    for row in 0..<rows {
      let (s, t) = (found.pointer + row * width, wanted.pointer + row * width)
      var (sum, squares) = (0.0, 0.0)
      for index in 0..<width {
        sum += Double(t[index])
        squares += Double(t[index]) * Double(t[index])
      }
      let mean = sum / Double(width)
      let deviation = max(0, squares / Double(width) - mean * mean).squareRoot()
      let limit = outlierDeviations > 0 ? outlierDeviations * deviation : .infinity
      func isKept(_ index: Int) -> Bool { abs(Double(t[index]) - mean) <= limit }
      var (distance, scale) = (0.0, 0.0)
      for index in 0..<width where isKept(index) {
        let difference = Double(s[index]) - Double(t[index])
        distance += difference * difference
        scale += Double(t[index]) * Double(t[index])
      }
      scale = max(scale, 1e-12)
      total += distance / scale
      let factor = 2 / (scale * Double(rows))
      let slopes = gradient.pointer + row * width
      for index in 0..<width where isKept(index) {
        slopes[index] = Float(factor * (Double(s[index]) - Double(t[index])))
      }
    }
    return (total / Double(rows), gradient)
  }
}
