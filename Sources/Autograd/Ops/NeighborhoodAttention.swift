import CKernels
import TensorCore

/// Softmax attention to a window of the token grid, on a fused qkv tensor (batch, tokens, 3 dim) -> (batch,
/// tokens, dim), with linear attention to all other tokens if there is a mix.
///
/// The window of a query is centred at it and shifted into the grid at its borders, so that every query sees
/// as many keys (Hassani et al. 2022, arXiv 2204.07143); it is at most the grid. Scores have the scale
/// head_dim^-1/2. Work and memory grow with tokens times window.
///
/// With the second input, mixes (heads): near tokens weigh m exp(score), far ones (1 - m) phi(q) . phi(k) /
/// head_dim with phi = elu + 1, m = sigmoid(mix), and all weights are divided by their sum. Layout of heads
/// as in `Attention`; the output is in the input's format, products are float32.
package struct NeighborhoodAttention: MixedPrecisionOp {
  private let heads: Int
  private let grid, window: (rows: Int, columns: Int)

  /// Makes the operation for tokens in raster order.
  package init(
    heads: Int, grid: (rows: Int, columns: Int), window: (rows: Int, columns: Int)
  ) {
    self.heads = heads
    self.grid = grid
    self.window = (min(window.rows, grid.rows), min(window.columns, grid.columns))
  }

  private func shape(_ dim: Int, _ stride: Int, mix: Float?) -> ck_neighborhood_shape {
    ck_neighborhood_shape(
      rows: grid.rows, columns: grid.columns, window_rows: window.rows,
      window_columns: window.columns, head_dim: dim / heads, stride: stride, out_stride: dim,
      scale: 1 / Float(dim / heads).squareRoot(), mix: mix ?? 1, far: mix == nil ? 0 : 1)
  }

  /// The share of the near tokens in a head's weights; nil if no token takes part by linear attention.
  private func mix(_ inputs: [MixedTensor], _ head: Int) -> Float? {
    guard inputs.count > 1, window != grid else { return nil }
    return ck_sigmoid_f32(inputs[1].float32[head])
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Tensor) {
    let qkv = inputs[0].shape
    let (batch, tokens, dim) = (qkv[0], qkv[1], qkv[2] / 3)
    precondition(
      dim % heads == 0 && tokens == grid.rows * grid.columns,
      "NeighborhoodAttention: \(qkv) for \(heads) heads on a grid of \(grid)")
    let (out, logSums) = (
      MixedTensor([batch, tokens, dim], like: inputs[0]), Tensor([batch, heads, tokens])
    )
    let width = dim / heads
    Parallel.tasks(batch * heads) { task in
      let column = task % heads * width
      let rows = (task / heads * tokens)..<((task / heads + 1) * tokens)
      inputs[0].read(rows: rows, from: [column, dim + column, 2 * dim + column], width: width) {
        places, stride in
        out.write(rows: rows, from: column, width: width) { place, outStride in
          var shape = shape(dim, stride, mix: mix(inputs, task % heads))
          shape.out_stride = outStride
          ck_neighborhood_forward_f32(
            places[0], places[1], places[2], place, logSums.pointer + task * tokens, &shape)
        }
      }
    }
    return (out, logSums)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Tensor,
    into sink: GradientSink
  ) {
    let (qkv, output) = (inputs[0].float32, output.float32)
    let (batch, tokens, dim) = (qkv.shape[0], qkv.shape[1], qkv.shape[2] / 3)
    let (gradQKV, gradMixes) = (Tensor(qkv.shape), Tensor([batch, heads]))
    Parallel.tasks(batch * heads) { task in
      let (item, column) = (task / heads, task % heads * (dim / heads))
      let mix = mix(inputs, task % heads)
      var shape = shape(dim, 3 * dim, mix: mix)
      let (start, place) = (item * tokens * 3 * dim + column, item * tokens * dim + column)
      let (q, dq) = (qkv.pointer + start, gradQKV.pointer + start)
      let slope = ck_neighborhood_backward_f32(
        q, q + dim, q + 2 * dim, output.pointer + place, gradOutput.pointer + place,
        saved.pointer + task * tokens, dq, dq + dim, dq + 2 * dim, &shape)
      gradMixes[task] = slope * (mix.map { $0 * (1 - $0) } ?? 0)
    }
    sink.pass(0, gradQKV)
    guard inputs.count > 1, sink.needs(1) else { return }
    sink.add(1) { total in
      for item in 0..<batch { ck_add_f32(total.pointer, gradMixes.pointer + item * heads, heads) }
    }
  }
}
