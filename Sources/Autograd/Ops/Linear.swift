import CKernels
import TensorCore

/// y = x W^T + b for x (..., in), W (out, in), b (out); inputs are x, W and optionally b.
package struct Linear: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let weight = inputs[1]
    let (outputs, width) = (weight.shape[0], weight.shape[1])
    precondition(x.shape.last == width, "Linear: input \(x.shape), weight \(weight.shape)")
    let rows = x.count / width
    let y = Tensor(x.shape.dropLast() + [outputs])
    if inputs.count > 2 {
      let bias = inputs[2]
      Parallel.ranges(rows, grain: max(1, 8192 / outputs)) { range in
        for row in range {
          (y.pointer + row * outputs).update(from: bias.pointer, count: outputs)
        }
      }
    }
    Gemm.run(
      transposeB: true, m: rows, n: outputs, k: width, a: x.pointer, b: weight.pointer,
      beta: inputs.count > 2 ? 1 : 0, c: y.pointer)
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let x = inputs[0]
    let weight = inputs[1]
    let (outputs, width) = (weight.shape[0], weight.shape[1])
    let rows = x.count / width
    if sink.needs(0) {
      sink.contribute(0) { gradInput, accumulate in
        Gemm.run(
          m: rows, n: width, k: outputs, a: gradOutput.pointer, b: weight.pointer,
          beta: accumulate ? 1 : 0, c: gradInput.pointer)
      }
    }
    if sink.needs(1) {
      sink.contribute(1) { gradWeight, accumulate in
        Gemm.gradient(
          m: outputs, n: width, k: rows, a: gradOutput.pointer, b: x.pointer,
          beta: accumulate ? 1 : 0, c: gradWeight.pointer)
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
