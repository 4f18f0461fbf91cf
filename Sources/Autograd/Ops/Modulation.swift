import CKernels
import TensorCore

/// adaLN: layer norm without affine, times 1 + scale, plus shift.
///
/// Inputs x (batch, tokens, dim) and the conditioning projection (batch, chunks * dim), of which two
/// chunks are read. Upstream: facebookresearch/DiT `modulate(norm(x), shift, scale)`.
package struct LayerNormModulate: MixedPrecisionOp {
  private let shiftChunk: Int
  private let scaleChunk: Int
  private let epsilon: Float
  private let rounds: Bool

  /// Makes the operation; if it `rounds`, its output is in bfloat16.
  package init(shiftChunk: Int, scaleChunk: Int, epsilon: Float = 1e-6, rounds: Bool = false) {
    self.shiftChunk = shiftChunk
    self.scaleChunk = scaleChunk
    self.epsilon = epsilon
    self.rounds = rounds
  }

  package func forward(
    _ inputs: [MixedTensor]
  ) -> (output: MixedTensor, saved: (mean: Tensor, rstd: Tensor)) {
    let (x, modulation) = (inputs[0].float32, inputs[1].float32)
    let (batch, tokens, dim) = (x.shape[0], x.shape[1], x.shape[2])
    let stride = modulation.shape[1]
    let y = MixedTensor(x.shape, isBFloat16: rounds)
    let mean = Tensor([batch, tokens])
    let rstd = Tensor([batch, tokens])
    Parallel.ranges(batch * tokens, grain: max(1, 4096 / dim)) { range in
      var row = range.lowerBound
      while row < range.upperBound {
        let item = row / tokens
        let rows = min(range.upperBound, (item + 1) * tokens) - row
        let condition = modulation.pointer + item * stride
        let (shift, scale) = (condition + shiftChunk * dim, condition + scaleChunk * dim)
        ck_layernorm_modulate_forward(
          x.pointer + row * dim, shift, scale, epsilon, y.address(of: row * dim),
          y.isBFloat16 ? 1 : 0, mean.pointer + row, rstd.pointer + row, rows, dim)
        row += rows
      }
    }
    return (y, (mean, rstd))
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor,
    saved: (mean: Tensor, rstd: Tensor), into sink: GradientSink
  ) {
    let (x, modulation) = (inputs[0].float32, inputs[1].float32)
    let (batch, tokens, dim) = (x.shape[0], x.shape[1], x.shape[2])
    let stride = modulation.shape[1]
    var gradX: (Tensor, Bool)?
    var gradModulation: Tensor?
    if sink.needs(0) { sink.contribute(0) { gradX = ($0, $1) } }
    if sink.needs(1) { sink.add(1) { gradModulation = $0 } }
    Parallel.tasks(batch) { item in
      let condition = modulation.pointer + item * stride
      let gradCondition = gradModulation.map { $0.pointer + item * stride }
      let start = item * tokens
      ck_layernorm_modulate_backward_f32(
        gradOutput.pointer + start * dim, x.pointer + start * dim, condition + scaleChunk * dim,
        saved.mean.pointer + start, saved.rstd.pointer + start,
        gradX.map { $0.0.pointer + start * dim }, gradCondition.map { $0 + shiftChunk * dim },
        gradCondition.map { $0 + scaleChunk * dim }, tokens, dim, gradX?.1 == true ? 1 : 0)
    }
  }
}

/// x + gate * y, the gate being one chunk of the conditioning projection.
///
/// Inputs x and y (batch, tokens, dim) and the projection (batch, chunks * dim).
package struct GatedResidual: DifferentiableOp {
  private let gateChunk: Int

  package init(gateChunk: Int) { self.gateChunk = gateChunk }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    let (x, y, modulation) = (inputs[0], inputs[1], inputs[2])
    let (batch, tokens, dim) = (x.shape[0], x.shape[1], x.shape[2])
    let stride = modulation.shape[1]
    let out = Tensor(x.shape)
    Parallel.ranges(batch * tokens, grain: max(1, 8192 / dim)) { range in
      var row = range.lowerBound
      while row < range.upperBound {
        let item = row / tokens
        let rows = min(range.upperBound, (item + 1) * tokens) - row
        ck_gated_residual_forward_f32(
          x.pointer + row * dim, y.pointer + row * dim,
          modulation.pointer + item * stride + gateChunk * dim, out.pointer + row * dim, rows, dim)
        row += rows
      }
    }
    return (out, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    let (y, modulation) = (inputs[1], inputs[2])
    let (batch, tokens, dim) = (y.shape[0], y.shape[1], y.shape[2])
    let stride = modulation.shape[1]
    var gradY: (Tensor, Bool)?
    var gradModulation: Tensor?
    if sink.needs(1) { sink.contribute(1) { gradY = ($0, $1) } }
    if sink.needs(2) { sink.add(2) { gradModulation = $0 } }
    Parallel.tasks(batch) { item in
      let start = item * tokens * dim
      ck_gated_residual_backward_f32(
        gradOutput.pointer + start, y.pointer + start,
        modulation.pointer + item * stride + gateChunk * dim, gradY.map { $0.0.pointer + start },
        gradModulation.map { $0.pointer + item * stride + gateChunk * dim }, tokens, dim,
        gradY?.1 == true ? 1 : 0)
    }
    if sink.needs(0) { sink.pass(0, gradOutput) }
  }
}
