import CKernels
import TensorCore

/// Causal depthwise convolution along tokens with zero history.
///
/// Inputs x (batch, tokens, channels), weight (channels, 1, taps), bias (channels). Upstream:
/// Dao-AILab/causal-conv1d without activation.
package struct CausalConvolution: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, weight, bias) = (inputs[0], inputs[1], inputs[2])
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    let taps = weight.count / channels
    precondition(taps >= 1 && taps <= 64, "CausalConvolution: 1 to 64 taps, not \(taps)")
    let y = Tensor(x.shape)
    let size = tokens * channels
    Parallel.tasks(batch) { item in
      ck_causal_conv_forward_f32(
        x.pointer + item * size, weight.pointer, bias.pointer, y.pointer + item * size, tokens,
        channels, taps)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (x, weight) = (inputs[0], inputs[1])
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    let taps = weight.count / channels
    let size = tokens * channels
    sink.contribute(0) { gradX, accumulate in
      Parallel.tasks(batch) { item in
        ck_causal_conv_backward_f32(
          x.pointer + item * size, weight.pointer, gradOutput.pointer + item * size,
          gradX.pointer + item * size, nil, nil, tokens, channels, taps, accumulate ? 1 : 0)
      }
    }
    func addParameter(_ index: Int) {
      guard sink.needs(index) else { return }
      sink.add(index) { total in
        addOverRows(rows: batch, into: total, grain: 1) { range, part in
          for item in range {
            ck_causal_conv_backward_f32(
              x.pointer + item * size, weight.pointer, gradOutput.pointer + item * size, nil,
              index == 1 ? part : nil, index == 2 ? part : nil, tokens, channels, taps, 0)
          }
        }
      }
    }
    addParameter(1)
    addParameter(2)
  }
}

/// The tokens in reverse order: (batch, tokens, channels) -> the same shape.
package struct ReverseTokens: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    (Self.reversed(inputs[0]), ())
  }

  private static func reversed(_ x: Tensor) -> Tensor {
    let (tokens, channels, y) = (x.shape[1], x.shape[2], Tensor(x.shape))
    Parallel.ranges(x.shape[0] * tokens, grain: max(1, 8192 / channels)) { rows in
      for row in rows {
        let other = row / tokens * tokens + tokens - 1 - row % tokens
        (y.pointer + other * channels).update(from: x.pointer + row * channels, count: channels)
      }
    }
    return y
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    if sink.needs(0) { sink.pass(0, Self.reversed(gradOutput)) }
  }
}
