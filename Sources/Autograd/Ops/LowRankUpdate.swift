import CKernels
import TensorCore

/// A trainable addition of low rank to the frozen weight W of a linear layer: W + scale B A (LoRA,
/// arXiv 2106.09685, section 4.1).
package final class LowRankAdapter {
  /// A (rank, in).
  package let down: Parameter
  /// B (out, rank); zeros at first, so that nothing changes.
  package let up: Parameter
  /// alpha / rank.
  package let scale: Float

  /// Makes an adapter from its two matrices.
  package init(down: Parameter, up: Parameter, scale: Float) {
    precondition(
      down.shape[0] == up.shape[1],
      "LowRankAdapter: ranks of \(down.shape) and \(up.shape)")
    self.down = down
    self.up = up
    self.scale = scale
  }
}

extension Parameter {
  /// The weight with the addition of its adapter, as a plain linear layer would hold it.
  package var mergedValue: Tensor {
    guard let adapter else { return value }
    let (up, down) = (adapter.up.value.scaled(by: adapter.scale), adapter.down.value)
    let merged = value.copied()
    Gemm.run(
      m: shape[0], n: shape[1], k: down.shape[0], a: up.pointer, b: down.pointer,
      accumulate: true, c: merged.pointer)
    return merged
  }
}

/// y + scale * low B^T for y (..., out), low (..., rank), B (out, rank).
struct LowRankUpdate: DifferentiableOp {
  let scale: Float

  func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Tensor) {
    let (low, up) = (inputs[1].scaled(by: scale), inputs[2])
    let (outputs, rank) = (up.shape[0], up.shape[1])
    precondition(
      low.shape.last == rank && inputs[0].shape.last == outputs,
      "LowRankUpdate: \(inputs[0].shape), \(low.shape) and \(up.shape)")
    let result = inputs[0].copied()
    Gemm.run(
      transposeB: true, m: low.count / rank, n: outputs, k: rank, a: low.pointer, b: up.pointer,
      accumulate: true, c: result.pointer)
    return (result, low)
  }

  func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved low: Tensor,
    into sink: GradientSink
  ) {
    let up = inputs[2]
    let (outputs, rank) = (up.shape[0], up.shape[1])
    let rows = low.count / rank
    if sink.needs(1) {
      let up = up.scaled(by: scale)
      sink.contribute(1) { gradLow, accumulate in
        Gemm.run(
          m: rows, n: rank, k: outputs, a: gradOutput.pointer, b: up.pointer,
          accumulate: accumulate, c: gradLow.pointer)
      }
    }
    if sink.needs(2) {
      sink.contribute(2) { gradUp, accumulate in
        Gemm.gradient(
          m: outputs, n: rank, k: rows, a: gradOutput.pointer, b: low.pointer,
          accumulate: accumulate, c: gradUp.pointer)
      }
    }
    if sink.needs(0) { sink.pass(0, gradOutput) }
  }
}

extension Tensor {
  fileprivate func scaled(by factor: Float) -> Tensor {
    let result = copied()
    ck_scale_f32(result.pointer, factor, count)
    return result
  }
}
