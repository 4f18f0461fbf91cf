import CKernels
import TensorCore

/// An element-wise regression objective, averaged over all elements: equation 2 of the paper.
package enum RegressionObjective: Sendable, Equatable {
  /// Mean absolute error.
  case l1
  /// Mean squared error.
  case l2
  /// Huber loss with the given delta.
  case huber(delta: Float)

  private var code: (kind: Int32, delta: Float) {
    switch self {
    case .l1: (0, 1)
    case .l2: (1, 1)
    case .huber(let delta): (2, delta)
    }
  }

  /// Mean loss of a prediction against a target of the same shape.
  package func loss(_ prediction: Tensor, _ target: Tensor) -> Double {
    evaluate(prediction, target, gradient: nil)
  }

  /// Mean loss and its gradient with respect to the prediction.
  package func lossAndGradient(_ prediction: Tensor, _ target: Tensor) -> (Double, Tensor) {
    let gradient = Tensor(prediction.shape)
    return (evaluate(prediction, target, gradient: gradient), gradient)
  }

  private func evaluate(_ prediction: Tensor, _ target: Tensor, gradient: Tensor?) -> Double {
    precondition(prediction.count == target.count, "RegressionObjective: shapes differ")
    let count = prediction.count
    // Chunks of fixed size make the sum independent of the number of threads.
    let size = 1 << 15
    let parts = (count + size - 1) / size
    var sums = [Double](repeating: 0, count: parts)
    sums.withUnsafeMutableBufferPointer { sums in
      let sums = sums
      Parallel.tasks(parts) { part in
        let (start, end) = (part * size, min(count, (part + 1) * size))
        sums[part] = ck_regression_loss_f32(
          prediction.pointer + start, target.pointer + start, gradient.map { $0.pointer + start },
          end - start, code.kind, code.delta, 1 / Float(count))
      }
    }
    return sums.reduce(0, +) / Double(count)
  }
}
