import Foundation
import TensorCore

/// A weight (out, in) as the second factor of a linear layer's two products with it, in bfloat16; made
/// anew when the weight has changed.
final class PackedWeight: @unchecked Sendable {
  private let lock = NSLock()
  private var version = 0
  private var forward, backward: PackedFactor?

  /// Whether nothing but the forward factor is left of the weight.
  private var isSealed = false

  /// Makes the forward factor of a weight that is about to be given up, whose next version is `version`.
  func seal(_ weight: Tensor, version: Int) {
    factor(of: weight, version: version, isBackward: false).prepare(.floats(weight.pointer))
    lock.lock()
    defer { lock.unlock() }
    isSealed = true
  }

  /// Forgets the factors.
  func clear() {
    lock.lock()
    defer { lock.unlock() }
    precondition(!isSealed, "a weight kept for inference in bfloat16 has no other values")
    (forward, backward) = (nil, nil)
  }

  /// The factor of x W^T, or of the gradient's dy W if `isBackward`.
  func factor(of weight: Tensor, version: Int, isBackward: Bool) -> PackedFactor {
    lock.lock()
    defer { lock.unlock() }
    precondition(
      !isSealed || (version == self.version && !isBackward),
      "a weight kept for inference was trained")
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

  /// Keeps nothing of the weight but what products in bfloat16 read.
  fileprivate func seal() {
    precision = .bfloat16
    packed.seal(value, version: version + 1)
    value = .forbidden(value.shape)
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

  /// Chooses what linear layers multiply their weights in, for inference alone: of those in bfloat16
  /// nothing else is kept, so that they take half the memory.
  ///
  /// - Parameter precision: The number format of the factors.
  package func useForInference(_ precision: Precision) {
    use(precision)
    for parameter in self where parameter.precision == .bfloat16 { parameter.seal() }
  }
}
