import CKernels
import TensorCore

/// y = x W^T + b for x (..., in), W (out, in), b (out); inputs are x, W and optionally b.
///
/// A parameter whose precision is bfloat16 is multiplied in that: factors are rounded as PyTorch's
/// autocast rounds them, results and biases stay float32.
package struct Linear: DifferentiableOp {
  /// The layer's weight, if it is to be multiplied in its own precision.
  private let weight: Parameter?

  /// The operation in float32, or with `weight` for its second input in that weight's precision.
  package init(_ weight: Parameter? = nil) {
    self.weight = weight?.precision == .bfloat16 ? weight : nil
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let weight = inputs[1]
    precondition(
      x.shape.last == weight.shape[1], "Linear: input \(x.shape), weight \(weight.shape)")
    let y = Tensor(x.shape.dropLast() + [weight.shape[0]])
    LinearProduct(x, weight, self.weight).forward(
      x.pointer, weight.pointer, bias: inputs.count > 2 ? inputs[2].pointer : nil, y.pointer)
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let x = inputs[0]
    let weight = inputs[1]
    let product = LinearProduct(x, weight, self.weight)
    let (rows, outputs) = (product.rows, product.outputs)
    if sink.needs(0) {
      sink.contribute(0) { gradInput, accumulate in
        product.inputGradient(
          gradOutput.pointer, weight.pointer, gradInput.pointer, accumulate: accumulate)
      }
    }
    if sink.needs(1) {
      sink.contribute(1) { gradWeight, accumulate in
        product.weightGradient(
          gradOutput.pointer, x.pointer, gradWeight, accumulate: accumulate)
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

  init(_ x: Tensor, _ weight: Tensor, _ rounded: Parameter?) {
    self.rounded = rounded
    (outputs, inputs) = (weight.shape[0], weight.shape[1])
    rows = x.count / inputs
    isSmall = rows >= 64 && ck_linear_fits(inputs, outputs) != 0
  }

  func forward(
    _ x: UnsafePointer<Float>, _ weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
    _ y: UnsafeMutablePointer<Float>
  ) {
    if let rounded {
      return rounded.factor(isBackward: false)
        .multiply(m: rows, a: x, source: weight, bias: bias, into: y)
    }
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
        .multiply(m: rows, a: gradOutput, source: weight, adds: accumulate, into: gradInput)
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
    _ gradOutput: UnsafePointer<Float>, _ x: UnsafePointer<Float>, _ gradWeight: Tensor,
    accumulate: Bool
  ) {
    if rounded != nil {
      return PackedFactor(k: rows, n: inputs, isTransposed: false).multiply(
        m: outputs, a: gradOutput, transposeA: true, source: x, adds: accumulate,
        into: gradWeight.pointer)
    }
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

extension Tape {
  /// A linear layer: y = x W^T + b, with the low-rank addition of the weight's adapter if it has one.
  ///
  /// - Parameters:
  ///   - x: (..., in).
  ///   - weight: (out, in).
  ///   - bias: (out), or nil for none.
  /// - Returns: (..., out).
  package func linear(_ x: Value, _ weight: Parameter, _ bias: Parameter? = nil) -> Value {
    let y =
      if let bias { apply(Linear(weight), x, Value(weight), Value(bias)) } else {
        apply(Linear(weight), x, Value(weight))
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
