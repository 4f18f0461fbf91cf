import CKernels
import TensorCore

/// Layer norm with weight and bias over every run of dim elements.
///
/// Inputs x, whose last axis is a multiple of dim, weight (dim) and bias (dim); output as x. PyTorch's
/// `LayerNorm` with its default epsilon.
package struct LayerNorm: DifferentiableOp {
  private let epsilon: Float

  package init(epsilon: Float = 1e-5) { self.epsilon = epsilon }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: (mean: Tensor, rstd: Tensor))
  {
    let (x, weight, bias) = (inputs[0], inputs[1], inputs[2])
    let dim = weight.count
    precondition((x.shape.last ?? 0) % dim == 0, "LayerNorm: \(x.shape), weight \(weight.shape)")
    let rows = x.count / dim
    let (y, mean, rstd) = (Tensor(x.shape), Tensor([rows]), Tensor([rows]))
    Parallel.ranges(rows, grain: max(1, 4096 / dim)) { range in
      let first = range.lowerBound
      ck_row_norm_forward(
        x.pointer + first * dim, weight.pointer, bias.pointer, 1, epsilon, y.pointer + first * dim,
        0, mean.pointer + first, rstd.pointer + first, range.count, dim)
    }
    return (y, (mean, rstd))
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: (mean: Tensor, rstd: Tensor),
    into sink: GradientSink
  ) {
    let (x, weight) = (inputs[0], inputs[1])
    let dim = weight.count
    let rows = x.count / dim
    func run(
      _ range: Range<Int>, _ gradX: UnsafeMutablePointer<Float>?,
      _ gradWeight: UnsafeMutablePointer<Float>?, accumulate: Bool
    ) {
      let first = range.lowerBound
      ck_row_norm_backward_f32(
        gradOutput.pointer + first * dim, x.pointer + first * dim, weight.pointer, 1,
        saved.mean.pointer + first, saved.rstd.pointer + first, gradX.map { $0 + first * dim },
        accumulate ? 1 : 0, gradWeight, gradWeight.map { $0 + dim }, range.count, dim)
    }
    if sink.needs(0) {
      sink.contribute(0) { gradX, accumulate in
        Parallel.ranges(rows, grain: max(1, 4096 / dim)) {
          run($0, gradX.pointer, nil, accumulate: accumulate)
        }
      }
    }
    guard sink.needs(1) || sink.needs(2) else { return }
    // Weight, then bias; whichever is not wanted falls away in the sink.
    let gradients = Tensor.zeros([2 * dim])
    addOverRows(rows: rows, into: gradients) { run($0, nil, $1, accumulate: false) }
    sink.pass(1, Tensor(storage: gradients.storage, shape: [dim]))
    sink.pass(2, Tensor(storage: gradients.storage, offset: dim, shape: [dim]))
  }
}
