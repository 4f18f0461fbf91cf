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
      down.value.shape[0] == up.value.shape[1],
      "LowRankAdapter: ranks of \(down.value.shape) and \(up.value.shape)")
    self.down = down
    self.up = up
    self.scale = scale
  }
}

extension Parameter {
  /// The weight with the addition of its adapter, as a plain linear layer would hold it.
  package var mergedValue: Tensor {
    guard let adapter else { return value }
    let (outputs, inputs, rank) = (value.shape[0], value.shape[1], adapter.down.value.shape[0])
    let merged = value.copied()
    Gemm.run(
      m: outputs, n: inputs, k: rank, alpha: adapter.scale, a: adapter.up.value.pointer,
      b: adapter.down.value.pointer, beta: 1, c: merged.pointer)
    return merged
  }
}

/// y + scale * low B^T for y (..., out), low (..., rank), B (out, rank).
struct LowRankUpdate: DifferentiableOp {
  let scale: Float

  func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (low, up) = (inputs[1], inputs[2])
    let (outputs, rank) = (up.shape[0], up.shape[1])
    precondition(
      low.shape.last == rank && inputs[0].shape.last == outputs,
      "LowRankUpdate: \(inputs[0].shape), \(low.shape) and \(up.shape)")
    let result = inputs[0].copied()
    Gemm.run(
      transposeB: true, m: low.count / rank, n: outputs, k: rank, alpha: scale, a: low.pointer,
      b: up.pointer, beta: 1, c: result.pointer)
    return (result, ())
  }

  func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (low, up) = (inputs[1], inputs[2])
    let (outputs, rank) = (up.shape[0], up.shape[1])
    let rows = low.count / rank
    if sink.needs(1) {
      sink.contribute(1) { gradLow, accumulate in
        Gemm.run(
          m: rows, n: rank, k: outputs, alpha: scale, a: gradOutput.pointer, b: up.pointer,
          beta: accumulate ? 1 : 0, c: gradLow.pointer)
      }
    }
    if sink.needs(2) {
      sink.contribute(2) { gradUp, accumulate in
        Gemm.gradient(
          m: outputs, n: rank, k: rows, alpha: scale, a: gradOutput.pointer, b: low.pointer,
          beta: accumulate ? 1 : 0, c: gradUp.pointer)
      }
    }
    if sink.needs(0) { sink.pass(0, gradOutput) }
  }
}
