import Autograd
import TensorCore

/// Steps parameters along their gradients; its whole state is two moments per parameter and a count.
package protocol Optimizer: AnyObject {
  /// The optimised parameters, in a fixed order.
  var parameters: [Parameter] { get }
  /// First and second moments, parallel to `parameters`.
  var first: [Tensor] { get }
  var second: [Tensor] { get }
  /// Number of steps taken.
  var steps: Int { get set }

  /// Takes one step, unless the gradients' norm is not finite, and clears the gradients.
  ///
  /// - Parameters:
  ///   - rate: Learning rate of this step.
  ///   - clipNorm: Largest global gradient norm, as `torch.nn.utils.clip_grad_norm_`; nil for none.
  ///   - gradientScale: Factor for every gradient, applied before clipping.
  /// - Returns: The norm of the scaled gradients before clipping.
  @discardableResult
  func step(rate: Float, clipNorm: Float?, gradientScale: Float) -> Double
}
