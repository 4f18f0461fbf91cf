import Autograd
import Models
import Nn
import TensorCore

/// A teacher's terms of the loss: the outputs, and the outputs of some blocks, on the same noisy samples.
package struct Distillation {
  /// Model evaluated on the same inputs as the trained model.
  package let teacher: any DiffusionTransformer
  /// Weight of the mean squared difference of the outputs.
  package let weight: Double
  /// Upstream names of the block outputs that are compared, such as `blocks.2.out`, in the teacher by those
  /// in the student.
  package let features: [String: String]
  /// Values of the teacher's features further than this many standard deviations from their mean in a
  /// sample are left out; 0 keeps all.
  package let outlierDeviations: Double

  package init(
    teacher: any DiffusionTransformer, weight: Double, features: [String: String] = [:],
    outlierDeviations: Double = 0
  ) {
    (self.teacher, self.weight, self.features) = (teacher, weight, features)
    self.outlierDeviations = outlierDeviations
  }

  /// Output of a model, and block outputs by name.
  struct Prediction {
    let output: Value
    let features: [String: Value]

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
  ///   - channels: Leading channels of the outputs that are compared.
  ///   - outputShare: Factor of the gradient of the outputs' term besides its weight.
  ///   - featureShare: Factor of the gradient of the features' term.
  ///   - wantsGradient: Whether gradients are computed.
  /// - Returns: Losses and gradients.
  func compare(
    _ student: Prediction, _ noisy: Tensor, _ conditioning: Conditioning, channels: Int,
    outputShare: Double, featureShare: Double, wantsGradient: Bool
  ) -> Comparison {
    let used = student.features.keys.sorted()
    let target = Prediction(
      of: teacher, noisy, conditioning, on: Tape(recording: false),
      features: used.compactMap { features[$0] })
    var result = Comparison()
    let (found, wanted) = (
      student.output.tensor.leadingChannels(channels),
      target.output.tensor.leadingChannels(channels)
    )
    if wantsGradient {
      let (loss, slope) = RegressionObjective.l2.lossAndGradient(found, wanted)
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
