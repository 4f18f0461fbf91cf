import CKernels
import TensorCore

/// A trainable tensor under its checkpoint key.
package final class Parameter {
  /// The upstream checkpoint key, relative to the module that owns the parameter.
  package let name: String
  package var value: Tensor { didSet { noteChange() } }
  /// The accumulated gradient; nil until the first contribution since `clearGradient`.
  package private(set) var gradient: Tensor?
  /// A frozen parameter gets no gradient and costs no backward product.
  package var isFrozen = false
  /// A trainable addition to the weight of a linear layer; nil for none.
  package var adapter: LowRankAdapter?
  /// What a linear layer multiplies its weight in; the weight itself stays float32.
  package var precision = Precision.float32 {
    didSet { if precision == .float32 { packed.clear() } }
  }
  /// Counts the changes of the value.
  private(set) var version = 0
  /// The value as the factors of a layer's products in bfloat16.
  let packed = PackedWeight()
  private var buffer: Tensor?

  package init(_ name: String, _ value: Tensor) {
    self.name = name
    self.value = value
  }

  /// What is trained of it: itself unless it is frozen, and its adapter.
  package var trained: [Parameter] {
    (isFrozen ? [] : [self]) + (adapter.map { [$0.down, $0.up] } ?? [])
  }

  /// Says that the value's memory was written to, so that copies of it are made anew.
  package func noteChange() { version += 1 }

  /// Overwrites the value's memory.
  package func assign(_ other: Tensor) {
    value.assign(other)
    noteChange()
  }

  /// Whether there is no infinite or undefined number in the gradient.
  package var hasFiniteGradient: Bool { gradient?.isFinite ?? true }

  /// Forgets the gradient but keeps its buffer for the next step.
  package func clearGradient() { gradient = nil }

  /// The gradient buffer, and whether a contribution must be added (true) or stored (false).
  func slot() -> (Tensor, accumulate: Bool) {
    if let gradient { return (gradient, true) }
    let fresh = buffer ?? Tensor(value.shape)
    buffer = fresh
    gradient = fresh
    return (fresh, false)
  }

  /// Adds a gradient that a tape collected in a store of its own.
  package func addGradient(_ contribution: Tensor) {
    let (gradient, accumulate) = slot()
    if accumulate {
      ck_add_f32(gradient.pointer, contribution.pointer, gradient.count)
    } else {
      gradient.assign(contribution)
    }
  }
}

/// Parameter gradients of one tape, kept apart from the parameters so that several tapes over the same
/// parameters can be walked at once; whoever made the stores adds them up in a fixed order.
package final class GradientStore {
  private var gradients: [ObjectIdentifier: Tensor] = [:]

  package init() {}

  /// The gradient of a parameter; nil if nothing reached it.
  package func gradient(of parameter: Parameter) -> Tensor? {
    gradients[ObjectIdentifier(parameter)]
  }

  func slot(_ parameter: Parameter) -> (Tensor, accumulate: Bool) {
    let key = ObjectIdentifier(parameter)
    if let gradient = gradients[key] { return (gradient, true) }
    let fresh = Tensor(parameter.value.shape)
    gradients[key] = fresh
    return (fresh, false)
  }
}
