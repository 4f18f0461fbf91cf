import CKernels
import TensorCore

/// Multi-head softmax attention of queries to keys and values of another length.
///
/// Inputs: queries (batch, queries, width), of which the first dim columns are used, and keys beside
/// values (batch, keys, 2 dim); output (batch, queries, dim). Scale head_dim^-1/2. Upstream:
/// PixArt-sigma `MultiHeadCrossAttention`, and `AttentionKVCompress`, whose queries are the first third of
/// a fused qkv tensor. The output is in the format of the queries.
package struct CrossAttention: MixedPrecisionOp {
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

  private func shape(_ inputs: [MixedTensor]) -> ck_attention_shape {
    let (q, kv) = (inputs[0].shape, inputs[1].shape)
    let dim = kv[2] / 2
    precondition(
      q.count == 3 && q[0] == kv[0] && q[2] >= dim && dim % heads == 0,
      "CrossAttention: queries \(q), keys and values \(kv), \(heads) heads")
    precondition(
      bias == nil || bias?.shape == [kv[0], kv[1]],
      "CrossAttention: bias \(bias?.shape ?? []) for keys \(kv)")
    return ck_attention_shape(
      queries: q[1], keys: kv[1], head_dim: dim / heads, q_stride: q[2],
      kv_stride: 2 * dim, out_stride: dim, scale: 1 / Float(dim / heads).squareRoot(),
      left: q[1], right: kv[1])
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Tensor) {
    let shape = shape(inputs)
    let (batch, dim, width) = (inputs[0].shape[0], shape.out_stride, shape.head_dim)
    let out = MixedTensor([batch, shape.queries, dim], like: inputs[0])
    let logSumExp = Tensor([batch, heads, shape.queries])
    Parallel.tasks(batch * heads) { task in
      let (item, column) = (task / heads, task % heads * width)
      let queries = (item * shape.queries)..<((item + 1) * shape.queries)
      let keys = (item * shape.keys)..<((item + 1) * shape.keys)
      inputs[0].read(rows: queries, from: [column], width: width) { q, qStride in
        inputs[1].read(rows: keys, from: [column, dim + column], width: width) { kv, kvStride in
          out.write(rows: queries, from: column, width: width) { place, outStride in
            var shape = shape
            (shape.q_stride, shape.kv_stride, shape.out_stride) = (qStride, kvStride, outStride)
            ck_attention_forward_f32(
              q[0], kv[0], kv[1], bias.map { UnsafePointer($0.pointer + keys.lowerBound) }, place,
              logSumExp.pointer + task * shape.queries, &shape)
          }
        }
      }
    }
    return (out, logSumExp)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Tensor,
    into sink: GradientSink
  ) {
    let (q, kv, output) = (inputs[0].float32, inputs[1].float32, output.float32)
    let shape = shape(inputs)
    let dim = shape.out_stride
    let gradQ = shape.q_stride == dim ? Tensor(q.shape) : .zeros(q.shape)
    let gradKV = Tensor(kv.shape)
    Parallel.tasks(q.shape[0] * heads) { task in
      var shape = shape
      let (item, column) = (task / heads, task % heads * shape.head_dim)
      let queries = item * shape.queries * shape.q_stride + column
      let keys = item * shape.keys * 2 * dim + column
      let out = item * shape.queries * dim + column
      ck_attention_backward_f32(
        q.pointer + queries, kv.pointer + keys, kv.pointer + keys + dim,
        bias.map { UnsafePointer($0.pointer + item * shape.keys) }, output.pointer + out,
        gradOutput.pointer + out, saved.pointer + task * shape.queries, gradQ.pointer + queries,
        gradKV.pointer + keys, gradKV.pointer + keys + dim, &shape)
    }
    sink.pass(0, gradQ)
    sink.pass(1, gradKV)
  }
}
