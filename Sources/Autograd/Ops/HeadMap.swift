import TensorCore

/// Multiplies queries and keys of every head by matrices of their own: qkv (batch, tokens, 3 dim) -> the same
/// shape, q_h M_h^T and k_h N_h^T beside v.
///
/// Inputs: qkv, M and N (heads, head_dim, head_dim).
package struct HeadMap: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (qkv, heads, width) = (inputs[0], inputs[1].shape[0], inputs[1].shape[1])
    let (batch, tokens, stride) = (qkv.shape[0], qkv.shape[1], qkv.shape[2])
    precondition(
      stride == 3 * heads * width && inputs[2].shape == inputs[1].shape,
      "HeadMap: \(inputs.map(\.shape))")
    let y = qkv.copied()
    Parallel.tasks(batch * 2 * heads) { task in
      let (item, part) = (task / (2 * heads), task % (2 * heads))
      let start = item * tokens * stride + part * width
      Gemm.serial(
        transposeB: true, m: tokens, n: width, k: width, a: qkv.pointer + start, lda: stride,
        b: matrix(inputs, part), ldb: width, c: y.pointer + start, ldc: stride)
    }
    return (y, ())
  }

  /// The matrix of a head of the queries, or of the keys behind them.
  private func matrix(_ inputs: [Tensor], _ part: Int) -> UnsafeMutablePointer<Float> {
    let (heads, width) = (inputs[1].shape[0], inputs[1].shape[1])
    return inputs[1 + part / heads].pointer + part % heads * width * width
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (qkv, heads, width) = (inputs[0], inputs[1].shape[0], inputs[1].shape[1])
    let (batch, tokens, stride) = (qkv.shape[0], qkv.shape[1], qkv.shape[2])
    if sink.needs(0) {
      let gradient = gradOutput.copied()
      Parallel.tasks(batch * 2 * heads) { task in
        let (item, part) = (task / (2 * heads), task % (2 * heads))
        let start = item * tokens * stride + part * width
        Gemm.serial(
          m: tokens, n: width, k: width, a: gradOutput.pointer + start, lda: stride,
          b: matrix(inputs, part), ldb: width, c: gradient.pointer + start, ldc: stride)
      }
      sink.pass(0, gradient)
    }
    for index in 1...2 where sink.needs(index) {
      sink.contribute(index) { gradient, accumulate in
        Parallel.tasks(heads) { head in
          for item in 0..<batch {
            let start = item * tokens * stride + ((index - 1) * heads + head) * width
            Gemm.serial(
              transposeA: true, m: width, n: width, k: tokens, a: gradOutput.pointer + start,
              lda: stride, b: qkv.pointer + start, ldb: stride, accumulate: accumulate || item > 0,
              c: gradient.pointer + head * width * width, ldc: width)
          }
        }
      }
    }
  }
}
