import CKernels
import TensorCore

/// Adds a depthwise convolution of the token grid to some neighbouring channels, which leaves the others as
/// they are: (batch, tokens, channels) -> the same shape.
///
/// Inputs: x, weight (width, 1, kernel, kernel) and bias (width) of the convolved channels; zeros surround the
/// grid, kernel is odd.
package struct GridConvolution: DifferentiableOp {
  private let columns: Range<Int>
  private let grid: (rows: Int, columns: Int)

  /// Makes the operation for tokens in raster order.
  package init(columns: Range<Int>, grid: (rows: Int, columns: Int)) {
    self.columns = columns
    self.grid = grid
  }

  private func kernel(_ weight: Tensor) -> Int { weight.shape[weight.shape.count - 1] }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, kernel) = (inputs[0], kernel(inputs[1]))
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    precondition(
      tokens == grid.rows * grid.columns && columns.upperBound <= channels
        && inputs[1].count == columns.count * kernel * kernel && kernel % 2 == 1
        && kernel * kernel <= CK_GRID_MOST_TAPS,
      "GridConvolution: \(x.shape) on \(grid), weight \(inputs[1].shape)")
    let y = x.copied()
    Parallel.tasks(batch) { item in
      let start = item * tokens * channels + columns.lowerBound
      ck_grid_conv_forward_f32(
        x.pointer + start, channels, inputs[1].pointer, inputs[2].pointer, y.pointer + start,
        channels, grid.rows, grid.columns, columns.count, kernel)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (x, kernel, width) = (inputs[0], kernel(inputs[1]), columns.count)
    let (batch, tokens, channels) = (x.shape[0], x.shape[1], x.shape[2])
    func start(_ item: Int) -> Int { item * tokens * channels + columns.lowerBound }
    if sink.needs(0) {
      let gradX = gradOutput.copied()
      Parallel.tasks(batch) { item in
        ck_grid_conv_input_gradient_f32(
          inputs[1].pointer, gradOutput.pointer + start(item), channels,
          gradX.pointer + start(item),
          channels, grid.rows, grid.columns, width, kernel)
      }
      sink.pass(0, gradX)
    }
    guard sink.needs(1) || sink.needs(2) else { return }
    let (weights, biases) = (
      Tensor.zeros([batch, inputs[1].count]), Tensor.zeros([batch, width])
    )
    Parallel.tasks(batch) { item in
      ck_grid_conv_weight_gradient_f32(
        x.pointer + start(item), channels, gradOutput.pointer + start(item), channels,
        weights.pointer + item * inputs[1].count, biases.pointer + item * width, grid.rows,
        grid.columns, width, kernel)
    }
    for (index, parts) in [(1, weights), (2, biases)] where sink.needs(index) {
      sink.add(index) { total in
        for item in 0..<batch {
          ck_add_f32(total.pointer, parts.pointer + item * total.count, total.count)
        }
      }
    }
  }
}
