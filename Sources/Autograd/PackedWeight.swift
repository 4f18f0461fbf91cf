import Foundation
import TensorCore

/// A weight (out, in) as the second factor of a linear layer's two products with it, in bfloat16; made
/// anew when the weight has changed.
final class PackedWeight: @unchecked Sendable {
  private let lock = NSLock()
  private var version = 0
  private var forward, backward: PackedFactor?

  /// Forgets the factors.
  func clear() {
    lock.lock()
    defer { lock.unlock() }
    (forward, backward) = (nil, nil)
  }

  /// The factor of x W^T, or of the gradient's dy W if `isBackward`.
  func factor(of weight: Tensor, version: Int, isBackward: Bool) -> PackedFactor {
    lock.lock()
    defer { lock.unlock() }
    if version != self.version { (forward, backward) = (nil, nil) }
    self.version = version
    let (outputs, inputs) = (weight.shape[0], weight.shape[1])
    if isBackward {
      let made = backward ?? PackedFactor(k: outputs, n: inputs, isTransposed: false)
      backward = made
      return made
    }
    let made = forward ?? PackedFactor(k: inputs, n: outputs, isTransposed: true)
    forward = made
    return made
  }
}

extension Parameter {
  /// The weight as the second factor of its products.
  func factor(isBackward: Bool) -> PackedFactor {
    packed.factor(of: value, version: version, isBackward: isBackward)
  }
}

extension Sequence<Parameter> {
  /// Chooses what linear layers multiply their weights in.
  ///
  /// Small weights stay float32: rounding the other factor would cost what the product saves.
  ///
  /// - Parameters:
  ///   - precision: The number format of the factors.
  ///   - smallest: Elements of the smallest weight that is concerned.
  package func use(_ precision: Precision, smallest: Int = 1 << 16) {
    for parameter in self where parameter.value.shape.count == 2 {
      parameter.precision = parameter.value.count >= smallest ? precision : .float32
    }
  }
}
