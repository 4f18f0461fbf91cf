import CKernels
import TensorCore

/// Instance norm over the tokens of some neighbouring channels, which leaves the others as they are:
/// (batch, tokens, channels) -> the same shape.
///
/// Inputs: x, weight and bias of the normalised channels. Mean and biased variance are those of one image and
/// channel (PyTorch `InstanceNorm1d` with affine weights).
package struct TokenNorm: DifferentiableOp {
  private let columns: Range<Int>
  private let epsilon: Float

  /// Makes the norm of the channels in `columns`.
  package init(columns: Range<Int>, epsilon: Float = 1e-5) {
    self.columns = columns
    self.epsilon = epsilon
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: (mean: Tensor, scale: Tensor))
  {
    let (x, width) = (inputs[0], columns.count)
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    precondition(
      columns.upperBound <= channels && inputs[1].count == width, "TokenNorm: \(x.shape)")
    let (y, mean, scale) = (x.copied(), Tensor([batch, width]), Tensor([batch, width]))
    Parallel.tasks(batch) { item in
      let start = item * tokens * channels + columns.lowerBound
      ck_token_norm_forward_f32(
        x.pointer + start, channels, inputs[1].pointer, inputs[2].pointer, epsilon,
        y.pointer + start, channels, mean.pointer + item * width, scale.pointer + item * width,
        tokens, width)
    }
    return (y, (mean, scale))
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: (mean: Tensor, scale: Tensor),
    into sink: GradientSink
  ) {
    let (x, width) = (inputs[0], columns.count)
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    let (gradX, parts) = (gradOutput.copied(), Tensor.zeros([2, batch, width]))
    Parallel.tasks(batch) { item in
      let start = item * tokens * channels + columns.lowerBound
      ck_token_norm_backward_f32(
        x.pointer + start, channels, inputs[1].pointer, saved.mean.pointer + item * width,
        saved.scale.pointer + item * width, gradOutput.pointer + start, channels,
        gradX.pointer + start, channels, parts.pointer + item * width,
        parts.pointer + (batch + item) * width, tokens, width)
    }
    if sink.needs(0) { sink.pass(0, gradX) }
    for index in 1...2 where sink.needs(index) {
      sink.add(index) { total in
        for item in 0..<batch {
          ck_add_f32(total.pointer, parts.pointer + ((index - 1) * batch + item) * width, width)
        }
      }
    }
  }
}
