import CKernels
import TensorCore

/// The Hyena-X MLP between its projections: q * (k * v) with q, k, v = filter(x), a causal convolution
/// along the features with one filter per token and zero history.
///
/// Inputs x (batch, tokens, 3 dim), weight (tokens, 1, taps) and bias (tokens); output (batch, tokens,
/// dim) in the format of x. The filter is a depthwise convolution whose channels are the tokens
/// (keshik6/grafting `mlp_hyena_x`); the filtered tokens are never stored.
package struct FeatureHyena: MixedPrecisionOp {
  package init() {}

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let (batch, tokens, width, taps) = sizes(inputs)
    let (weight, bias) = (inputs[1].float32, inputs[2].float32)
    let y = MixedTensor([batch, tokens, width / 3], like: inputs[0])
    Parallel.ranges(batch * tokens, grain: max(1, 8192 / width)) { rows in
      let filtered = Tensor([width])
      for row in rows {
        inputs[0].read(rows: row..<(row + 1), from: [0], width: width) { x, _ in
          ck_row_conv_forward_f32(
            x[0], weight.pointer + row % tokens * taps, bias[row % tokens], filtered.pointer, width,
            taps)
        }
        y.write(rows: row..<(row + 1), from: 0, width: width / 3) { place, _ in
          ck_hyena_gate_forward_f32(filtered.pointer, place, 1, width / 3)
        }
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let (batch, tokens, width, taps) = sizes(inputs)
    let (weight, bias) = (inputs[1].float32, inputs[2].float32)
    var gradX: (Tensor, Bool)?
    var gradWeight, gradBias: Tensor?
    if sink.needs(0) { sink.contribute(0) { gradX = ($0, $1) } }
    if sink.needs(1) { sink.add(1) { gradWeight = $0 } }
    if sink.needs(2) { sink.add(2) { gradBias = $0 } }
    Parallel.ranges(tokens, grain: max(1, 8192 / width)) { range in
      let (filtered, gradient) = (Tensor([width]), Tensor([width]))
      for token in range {
        let filter = weight.pointer + token * taps
        for item in 0..<batch {
          let row = item * tokens + token
          inputs[0].read(rows: row..<(row + 1), from: [0], width: width) { x, _ in
            ck_row_conv_forward_f32(x[0], filter, bias[token], filtered.pointer, width, taps)
            ck_hyena_gate_backward_f32(
              filtered.pointer, gradOutput.pointer + row * (width / 3), gradient.pointer, 1,
              width / 3, 0)
            ck_row_conv_backward_f32(
              x[0], filter, gradient.pointer, gradX.map { $0.0.pointer + row * width },
              gradWeight.map { $0.pointer + token * taps }, gradBias.map { $0.pointer + token },
              width, taps, gradX?.1 == true ? 1 : 0)
          }
        }
      }
    }
  }

  private func sizes(
    _ inputs: [MixedTensor]
  ) -> (batch: Int, tokens: Int, width: Int, taps: Int) {
    let (x, weight) = (inputs[0].shape, inputs[1].shape)
    precondition(
      x.count == 3 && x[2] % 3 == 0 && weight[0] == x[1],
      "FeatureHyena: input \(x), weight \(weight)")
    return (x[0], x[1], x[2], weight[2])
  }
}
