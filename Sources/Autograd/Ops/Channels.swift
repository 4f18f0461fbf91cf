import CKernels
import TensorCore

/// Some neighbouring channels: (..., channels) -> (..., range.count).
package struct ChannelSlice: DifferentiableOp {
  private let range: Range<Int>

  package init(_ range: Range<Int>) { self.range = range }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let x = inputs[0]
    let width = x.shape[x.shape.count - 1]
    precondition(range.upperBound <= width, "ChannelSlice: \(range) of \(x.shape)")
    let y = Tensor(x.shape.dropLast() + [range.count])
    Parallel.ranges(x.count / width, grain: max(1, 8192 / range.count)) { rows in
      for row in rows {
        (y.pointer + row * range.count).update(
          from: x.pointer + row * width + range.lowerBound, count: range.count)
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let width = inputs[0].shape[inputs[0].shape.count - 1]
    sink.add(0) { gradX in
      Parallel.ranges(gradX.count / width, grain: max(1, 8192 / range.count)) { rows in
        for row in rows {
          ck_add_f32(
            gradX.pointer + row * width + range.lowerBound,
            gradOutput.pointer + row * range.count, range.count)
        }
      }
    }
  }
}

/// The channels of two tensors behind each other: (..., a) and (..., b) -> (..., a + b).
package struct ConcatenateChannels: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    precondition(
      inputs[0].shape.dropLast() == inputs[1].shape.dropLast(),
      "ConcatenateChannels: \(inputs[0].shape), \(inputs[1].shape)")
    let widths = inputs.map { $0.shape[$0.shape.count - 1] }
    let width = widths[0] + widths[1]
    let y = Tensor(inputs[0].shape.dropLast() + [width])
    Parallel.ranges(y.count / width, grain: max(1, 8192 / width)) { rows in
      for row in rows {
        let target = y.pointer + row * width
        target.update(from: inputs[0].pointer + row * widths[0], count: widths[0])
        (target + widths[0]).update(from: inputs[1].pointer + row * widths[1], count: widths[1])
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let width = output.shape[output.shape.count - 1]
    for index in 0..<2 where sink.needs(index) {
      let own = inputs[index].shape[inputs[index].shape.count - 1]
      let start = index == 0 ? 0 : width - own
      sink.add(index) { gradient in
        Parallel.ranges(gradient.count / own, grain: max(1, 8192 / own)) { rows in
          for row in rows {
            ck_add_f32(
              gradient.pointer + row * own, gradOutput.pointer + row * width + start, own)
          }
        }
      }
    }
  }
}

/// Causal convolution along features with one filter per token and zero history.
///
/// Inputs x (batch, tokens, features), weight (tokens, 1, taps), bias (tokens): a depthwise
/// convolution whose channels are the tokens (keshik6/grafting `mlp_hyena_x`).
package struct FeatureConvolution: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, weight, bias) = (inputs[0], inputs[1], inputs[2])
    let (tokens, features) = (x.shape[1], x.shape[2])
    precondition(
      weight.shape[0] == tokens, "FeatureConvolution: \(tokens) tokens, weight \(weight.shape)")
    let taps = weight.shape[2]
    let y = Tensor(x.shape)
    Parallel.ranges(x.shape[0] * tokens, grain: max(1, 8192 / features)) { rows in
      for row in rows {
        let token = row % tokens
        ck_row_conv_forward_f32(
          x.pointer + row * features, weight.pointer + token * taps, bias[token],
          y.pointer + row * features, features, taps)
      }
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (x, weight) = (inputs[0], inputs[1])
    let (batch, tokens, features) = (x.shape[0], x.shape[1], x.shape[2])
    let taps = weight.shape[2]
    var gradX: (Tensor, Bool)?
    var gradWeight, gradBias: Tensor?
    if sink.needs(0) { sink.contribute(0) { gradX = ($0, $1) } }
    if sink.needs(1) { sink.add(1) { gradWeight = $0 } }
    if sink.needs(2) { sink.add(2) { gradBias = $0 } }
    Parallel.ranges(tokens, grain: max(1, 8192 / features)) { range in
      for token in range {
        for item in 0..<batch {
          let start = (item * tokens + token) * features
          ck_row_conv_backward_f32(
            x.pointer + start, weight.pointer + token * taps, gradOutput.pointer + start,
            gradX.map { $0.0.pointer + start }, gradWeight.map { $0.pointer + token * taps },
            gradBias.map { $0.pointer + token }, features, taps, gradX?.1 == true ? 1 : 0)
        }
      }
    }
  }
}
