import CKernels
import TensorCore

/// Multi-head softmax attention on a fused qkv tensor (batch, tokens, 3 dim) -> (batch, tokens, dim).
///
/// Layout as in timm `Attention`: q, k, v in that order, each head contiguous; scale head_dim^-1/2.
/// With a window, query i sees keys i-left ... i+right along the token sequence. With bfloat16 input
/// both products of every head are bfloat16 with float32 sums and softmax, and so is the output.
package struct Attention: MixedPrecisionOp {
  private let heads: Int
  private let left: Int
  private let right: Int

  /// Makes full attention, or windowed attention when a window is given.
  package init(heads: Int, window: (left: Int, right: Int)? = nil) {
    self.heads = heads
    left = window?.left ?? Int(Int32.max)
    right = window?.right ?? Int(Int32.max)
  }

  private static let native = ck_has_bfloat16()

  /// How a head of qkv (batch, tokens, 3 dim) lies in memory.
  private func shape(_ qkv: [Int]) -> ck_attention_shape {
    let (tokens, dim) = (qkv[1], qkv[2] / 3)
    precondition(qkv[2] % (3 * heads) == 0, "Attention: \(qkv) for \(heads) heads")
    return ck_attention_shape(
      queries: tokens, keys: tokens, head_dim: dim / heads, q_stride: 3 * dim, kv_stride: 3 * dim,
      out_stride: dim, scale: 1 / Float(dim / heads).squareRoot(), left: left, right: right)
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Tensor) {
    let (batch, shape) = (inputs[0].shape[0], shape(inputs[0].shape))
    let (tokens, dim) = (shape.queries, shape.out_stride)
    let logSumExp = Tensor([batch, heads, tokens])
    // Pairs of channels of one head are multiplied there.
    if case .bfloat16(let qkv) = inputs[0], shape.head_dim % 2 == 0 {
      let out = BFloat16Tensor([batch, tokens, dim])
      Parallel.tasks(batch * heads) { task in
        var shape = shape
        let q = qkv.pointer + offset(task, shape)
        ck_attention_forward_bf16(
          q, q + dim, q + 2 * dim, out.pointer + column(task, shape),
          logSumExp.pointer + task * tokens, &shape, Self.native)
      }
      return (.bfloat16(out), logSumExp)
    }
    let (qkv, out) = (inputs[0].float32, Tensor([batch, tokens, dim]))
    Parallel.tasks(batch * heads) { task in
      var shape = shape
      let q = qkv.pointer + offset(task, shape)
      ck_attention_forward_f32(
        q, q + dim, q + 2 * dim, nil, out.pointer + column(task, shape),
        logSumExp.pointer + task * tokens, &shape)
    }
    return (.float32(out), logSumExp)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Tensor,
    into sink: GradientSink
  ) {
    let (batch, shape) = (inputs[0].shape[0], shape(inputs[0].shape))
    let (tokens, dim) = (shape.queries, shape.out_stride)
    let gradQKV = Tensor(inputs[0].shape)
    if case (.bfloat16(let qkv), .bfloat16(let out)) = (inputs[0], output) {
      Parallel.tasks(batch * heads) { task in
        var shape = shape
        let (start, column) = (offset(task, shape), column(task, shape))
        let (q, dq) = (qkv.pointer + start, gradQKV.pointer + start)
        ck_attention_backward_bf16(
          q, q + dim, q + 2 * dim, out.pointer + column, gradOutput.pointer + column,
          saved.pointer + task * tokens, dq, dq + dim, dq + 2 * dim, &shape, Self.native)
      }
      return sink.pass(0, gradQKV)
    }
    let (qkv, out) = (inputs[0].float32, output.float32)
    Parallel.tasks(batch * heads) { task in
      var shape = shape
      let (start, column) = (offset(task, shape), column(task, shape))
      let (q, dq) = (qkv.pointer + start, gradQKV.pointer + start)
      ck_attention_backward_f32(
        q, q + dim, q + 2 * dim, nil, out.pointer + column, gradOutput.pointer + column,
        saved.pointer + task * tokens, dq, dq + dim, dq + 2 * dim, &shape)
    }
    sink.pass(0, gradQKV)
  }

  /// Offset of the first query of an image's head in qkv.
  private func offset(_ task: Int, _ shape: ck_attention_shape) -> Int {
    task / heads * shape.queries * shape.q_stride + task % heads * shape.head_dim
  }

  /// Offset of the first output of that head.
  private func column(_ task: Int, _ shape: ck_attention_shape) -> Int {
    task / heads * shape.queries * shape.out_stride + task % heads * shape.head_dim
  }

  /// The softmax weights (batch, heads, tokens, tokens) for a qkv tensor, for statistics.
  package func map(_ qkv: Tensor) -> Tensor {
    let (batch, shape) = (qkv.shape[0], shape(qkv.shape))
    let (tokens, dim) = (shape.queries, shape.out_stride)
    let map = Tensor([batch, heads, tokens, tokens])
    Parallel.tasks(batch * heads) { task in
      var shape = shape
      let q = qkv.pointer + offset(task, shape)
      ck_attention_map_f32(q, q + dim, map.pointer + task * tokens * tokens, &shape)
    }
    return map
  }
}
