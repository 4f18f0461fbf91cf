import CKernels
import Foundation
import TensorCore

/// A weight of a model under its checkpoint key.
package final class Parameter {
  /// The three states of a weight.
  package enum State {
    /// Float32 values; linear layers in bfloat16 multiply packed copies of them.
    case trained(Tensor)
    /// Float32 values that are looked up or added and never multiplied, so that they stay float32.
    case table(Tensor)
    /// Nothing but the packed right operand of a linear layer's product; for inference alone.
    case sealed(PackedMatrix)
  }

  /// The upstream checkpoint key, relative to the module that owns the parameter.
  package let name: String
  package let shape: [Int]
  package private(set) var state: State
  /// What a linear layer multiplies the weight in.
  package private(set) var precision = Precision.float32
  /// Counts the updates of the values.
  package private(set) var version = 0
  /// The accumulated gradient; nil until the first contribution since `clearGradient`.
  package private(set) var gradient: Tensor?
  /// A frozen parameter gets no gradient and costs no backward product.
  package var isFrozen = false
  /// A trainable addition to the weight of a linear layer; nil for none.
  package var adapter: LowRankAdapter?
  private var buffer: Tensor?
  /// Packed copies of the values in bfloat16, dropped when these change; several tapes may ask at once.
  private var packed: (forward: PackedMatrix?, backward: PackedMatrix?)
  private let lock = NSLock()

  package init(_ name: String, _ value: Tensor, isTable: Bool = false) {
    self.name = name
    shape = value.shape
    state = isTable ? .table(value) : .trained(value)
  }

  /// The values; a sealed weight has none, and asking for them is a programmer's mistake.
  package var value: Tensor {
    switch state {
    case .trained(let value), .table(let value): return value
    case .sealed:
      let message = "\(name) was sealed for inference and has no values to read"
      // A release build does not print the message of a failed precondition.
      FileHandle.standardError.write(Data("espalier: \(message)\n".utf8))
      preconditionFailure(message)
    }
  }

  /// The values as a C loop reads them.
  package var elements: UnsafePointer<Float> { UnsafePointer(value.pointer) }

  /// Number of elements.
  package var count: Int { shape.reduce(1, *) }

  package var isSealed: Bool {
    if case .sealed = state { true } else { false }
  }

  /// What is trained of it: itself unless it is frozen, and its adapter.
  package var trained: [Parameter] {
    (isFrozen ? [] : [self]) + (adapter.map { [$0.down, $0.up] } ?? [])
  }

  /// Changes the values, the only way to do so: packed copies are made anew afterwards.
  ///
  /// - Parameter body: Writes to the tensor it is given, or replaces it by one of the same shape.
  package func update(_ body: (inout Tensor) -> Void) {
    var value = value
    body(&value)
    precondition(value.shape == shape, "\(name): \(value.shape) in the place of \(shape)")
    if case .table = state { state = .table(value) } else { state = .trained(value) }
    version += 1
    packed = (nil, nil)
  }

  /// Overwrites the values.
  package func assign(_ other: Tensor) { update { $0.assign(other) } }

  /// Chooses what linear layers multiply the weight in; a vector or a table stays float32.
  package func use(_ rule: PrecisionRule) {
    guard case .trained = state else { return }
    precision = shape.count == 2 ? rule.precision(forWeightOf: count) : .float32
    if precision == .float32 { packed = (nil, nil) }
  }

  /// Whether the library multiplies the weight in float32: a large one on a CPU for which it has packed products.
  private var isPackedInFloat32: Bool {
    shape.count == 2 && count >= PrecisionRule.smallestWeight && PackedMatrix.hasFloat32
  }

  /// Keeps of a large weight only the packed operand: in bfloat16, which halves its memory, or in float32 where the
  /// library multiplies that.
  package func seal() {
    guard case .trained(let value) = state, precision.isRounded || isPackedInFloat32 else {
      return
    }
    state = .sealed(PackedMatrix(.float32(value), isTransposed: true, precision))
    packed = (nil, nil)
    isFrozen = true
  }

  /// Whether products of that many rows with the weight have a packed operand.
  ///
  /// In float32 packing for one product must gain more than it costs.
  func isPacked(rows: Int) -> Bool {
    precision.isRounded || rows >= 1024 && isPackedInFloat32
  }

  /// The weight (out, in) as the right operand of x W^T, or of the input gradient's dy W; nil where our own kernels
  /// multiply.
  ///
  /// In float32 a copy would cost as much memory as the weight: it is made for one product.
  func matrix(isBackward: Bool, rows: Int) -> PackedMatrix? {
    if case .sealed(let matrix) = state {
      precondition(!isBackward, "\(name) was sealed for inference and cannot be differentiated")
      return matrix
    }
    guard isPacked(rows: rows) else { return nil }
    if precision == .float32 {
      return PackedMatrix(.float32(value), isTransposed: !isBackward, .float32)
    }
    lock.lock()
    defer { lock.unlock() }
    if let known = isBackward ? packed.backward : packed.forward { return known }
    let matrix = PackedMatrix(
      .float32(value), isTransposed: !isBackward, isBackward ? precision.withoutInt8 : precision)
    if isBackward { packed.backward = matrix } else { packed.forward = matrix }
    return matrix
  }

  /// Whether there is no infinite or undefined number in the gradient.
  package var hasFiniteGradient: Bool { gradient?.isFinite ?? true }

  /// Forgets the gradient but keeps its buffer for the next step.
  package func clearGradient() { gradient = nil }

  /// The gradient buffer, and whether a contribution must be added (true) or stored (false).
  func slot() -> (Tensor, accumulate: Bool) {
    if let gradient { return (gradient, true) }
    let fresh = buffer ?? Tensor(shape)
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

extension Sequence<Parameter> {
  /// Chooses what linear layers multiply these weights in; small weights stay float32.
  package func use(_ precision: Precision, smallest: Int = PrecisionRule.smallestWeight) {
    let rule = PrecisionRule(precision, smallest: smallest)
    for parameter in self { parameter.use(rule) }
  }
}

/// Parameter gradients of one tape, separate from the parameters, so that several tapes over the same parameters can
/// run backward at the same time; the owner of the stores adds them up in a fixed order.
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
    let fresh = Tensor(parameter.shape)
    gradients[key] = fresh
    return (fresh, false)
  }
}
