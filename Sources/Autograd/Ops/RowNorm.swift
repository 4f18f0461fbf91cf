import CKernels
import TensorCore

/// Norm of rows: root mean square, or layer norm.
package enum RowNormKind: Sendable, CaseIterable {
  /// x / sqrt(mean x^2 + epsilon).
  case rootMeanSquare
  /// (x - mean) / sqrt(variance + epsilon).
  case layer

  var centred: Int32 { self == .layer ? 1 : 0 }
}

/// Norm of queries and keys of every head: qkv (batch, tokens, 3 dim) -> the same shape, with the values as they are.
///
/// Inputs qkv, weight of the queries (head_dim) and of the keys, and, for layer norms, their biases. Upstream: timm
/// `Attention` with `qk_norm`.
package struct QueryKeyNorm: MixedPrecisionOp {
  private let heads: Int
  private let kind: RowNormKind
  private let epsilon: Float

  package init(heads: Int, _ kind: RowNormKind, epsilon: Float) {
    (self.heads, self.kind, self.epsilon) = (heads, kind, epsilon)
  }

  package func forward(
    _ inputs: [MixedTensor]
  ) -> (output: MixedTensor, saved: (mean: Tensor, rstd: Tensor)) {
    let x = inputs[0].float32
    let (rows, stride, width) = (x.shape[0] * x.shape[1], x.shape[2], inputs[1].count)
    precondition(
      stride == 3 * heads * width, "QueryKeyNorm: \(x.shape), \(heads) heads of \(width)")
    let y = x.copied()
    let (mean, rstd) = (Tensor([2, rows, heads]), Tensor([2, rows, heads]))
    for part in 0..<2 {
      let weight = inputs[1 + part].float32
      let bias = inputs.count > 3 ? inputs[3 + part].float32 : nil
      Parallel.ranges(rows, grain: max(1, 4096 / stride)) { range in
        for row in range {
          let (place, kept) = (
            row * stride + part * heads * width, (part * rows + row) * heads
          )
          ck_row_norm_forward(
            x.pointer + place, weight.pointer, bias?.pointer, kind.centred, epsilon,
            y.pointer + place, 0, mean.pointer + kept, rstd.pointer + kept, heads, width)
        }
      }
    }
    return (
      inputs[0].isBFloat16 ? .bfloat16(BFloat16Tensor(rounding: y)) : .float32(y), (mean, rstd)
    )
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor,
    saved: (mean: Tensor, rstd: Tensor), into sink: GradientSink
  ) {
    let x = inputs[0].float32
    let (rows, stride, width) = (x.shape[0] * x.shape[1], x.shape[2], inputs[1].count)
    func run(
      _ part: Int, _ range: Range<Int>, gradX: UnsafeMutablePointer<Float>?,
      gradWeight: UnsafeMutablePointer<Float>?, gradBias: UnsafeMutablePointer<Float>?
    ) {
      let weight = inputs[1 + part].float32
      for row in range {
        let (place, kept) = (row * stride + part * heads * width, (part * rows + row) * heads)
        ck_row_norm_backward_f32(
          gradOutput.pointer + place, x.pointer + place, weight.pointer, kind.centred,
          saved.mean.pointer + kept, saved.rstd.pointer + kept, gradX.map { $0 + place }, 0,
          gradWeight, gradBias, heads, width)
      }
    }
    if sink.needs(0) {
      let gradient = gradOutput.copied()
      for part in 0..<2 {
        Parallel.ranges(rows, grain: max(1, 4096 / stride)) {
          run(part, $0, gradX: gradient.pointer, gradWeight: nil, gradBias: nil)
        }
      }
      sink.pass(0, gradient)
    }
    for part in 0..<2 {
      if sink.needs(1 + part) {
        sink.add(1 + part) { total in
          addOverRows(rows: rows, into: total, grain: 64) {
            run(part, $0, gradX: nil, gradWeight: $1, gradBias: nil)
          }
        }
      }
      if inputs.count > 3, sink.needs(3 + part) {
        sink.add(3 + part) { total in
          addOverRows(rows: rows, into: total, grain: 64) {
            run(part, $0, gradX: nil, gradWeight: nil, gradBias: $1)
          }
        }
      }
    }
  }
}

/// Scales and gates of a modulation without shifts (batch, 4 dim) -> (batch, 6 dim), with zeros as shifts.
package struct ZeroShifts: DifferentiableOp {
  package init() {}

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, dim) = (inputs[0], inputs[0].shape[1] / 4)
    let y = Tensor.zeros([x.shape[0], 6 * dim])
    for half in 0..<(2 * x.shape[0]) {
      (y.pointer + (3 * half + 1) * dim).update(from: x.pointer + 2 * half * dim, count: 2 * dim)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let dim = gradOutput.shape[1] / 6
    let gradient = Tensor([gradOutput.shape[0], 4 * dim])
    for half in 0..<(2 * gradOutput.shape[0]) {
      (gradient.pointer + 2 * half * dim).update(
        from: gradOutput.pointer + (3 * half + 1) * dim, count: 2 * dim)
    }
    sink.pass(0, gradient)
  }
}
