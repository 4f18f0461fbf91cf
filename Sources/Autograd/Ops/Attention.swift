import CKernels
import TensorCore

/// Multi-head softmax attention on a fused qkv tensor (batch, tokens, 3 dim) -> (batch, tokens, dim).
///
/// Layout as in timm `Attention`: q, k, v in that order, each head contiguous; scale head_dim^-1/2.
/// With a window, query i sees keys i-left ... i+right along the token sequence. On bfloat16 both
/// products of every head are made in it, with float32 sums and softmax, and the output is bfloat16.
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

  private struct Geometry {
    let batch, tokens, dim, headDim: Int
    let scale: Float

    init(_ qkv: [Int], heads: Int) {
      precondition(qkv[2] % (3 * heads) == 0, "Attention: \(qkv) for \(heads) heads")
      (batch, tokens, dim) = (qkv[0], qkv[1], qkv[2] / 3)
      headDim = dim / heads
      scale = 1 / Float(headDim).squareRoot()
    }
  }

  /// How a head lies in memory, for the kernels on bfloat16.
  private func shape(_ g: Geometry) -> ck_rounded_attention_shape {
    ck_rounded_attention_shape(
      tokens: g.tokens, head_dim: g.headDim, stride: 3 * g.dim, out_stride: g.dim, scale: g.scale,
      left: left, right: right)
  }

  private static let native = ck_has_bfloat16()

  package func forward(_ inputs: [Activation]) -> (output: Activation, saved: Tensor) {
    let g = Geometry(inputs[0].shape, heads: heads)
    let logSumExp = Tensor([g.batch, heads, g.tokens])
    // Pairs of channels are multiplied there, of one head.
    if case .rounded(let qkv) = inputs[0], g.headDim % 2 == 0 {
      let out = RoundedTensor([g.batch, g.tokens, g.dim])
      Parallel.tasks(g.batch * heads) { task in
        var shape = shape(g)
        let q = qkv.halves + offset(task, g)
        ck_attention_forward_bf16(
          q, q + g.dim, q + 2 * g.dim, out.halves + column(task, g),
          logSumExp.pointer + task * g.tokens, &shape, Self.native)
      }
      return (.rounded(out), logSumExp)
    }
    let qkv = inputs[0].floats
    let out = Tensor([g.batch, g.tokens, g.dim])
    Parallel.tasks(g.batch * heads) { task in
      let q = qkv.pointer + offset(task, g)
      ck_attention_forward_f32(
        q, q + g.dim, q + 2 * g.dim, 3 * g.dim, out.pointer + column(task, g), g.dim,
        logSumExp.pointer + task * g.tokens, g.tokens, g.headDim, g.scale, left, right)
    }
    return (.floats(out), logSumExp)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Activation], output: Activation, saved: Tensor,
    into sink: GradientSink
  ) {
    let g = Geometry(inputs[0].shape, heads: heads)
    let gradQKV = Tensor(inputs[0].shape)
    if case (.rounded(let qkv), .rounded(let out)) = (inputs[0], output) {
      Parallel.tasks(g.batch * heads) { task in
        var shape = shape(g)
        let (q, dq) = (qkv.halves + offset(task, g), gradQKV.pointer + offset(task, g))
        ck_attention_backward_bf16(
          q, q + g.dim, q + 2 * g.dim, out.halves + column(task, g),
          gradOutput.pointer + column(task, g), saved.pointer + task * g.tokens, dq, dq + g.dim,
          dq + 2 * g.dim, &shape, Self.native)
      }
      return sink.pass(0, gradQKV)
    }
    let (qkv, out) = (inputs[0].floats, output.floats)
    Parallel.tasks(g.batch * heads) { task in
      let (q, dq) = (qkv.pointer + offset(task, g), gradQKV.pointer + offset(task, g))
      ck_attention_backward_f32(
        q, q + g.dim, q + 2 * g.dim, 3 * g.dim, out.pointer + column(task, g),
        gradOutput.pointer + column(task, g), g.dim, saved.pointer + task * g.tokens, dq,
        dq + g.dim, dq + 2 * g.dim, g.tokens, g.headDim, g.scale, left, right)
    }
    sink.pass(0, gradQKV)
  }

  /// Where the queries of an image's head begin in qkv.
  private func offset(_ task: Int, _ g: Geometry) -> Int {
    task / heads * g.tokens * 3 * g.dim + task % heads * g.headDim
  }

  /// Where its output begins.
  private func column(_ task: Int, _ g: Geometry) -> Int {
    task / heads * g.tokens * g.dim + task % heads * g.headDim
  }

  /// The softmax weights (batch, heads, tokens, tokens) for a qkv tensor, for statistics.
  package func map(_ qkv: Tensor) -> Tensor {
    let g = Geometry(qkv.shape, heads: heads)
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
