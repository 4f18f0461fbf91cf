import CKernels
import TensorCore

/// y = x W^T + b for x (..., in), W (out, in), b (out); inputs are x, W and optionally b.
///
/// A parameter whose precision is bfloat16 is multiplied in that: factors are rounded as PyTorch's
/// autocast rounds them, biases and sums stay float32, and so does the result if it is not wanted rounded.
package struct Linear: MixedPrecisionOp {
  /// What becomes of the result of a product in bfloat16.
  enum Result {
    case floats
    case rounded
    /// GELU of it, rounded; only where nothing is recorded.
    case activated
  }

  /// The layer's weight, if it is to be multiplied in its own precision.
  private let weight: Parameter?
  private let result: Result

  /// The operation in float32.
  package init() { (weight, result) = (nil, .floats) }

  /// The operation with `weight` for its second input, in that weight's precision.
  init(_ weight: Parameter, _ result: Result = .floats) {
    self.weight = weight.precision == .bfloat16 ? weight : nil
    self.result = result
  }

  package func forward(_ inputs: [Activation]) -> (output: Activation, saved: Void) {
    let (x, weight) = (inputs[0], inputs[1].floats)
    precondition(
      x.shape.last == weight.shape[1], "Linear: input \(x.shape), weight \(weight.shape)")
    let shape = Array(x.shape.dropLast()) + [weight.shape[0]]
    let bias = inputs.count > 2 ? UnsafePointer(inputs[2].floats.pointer) : nil
    let product = LinearProduct(x.shape, weight, self.weight)
    if self.weight != nil, result != .floats {
      let y = RoundedTensor(shape)
      product.forward(x, weight.pointer, bias: bias, .rounded(y, gelu: result == .activated))
      return (.rounded(y), ())
    }
    let y = Tensor(shape)
    product.forward(x, weight.pointer, bias: bias, .floats(y.pointer))
    return (.floats(y), ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Activation], output: Activation, saved: Void,
    into sink: GradientSink
  ) {
    precondition(result != .activated, "Linear: recorded with its activation")
    let (x, weight) = (inputs[0], inputs[1].floats)
    let product = LinearProduct(x.shape, weight, self.weight)
    let (rows, outputs) = (product.rows, product.outputs)
    if sink.needs(0) {
      sink.contribute(0) { gradInput, accumulate in
        product.inputGradient(
          gradOutput.pointer, weight.pointer, gradInput.pointer, accumulate: accumulate)
      }
    }
    if sink.needs(1) {
      sink.contribute(1) { gradWeight, accumulate in
        product.weightGradient(gradOutput.pointer, x, gradWeight, accumulate: accumulate)
      }
    }
    if inputs.count > 2, sink.needs(2) {
      sink.add(2) { gradBias in
        addOverRows(rows: rows, into: gradBias) { range, part in
          ck_bias_backward_f32(
            gradOutput.pointer + range.lowerBound * outputs, part, range.count, outputs)
        }
      }
    }
  }
}

/// The three products of a linear layer: in bfloat16 if that is wanted, by our kernels where the weights
/// fit the cache, else by BLAS.
private struct LinearProduct {
  let rows, inputs, outputs: Int
  private let isSmall: Bool
  /// The weight that is multiplied in bfloat16.
  private let rounded: Parameter?
  /// Smallest number of rows worth a thread of their own.
  private var grain: Int { max(64, 400_000 / (inputs * outputs)) }

  init(_ x: [Int], _ weight: Tensor, _ rounded: Parameter?) {
    self.rounded = rounded
    (outputs, inputs) = (weight.shape[0], weight.shape[1])
    rows = x.dropLast().reduce(1, *)
    isSmall = rows >= 64 && ck_linear_fits(inputs, outputs) != 0
  }

  func forward(
    _ x: Activation, _ weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
    _ result: PackedFactor.Result
  ) {
    if let rounded {
      rounded.factor(isBackward: false)
        .multiply(m: rows, .init(x), by: .floats(weight), bias: bias, into: result)
    } else if case .floats(let y, _) = result {
      let x = x.floats
      withExtendedLifetime(x) { forward(x.pointer, weight, bias: bias, y) }
    }
  }

  private func forward(
    _ x: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
    _ y: UnsafeMutablePointer<Float>
  ) {
    if isSmall {
      Parallel.ranges(rows, grain: grain) { range in
        ck_linear_forward_f32(
          x + range.lowerBound * inputs, weight, bias, y + range.lowerBound * outputs, range.count,
          inputs, outputs)
      }
      return
    }
    if let bias {
      Parallel.ranges(rows, grain: max(1, 8192 / outputs)) { range in
        for row in range { (y + row * outputs).update(from: bias, count: outputs) }
      }
    }
    Gemm.run(
      transposeB: true, m: rows, n: outputs, k: inputs, a: x, b: weight, beta: bias == nil ? 0 : 1,
      c: y)
  }

  func inputGradient(
    _ gradOutput: UnsafePointer<Float>, _ weight: UnsafePointer<Float>,
    _ gradInput: UnsafeMutablePointer<Float>, accumulate: Bool
  ) {
    if let rounded {
      return rounded.factor(isBackward: true)
        .multiply(
          m: rows, .floats(gradOutput), by: .floats(weight),
          into: .floats(gradInput, adds: accumulate))
    }
    if isSmall {
      Parallel.ranges(rows, grain: grain) { range in
        ck_linear_input_gradient_f32(
          gradOutput + range.lowerBound * outputs, weight, gradInput + range.lowerBound * inputs,
          range.count, inputs, outputs, accumulate ? 1 : 0)
      }
      return
    }
    Gemm.run(
      m: rows, n: inputs, k: outputs, a: gradOutput, b: weight, beta: accumulate ? 1 : 0,
      c: gradInput)
  }

  func weightGradient(
    _ gradOutput: UnsafePointer<Float>, _ x: Activation, _ gradWeight: Tensor, accumulate: Bool
  ) {
    if rounded != nil {
      return PackedFactor(k: rows, n: inputs, isTransposed: false).multiply(
        m: outputs, .floats(gradOutput, isTransposed: true), by: .init(x),
        into: .floats(gradWeight.pointer, adds: accumulate))
    }
    let x = x.floats
    withExtendedLifetime(x) {
      weightGradient(gradOutput, x.pointer, gradWeight, accumulate: accumulate)
    }
  }

  private func weightGradient(
    _ gradOutput: UnsafePointer<Float>, _ x: UnsafePointer<Float>, _ gradWeight: Tensor,
    accumulate: Bool
  ) {
    if isSmall {
      if !accumulate { gradWeight.fill(0) }
      addOverRows(rows: rows, into: gradWeight) { range, part in
        ck_linear_weight_gradient_f32(
          gradOutput + range.lowerBound * outputs, x + range.lowerBound * inputs, part, range.count,
          inputs, outputs, 1)
      }
      return
    }
    Gemm.gradient(
      m: outputs, n: inputs, k: rows, a: gradOutput, b: x, beta: accumulate ? 1 : 0,
      c: gradWeight.pointer)
  }
}

extension PackedFactor.First {
  fileprivate init(_ activation: Activation) {
    switch activation {
    case .floats(let tensor): self = .floats(tensor.pointer)
    case .rounded(let tensor): self = .rounded(tensor)
    }
  }
}

extension PackedFactor.Source {
  fileprivate init(_ activation: Activation) {
    switch activation {
    case .floats(let tensor): self = .floats(tensor.pointer)
    case .rounded(let tensor): self = .rounded(tensor)
    }
  }
}

extension Tape {
  /// A linear layer: y = x W^T + b, with the low-rank addition of the weight's adapter if it has one.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - weight: (out, in).
  ///   - bias: (out), or nil for none.
  ///   - rounds: Whether the result may be in bfloat16, which it is if the weight is multiplied in that and
  ///     has no adapter.
  /// - Returns: (..., out).
  package func linear(
    _ x: Value, _ weight: Parameter, _ bias: Parameter? = nil, rounds: Bool = false
  ) -> Value {
    let result = rounds && weight.adapter == nil ? Linear.Result.rounded : .floats
    let y =
      if let bias { apply(Linear(weight, result), x, Value(weight), Value(bias)) } else {
        apply(Linear(weight, result), x, Value(weight))
      }
    guard let adapter = weight.adapter else { return y }
    let low = apply(Linear(), x, Value(adapter.down))
    return apply(LowRankUpdate(scale: adapter.scale), y, low, Value(adapter.up))
  }
}

/// Splits rows over the threads, each adding into its own copy of `total`, summed in a fixed order.
///
/// - Parameters:
///   - rows: Number of rows.
///   - total: Receives the sum; its former content is kept.
///   - grain: Smallest number of rows worth a thread of their own.
///   - body: Adds the contribution of a range of rows to the buffer it is given.
func addOverRows(
  rows: Int, into total: Tensor, grain: Int = 512,
  _ body: (Range<Int>, UnsafeMutablePointer<Float>) -> Void
) {
  let parts = max(1, min(Parallel.threads, rows / grain))
  if parts == 1 {
    body(0..<rows, total.pointer)
    return
  }
  let scratch = Tensor.zeros([parts - 1, total.count])
  Parallel.tasks(parts) { part in
    let range = (rows * part / parts)..<(rows * (part + 1) / parts)
    body(range, part == 0 ? total.pointer : scratch.pointer + (part - 1) * total.count)
  }
  for part in 1..<parts {
    ck_add_f32(total.pointer, scratch.pointer + (part - 1) * total.count, total.count)
  }
}
