import CKernels
import TensorCore

/// Multi-head linear attention on a fused qkv tensor (batch, tokens, 3 dim) -> (batch, tokens, dim).
///
/// Every token sees all tokens; scores are phi(q) . phi(k), divided by their sum plus 1e-6. Summing phi(k)^T v first
/// makes time and memory grow with the tokens, not with their square. Source: Katharopoulos et al. 2020, arXiv
/// 2006.16236, equations 4 to 7 (idiap/fast-transformers `LinearAttention`). Layout of heads as in `Attention`. The
/// output is in the input's format.
package struct LinearAttention: MixedPrecisionOp {
  /// The feature map phi of a head's channels.
  package enum FeatureMap: Int, Sendable {
    /// elu(x) + 1.
    case elu1
    /// max(x, 0).
    case relu
    /// The softmax over the channels of (x, -x): a pair of exponentials for each channel, whose sum is 1
    /// so that nothing overflows (Zhang et al. 2024, arXiv 2402.04347).
    case expPair
  }

  private let heads: Int
  private let map: Int32

  package init(heads: Int, map: FeatureMap = .elu1) {
    self.heads = heads
    self.map = Int32(map.rawValue)
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let shape = inputs[0].shape
    let (batch, tokens, dim) = (shape[0], shape[1], shape[2] / 3)
    precondition(dim % heads == 0, "LinearAttention: \(dim) channels for \(heads) heads")
    let (out, headDim) = (MixedTensor([batch, tokens, dim], like: inputs[0]), dim / heads)
    Parallel.tasks(batch * heads) { task in
      let (item, column) = (task / heads, task % heads * headDim)
      let rows = (item * tokens)..<((item + 1) * tokens)
      inputs[0].read(rows: rows, from: [column, dim + column, 2 * dim + column], width: headDim) {
        places, stride in
        out.write(rows: rows, from: column, width: headDim) { place, outStride in
          ck_linear_attention_forward_f32(
            map, places[0], places[1], places[2], stride, place, outStride, tokens, headDim)
        }
      }
    }
    return (out, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let (qkv, output) = (inputs[0].float32, output.float32)
    let (batch, tokens, dim) = (qkv.shape[0], qkv.shape[1], qkv.shape[2] / 3)
    let gradQKV = Tensor(qkv.shape)
    Parallel.tasks(batch * heads) { task in
      let (item, column) = (task / heads, task % heads * (dim / heads))
      let offset = item * tokens * 3 * dim + column
      let place = item * tokens * dim + column
      let q = qkv.pointer + offset
      let dq = gradQKV.pointer + offset
      ck_linear_attention_backward_f32(
        map, q, q + dim, q + 2 * dim, 3 * dim, output.pointer + place, gradOutput.pointer + place,
        dim,
        dq, dq + dim, dq + 2 * dim, tokens, dim / heads)
    }
    sink.pass(0, gradQKV)
  }
}
