import CKernels
import TensorCore

/// An operand or result on a tape: a tensor, and where its gradient is accumulated.
package struct Value {
  fileprivate enum Origin {
    case constant
    case node(Int)
    case parameter(Parameter)
  }

  package let activation: MixedTensor
  fileprivate let origin: Origin

  /// Wraps a tensor that needs no gradient.
  package init(constant tensor: Tensor) { self.init(.float32(tensor), .constant) }

  fileprivate init(_ activation: MixedTensor, _ origin: Origin) {
    self.activation = activation
    self.origin = origin
  }

  /// Wraps a parameter.
  package init(_ parameter: Parameter) {
    self.init(.float32(parameter.value), .parameter(parameter))
  }

  package var shape: [Int] { activation.shape }

  /// The values in float32; converted anew at every access if they are bfloat16.
  package var tensor: Tensor { activation.float32 }

  fileprivate var needsGradient: Bool {
    switch origin {
    case .constant: false
    case .node: true
    case .parameter(let parameter): !parameter.isFrozen
    }
  }
}

/// A fused operation with its own backward pass, some of whose activations may be in bfloat16.
///
/// `backward` has no default: an operation for inference alone does not exist. Inference runs on a tape that does
/// not record. Gradients are float32.
package protocol MixedPrecisionOp {
  /// What the backward pass needs besides inputs and output.
  associatedtype Saved

  /// Computes the output.
  func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Saved)

  /// Adds the gradient of every input that needs one to `sink`.
  func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Saved,
    into sink: GradientSink)
}

/// A fused operation on float32 with its own backward pass.
package protocol DifferentiableOp: MixedPrecisionOp {
  /// What the backward pass needs besides inputs and output.
  associatedtype Saved

  /// Computes the output.
  func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Saved)

  /// Adds the gradient of every input that needs one to `sink`.
  func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Saved, into sink: GradientSink)
}

extension DifferentiableOp {
  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Saved) {
    let (output, saved) = forward(inputs.map(\.float32))
    return (.float32(output), saved)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Saved,
    into sink: GradientSink
  ) {
    backward(
      gradOutput, inputs: inputs.map(\.float32), output: output.float32, saved: saved, into: sink)
  }
}

/// Receives the input gradients of one operation: the first contribution is stored, later ones are
/// added, and nothing is filled with zeros first unless the operation asks for it.
package struct GradientSink {
  fileprivate let tape: Tape
  fileprivate let inputs: [Value]

  /// Whether input `index` needs a gradient; if not, its product must be skipped.
  package func needs(_ index: Int) -> Bool { inputs[index].needsGradient }

  /// Gives the gradient buffer of input `index`; `accumulate` tells whether to add or to store.
  package func contribute(_ index: Int, _ body: (Tensor, _ accumulate: Bool) -> Void) {
    switch inputs[index].origin {
    case .constant: return
    case .parameter(let parameter):
      if parameter.isFrozen { return }
      let (buffer, accumulate) = tape.store?.slot(parameter) ?? parameter.slot()
      body(buffer, accumulate)
    case .node(let id):
      if let gradient = tape.gradients[id] {
        body(gradient, true)
      } else {
        let fresh = Tensor(inputs[index].shape)
        tape.gradients[id] = fresh
        body(fresh, false)
      }
    }
  }

  /// Like `contribute`, for kernels that only add: the buffer starts at zero.
  package func add(_ index: Int, _ body: (Tensor) -> Void) {
    contribute(index) { buffer, accumulate in
      if !accumulate { buffer.fill(0) }
      body(buffer)
    }
  }

  /// Passes on a finished gradient, which is not written to again.
  package func pass(_ index: Int, _ gradient: Tensor) {
    if case .node(let id) = inputs[index].origin, tape.gradients[id] == nil {
      tape.gradients[id] = gradient.reshaped(inputs[index].shape)
      return
    }
    contribute(index) { buffer, accumulate in
      if accumulate {
        Parallel.ranges(buffer.count, grain: 1 << 14) { range in
          ck_add_f32(
            buffer.pointer + range.lowerBound, gradient.pointer + range.lowerBound, range.count)
        }
      } else {
        buffer.assign(gradient)
      }
    }
  }
}

/// A flat record of operations, walked backwards once.
package final class Tape {
  private struct Entry {
    let inputs: [Value]
    /// Nil for a leaf, whose gradient is kept.
    let backward: ((Tensor, GradientSink) -> Void)?
  }

  private let recording: Bool
  private let recomputing: Bool
  /// Whether what is run will be run once more on a tape that records.
  private let rehearsing: Bool
  fileprivate let store: GradientStore?
  private var entries: [Entry] = []
  fileprivate var gradients: [Tensor?] = []
  /// Whether any operation met an input that needs a gradient.
  private var meetsGradients = false

  /// Makes a tape.
  ///
  /// - Parameters:
  ///   - recording: Whether operations are recorded for a backward pass; inference needs none and keeps no activations.
  ///   - store: Receives the gradients of parameters; nil leaves them in the parameters themselves.
  ///   - recomputing: Keeps nothing of a segment but its inputs and runs it again on the way back.
  package convenience init(
    recording: Bool = true, gradients store: GradientStore? = nil, recomputing: Bool = false
  ) {
    self.init(recording, store, recomputing: recomputing, rehearsing: false)
  }

  private init(
    _ recording: Bool, _ store: GradientStore?, recomputing: Bool, rehearsing: Bool
  ) {
    self.recording = recording
    self.recomputing = recomputing
    self.rehearsing = rehearsing
    self.store = store
  }

  /// Whether nothing will be walked back, so that operations may be fused that could not be.
  var isForInference: Bool { !recording && !rehearsing }

  /// Runs an operation and records it if any input needs a gradient.
  package func apply(_ op: some MixedPrecisionOp, _ inputs: Value...) -> Value {
    apply(op, inputs)
  }

  /// Runs an operation and records it if any input needs a gradient.
  package func apply(_ op: some MixedPrecisionOp, _ inputs: [Value]) -> Value {
    let activations = inputs.map(\.activation)
    let (output, saved) = op.forward(activations)
    guard inputs.contains(where: \.needsGradient) else { return Value(output, .constant) }
    meetsGradients = true
    guard recording else { return Value(output, .constant) }
    return record(output, inputs) { gradOutput, sink in
      op.backward(gradOutput, inputs: activations, output: output, saved: saved, into: sink)
    }
  }

  /// Runs a part of a network, a block for example, that a recomputing tape does not keep.
  ///
  /// Such a tape records the whole part as one operation. On the way back it runs the part again, this
  /// time recording at its end, and walks on through that: gradients are the same to the last bit,
  /// activations of one part alone are kept, and the part's forward pass runs twice.
  ///
  /// - Parameter body: The part; applies its operations on the tape it is given, always the same ones.
  /// - Returns: What `body` returns.
  package func segment(_ body: @escaping (Tape) -> Value) -> Value {
    guard recording, recomputing else { return body(self) }
    let silent = Tape(false, nil, recomputing: false, rehearsing: true)
    let output = body(silent).activation
    guard silent.meetsGradients else { return Value(output, .constant) }
    return record(output, []) { gradOutput, sink in
      let again = body(sink.tape)
      GradientSink(tape: sink.tape, inputs: [again]).pass(0, gradOutput)
    }
  }

  /// Marks a tensor whose gradient is wanted after `backward` (see `gradient(of:)`).
  package func leaf(_ tensor: Tensor) -> Value { record(.float32(tensor), [], backward: nil) }

  private func record(
    _ output: MixedTensor, _ inputs: [Value], backward: ((Tensor, GradientSink) -> Void)?
  ) -> Value {
    entries.append(Entry(inputs: inputs, backward: backward))
    gradients.append(nil)
    return Value(output, .node(entries.count - 1))
  }

  /// The gradient of a leaf after `backward`.
  package func gradient(of value: Value) -> Tensor? {
    guard case .node(let id) = value.origin else { return nil }
    return leafGradients[id]
  }
  private var leafGradients: [Int: Tensor] = [:]

  /// Walks back from `outputs`, whose gradients are given, and releases the record on the way.
  ///
  /// - Parameter seeds: Pairs of an output of this tape and the gradient of the loss by it, of equal
  ///   shape; outputs that need no gradient are skipped.
  package func backward(_ seeds: [(Value, Tensor)]) {
    for (value, gradient) in seeds {
      precondition(
        value.shape.reduce(1, *) == gradient.count, "backward: seed of another shape")
      let sink = GradientSink(tape: self, inputs: [value])
      sink.pass(0, gradient.copied())
    }
    while let entry = entries.popLast() {
      let id = entries.count
      guard let gradient = gradients.removeLast() else { continue }
      if let backward = entry.backward {
        backward(gradient, GradientSink(tape: self, inputs: entry.inputs))
      } else {
        leafGradients[id] = gradient
      }
    }
  }

  /// Walks back from one output.
  package func backward(_ value: Value, _ gradient: Tensor) { backward([(value, gradient)]) }
}
