import CKernels
import TensorCore

/// adaLN: a norm, times 1 + scale, plus shift.
///
/// Inputs x (batch, tokens, dim), the conditioning projection (batch, chunks * dim), of which two chunks are read,
/// and, if the norm has one, its weight (dim). Upstream: facebookresearch/DiT `modulate(norm(x), shift, scale)`,
/// hustvl/LightningDiT the same around a root mean square norm with a weight.
package struct ModulatedNorm: MixedPrecisionOp {
  private let kind: RowNormKind
  private let shiftChunk, scaleChunk: Int
  private let epsilon: Float
  private let rounds: Bool

  /// Makes the operation; if it `rounds`, its output is in bfloat16.
  package init(
    _ kind: RowNormKind, shiftChunk: Int, scaleChunk: Int, epsilon: Float = 1e-6,
    rounds: Bool = false
  ) {
    (self.kind, self.shiftChunk, self.scaleChunk) = (kind, shiftChunk, scaleChunk)
    (self.epsilon, self.rounds) = (epsilon, rounds)
  }

  package func forward(
    _ inputs: [MixedTensor]
  ) -> (output: MixedTensor, saved: (factors: Tensor, mean: Tensor, rstd: Tensor)) {
    let (x, modulation) = (inputs[0].float32, inputs[1].float32)
    let weight = inputs.count > 2 ? inputs[2].float32 : nil
    let (batch, tokens, dim) = (x.shape[0], x.shape[1], x.shape[2])
    let stride = modulation.shape[1]
    let y = MixedTensor(x.shape, isBFloat16: rounds)
    let (mean, rstd) = (Tensor([batch, tokens]), Tensor([batch, tokens]))
    // Scale and weight of an image in one factor.
    let factors = Tensor([batch, dim])
    for item in 0..<batch {
      let scale = modulation.pointer + item * stride + scaleChunk * dim
      let factor = factors.pointer + item * dim
      for channel in 0..<dim { factor[channel] = 1 + scale[channel] }
      if let weight { for channel in 0..<dim { factor[channel] *= weight[channel] } }
    }
    rowsOfItems(batch, tokens, grain: 4096 / dim) { item, row, rows in
      ck_row_norm_forward(
        x.pointer + row * dim, factors.pointer + item * dim,
        modulation.pointer + item * stride + shiftChunk * dim, kind.centred, epsilon,
        y.address(of: row * dim), rounds ? 1 : 0, mean.pointer + row, rstd.pointer + row, rows, dim)
    }
    return (y, (factors, mean, rstd))
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor,
    saved: (factors: Tensor, mean: Tensor, rstd: Tensor), into sink: GradientSink
  ) {
    let (x, modulation) = (inputs[0].float32, inputs[1].float32)
    let weight = inputs.count > 2 ? inputs[2].float32 : nil
    let (batch, tokens, dim) = (x.shape[0], x.shape[1], x.shape[2])
    let stride = modulation.shape[1]
    var gradX: (Tensor, Bool)?
    if sink.needs(0) { sink.contribute(0) { gradX = ($0, $1) } }
    // Gradients of factor and shift of every image.
    let trainsWeight = weight != nil && sink.needs(2)
    let parts = trainsWeight || sink.needs(1) ? Tensor.zeros([batch, 2, dim]) : nil
    Parallel.tasks(batch) { item in
      let start = item * tokens
      let part = parts.map { $0.pointer + item * 2 * dim }
      ck_row_norm_backward_f32(
        gradOutput.pointer + start * dim, x.pointer + start * dim,
        saved.factors.pointer + item * dim, kind.centred, saved.mean.pointer + start,
        saved.rstd.pointer + start, gradX.map { $0.0.pointer + start * dim },
        gradX?.1 == true ? 1 : 0, part, part.map { $0 + dim }, tokens, dim)
    }
    guard let parts else { return }
    if sink.needs(1) {
      sink.add(1) { total in
        for item in 0..<batch {
          let (part, row) = (parts.pointer + item * 2 * dim, total.pointer + item * stride)
          for channel in 0..<dim {
            row[scaleChunk * dim + channel] += part[channel] * (weight?[channel] ?? 1)
            row[shiftChunk * dim + channel] += part[dim + channel]
          }
        }
      }
    }
    if trainsWeight {
      sink.add(2) { total in
        for item in 0..<batch {
          let scale = modulation.pointer + item * stride + scaleChunk * dim
          for channel in 0..<dim {
            total[channel] += parts[item * 2 * dim + channel] * (1 + scale[channel])
          }
        }
      }
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
    rowsOfItems(batch, tokens, grain: 8192 / dim) { item, row, rows in
      ck_gated_residual_forward_f32(
        x.pointer + row * dim, y.pointer + row * dim,
        modulation.pointer + item * stride + gateChunk * dim, out.pointer + row * dim, rows, dim)
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

/// Calls `body` on all threads with an item of the batch, the first of some of its rows, and their number.
private func rowsOfItems(
  _ batch: Int, _ tokens: Int, grain: Int, _ body: (_ item: Int, _ row: Int, _ rows: Int) -> Void
) {
  Parallel.ranges(batch * tokens, grain: max(1, grain)) { range in
    var row = range.lowerBound
    while row < range.upperBound {
      let item = row / tokens
      let rows = min(range.upperBound, (item + 1) * tokens) - row
      body(item, row, rows)
      row += rows
    }
  }
}
