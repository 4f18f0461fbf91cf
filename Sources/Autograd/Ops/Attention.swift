import CKernels
import TensorCore

/// Multi-head softmax attention on a fused qkv tensor (batch, tokens, 3 dim) -> (batch, tokens, dim).
///
/// Layout as in timm `Attention`: q, k, v in that order, each head contiguous; scale head_dim^-1/2.
/// With a window, query i sees keys i-left ... i+right along the token sequence.
package struct Attention: DifferentiableOp {
  private let heads: Int
  private let left: Int
  private let right: Int

  /// Makes full attention, or windowed attention when a window is given.
  package init(heads: Int, window: (left: Int, right: Int)? = nil) {
    self.heads = heads
    left = window?.left ?? Int(Int32.max)
    right = window?.right ?? Int(Int32.max)
  }

  private struct Geometry {
    let batch, tokens, dim, headDim: Int
    let scale: Float

    init(_ qkv: Tensor, heads: Int) {
      (batch, tokens, dim) = (qkv.shape[0], qkv.shape[1], qkv.shape[2] / 3)
      headDim = dim / heads
      scale = 1 / Float(headDim).squareRoot()
    }
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Tensor) {
    let qkv = inputs[0]
    let g = Geometry(qkv, heads: heads)
    precondition(g.dim % heads == 0, "Attention: \(g.dim) channels for \(heads) heads")
    let out = Tensor([g.batch, g.tokens, g.dim])
    let logSumExp = Tensor([g.batch, heads, g.tokens])
    Parallel.tasks(g.batch * heads) { task in
      let (item, head) = (task / heads, task % heads)
      let q = qkv.pointer + item * g.tokens * 3 * g.dim + head * g.headDim
      ck_attention_forward_f32(
        q, q + g.dim, q + 2 * g.dim, 3 * g.dim,
        out.pointer + item * g.tokens * g.dim + head * g.headDim, g.dim,
        logSumExp.pointer + task * g.tokens, g.tokens, g.headDim, g.scale, left, right)
    }
    return (out, logSumExp)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Tensor, into sink: GradientSink
  ) {
    let qkv = inputs[0]
    let g = Geometry(qkv, heads: heads)
    let gradQKV = Tensor(qkv.shape)
    Parallel.tasks(g.batch * heads) { task in
      let (item, head) = (task / heads, task % heads)
      let offset = item * g.tokens * 3 * g.dim + head * g.headDim
      let column = item * g.tokens * g.dim + head * g.headDim
      let q = qkv.pointer + offset
      let dq = gradQKV.pointer + offset
      ck_attention_backward_f32(
        q, q + g.dim, q + 2 * g.dim, 3 * g.dim, output.pointer + column,
        gradOutput.pointer + column, g.dim, saved.pointer + task * g.tokens, dq, dq + g.dim,
        dq + 2 * g.dim, g.tokens, g.headDim, g.scale, left, right)
    }
    sink.pass(0, gradQKV)
  }

  /// The softmax weights (batch, heads, tokens, tokens) for a qkv tensor, for statistics.
  package func map(_ qkv: Tensor) -> Tensor {
    let g = Geometry(qkv, heads: heads)
    let map = Tensor([g.batch, heads, g.tokens, g.tokens])
    Parallel.tasks(g.batch * heads) { task in
      let (item, head) = (task / heads, task % heads)
      let q = qkv.pointer + item * g.tokens * 3 * g.dim + head * g.headDim
      ck_attention_map_f32(
        q, q + g.dim, 3 * g.dim, map.pointer + task * g.tokens * g.tokens, g.tokens, g.headDim,
        g.scale, left, right)
    }
    return map
  }
}
