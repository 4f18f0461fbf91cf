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

/// The Hyena gates q * (k * v) on a tensor (batch, tokens, 3 dim) -> (batch, tokens, dim).
package struct HyenaGate: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let qkv = inputs[0]
    let dim = qkv.shape[2] / 3
    let y = Tensor([qkv.shape[0], qkv.shape[1], dim])
    Parallel.ranges(y.count / dim, grain: max(1, 4096 / dim)) { range in
      ck_hyena_gate_forward_f32(
        qkv.pointer + range.lowerBound * 3 * dim, y.pointer + range.lowerBound * dim, range.count,
        dim)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let qkv = inputs[0]
    let dim = qkv.shape[2] / 3
    sink.contribute(0) { gradQKV, accumulate in
      Parallel.ranges(qkv.count / (3 * dim), grain: max(1, 4096 / dim)) { range in
        ck_hyena_gate_backward_f32(
          qkv.pointer + range.lowerBound * 3 * dim, gradOutput.pointer + range.lowerBound * dim,
          gradQKV.pointer + range.lowerBound * 3 * dim, range.count, dim, accumulate ? 1 : 0)
      }
    }
  }
}
