import CKernels
import TensorCore

/// Multi-head softmax attention of queries to keys and values of another length.
///
/// Inputs: queries (batch, queries, width), of which the first dim columns are used, and keys beside
/// values (batch, keys, 2 dim); output (batch, queries, dim). Scale head_dim^-1/2. Upstream:
/// PixArt-sigma `MultiHeadCrossAttention`, and `AttentionKVCompress`, whose queries are the first third of
/// a fused qkv tensor.
package struct CrossAttention: DifferentiableOp {
  private let heads: Int
  private let bias: Tensor?

  /// Makes the operation.
  ///
  /// - Parameters:
  ///   - heads: Number of heads; divides dim.
  ///   - bias: (batch, keys), added to the scaled scores; a constant such as a mask.
  package init(heads: Int, bias: Tensor? = nil) {
    self.heads = heads
    self.bias = bias
  }

  private func shape(_ q: Tensor, _ kv: Tensor) -> ck_cross_attention_shape {
    let dim = kv.shape[2] / 2
    precondition(
      q.shape.count == 3 && q.shape[0] == kv.shape[0] && q.shape[2] >= dim && dim % heads == 0,
      "CrossAttention: queries \(q.shape), keys and values \(kv.shape), \(heads) heads")
    precondition(
      bias == nil || bias?.shape == [kv.shape[0], kv.shape[1]],
      "CrossAttention: bias \(bias?.shape ?? []) for keys \(kv.shape)")
    return ck_cross_attention_shape(
      queries: q.shape[1], keys: kv.shape[1], head_dim: dim / heads, q_stride: q.shape[2],
      kv_stride: 2 * dim, out_stride: dim, scale: 1 / Float(dim / heads).squareRoot())
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Tensor) {
    let (q, kv) = (inputs[0], inputs[1])
    let shape = shape(q, kv)
    let dim = shape.out_stride
    let out = Tensor([q.shape[0], shape.queries, dim])
    let logSumExp = Tensor([q.shape[0], heads, shape.queries])
    Parallel.tasks(q.shape[0] * heads) { task in
      var shape = shape
      let (item, column) = (task / heads, task % heads * shape.head_dim)
      let keys = kv.pointer + item * shape.keys * 2 * dim + column
      ck_cross_attention_forward_f32(
        q.pointer + item * shape.queries * shape.q_stride + column, keys, keys + dim,
        bias.map { UnsafePointer($0.pointer + item * shape.keys) },
        out.pointer + item * shape.queries * dim + column,
        logSumExp.pointer + task * shape.queries, &shape)
    }
    return (out, logSumExp)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Tensor, into sink: GradientSink
  ) {
    let (q, kv) = (inputs[0], inputs[1])
    let shape = shape(q, kv)
    let dim = shape.out_stride
    let gradQ = shape.q_stride == dim ? Tensor(q.shape) : .zeros(q.shape)
    let gradKV = Tensor(kv.shape)
    Parallel.tasks(q.shape[0] * heads) { task in
      var shape = shape
      let (item, column) = (task / heads, task % heads * shape.head_dim)
      let queries = item * shape.queries * shape.q_stride + column
      let keys = item * shape.keys * 2 * dim + column
      let out = item * shape.queries * dim + column
      ck_cross_attention_backward_f32(
        q.pointer + queries, kv.pointer + keys, kv.pointer + keys + dim,
        bias.map { UnsafePointer($0.pointer + item * shape.keys) }, output.pointer + out,
        gradOutput.pointer + out, saved.pointer + task * shape.queries, gradQ.pointer + queries,
        gradKV.pointer + keys, gradKV.pointer + keys + dim, &shape)
    }
    sink.pass(0, gradQ)
    sink.pass(1, gradKV)
  }
}
