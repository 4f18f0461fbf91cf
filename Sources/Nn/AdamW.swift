import Autograd
import CKernels
import TensorCore

/// AdamW with decoupled weight decay and bias correction, as `torch.optim.AdamW`.
package final class AdamW: Optimizer {
  package let parameters: [Parameter]
  package let beta1: Float
  package let beta2: Float
  package let epsilon: Float
  package let weightDecay: Float
  /// Factor of the rate of each parameter; nil for 1.
  private let rateFactors: [Float]?
  package var steps = 0
  package let first: [Tensor]
  package let second: [Tensor]

  /// Makes an optimizer with zero moments; `rateFactors` has the factor of the rate of each parameter.
  package init(
    _ parameters: [Parameter], beta1: Float = 0.9, beta2: Float = 0.999, epsilon: Float = 1e-8,
    weightDecay: Float = 0, rateFactors: [Float]? = nil
  ) {
    self.rateFactors = rateFactors
    self.parameters = parameters
    self.beta1 = beta1
    self.beta2 = beta2
    self.epsilon = epsilon
    self.weightDecay = weightDecay
    first = parameters.map { Tensor.zeros($0.shape) }
    second = parameters.map { Tensor.zeros($0.shape) }
  }

  /// Global L2 norm of all gradients.
  package var gradientNorm: Double {
    var total = 0.0
    for parameter in parameters {
      guard let gradient = parameter.gradient else { continue }
      total += ck_sum_squares_f32(gradient.pointer, gradient.count)
    }
    return total.squareRoot()
  }

  @discardableResult
  package func step(rate: Float, clipNorm: Float? = nil, gradientScale: Float = 1) -> Double {
    let norm = gradientNorm * Double(gradientScale)
    guard norm.isFinite else {
      for parameter in parameters { parameter.clearGradient() }
      return norm
    }
    var scale = gradientScale
    if let clipNorm { scale *= min(1, clipNorm / (Float(norm) + 1e-6)) }
    steps += 1
    let correction1 = 1 - Float(powInteger(Double(beta1), steps))
    let correction2 = 1 - Float(powInteger(Double(beta2), steps))
    for (index, parameter) in parameters.enumerated() {
      guard let gradient = parameter.gradient else { continue }
      let (m, v) = (first[index], second[index])
      let rate = rate * (rateFactors?[index] ?? 1)
      parameter.update { value in
        let weights = value.pointer
        Parallel.ranges(value.count, grain: 1 << 14) { range in
          let start = range.lowerBound
          ck_adamw_f32(
            weights + start, gradient.pointer + start, m.pointer + start, v.pointer + start,
            range.count, rate, beta1, beta2, epsilon, weightDecay, correction1, correction2, scale)
        }
      }
      parameter.clearGradient()
    }
    return norm
  }

  private func powInteger(_ base: Double, _ exponent: Int) -> Double {
    var result = 1.0
    var factor = base
    var rest = exponent
    while rest > 0 {
      if rest & 1 == 1 { result *= factor }
      factor *= factor
      rest >>= 1
    }
    return result
  }
}

/// Exponential moving average of parameters, initialised with a copy.
package final class EMA {
  private let parameters: [Parameter]
  /// The averages, parallel to the parameters.
  package let averages: [Tensor]
  package let decay: Float

  package init(_ parameters: [Parameter], decay: Float) {
    self.parameters = parameters
    self.decay = decay
    averages = parameters.map { $0.value.copied() }
  }

  /// Updates average = decay * average + (1 - decay) * parameter.
  ///
  /// - Parameter decay: Decay of this update; nil selects the default decay.
  package func update(decay: Float? = nil) {
    for (parameter, average) in zip(parameters, averages) {
      ck_ema_f32(average.pointer, parameter.elements, average.count, decay ?? self.decay)
    }
  }
}
