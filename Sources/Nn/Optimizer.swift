import Autograd
import TensorCore

/// Gradient-based optimizer whose state is two moments per parameter and a step count.
package protocol Optimizer: AnyObject {
  /// The optimised parameters, in a fixed order.
  var parameters: [Parameter] { get }
  /// First and second moments, parallel to `parameters`.
  var first: [Tensor] { get }
  var second: [Tensor] { get }
  /// Number of steps taken.
  var steps: Int { get set }

  /// Takes one step if the gradient norm is finite, and clears the gradients.
  ///
  /// - Parameters:
  ///   - rate: Learning rate of this step.
  ///   - clipNorm: Maximum global gradient norm, as in `torch.nn.utils.clip_grad_norm_`; nil
  ///     disables clipping.
  ///   - gradientScale: Factor applied to all gradients before clipping.
  /// - Returns: Global norm of the scaled gradients before clipping.
  @discardableResult
  func step(rate: Float, clipNorm: Float?, gradientScale: Float) -> Double
}
