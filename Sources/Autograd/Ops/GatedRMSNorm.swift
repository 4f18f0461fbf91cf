import CKernels
import TensorCore

/// Root mean square norm of y SiLU(z) times a weight, within equal groups of channels.
///
/// Inputs y and z (batch, tokens, dim), weight (dim). Upstream: state-spaces/mamba `RMSNorm` of
/// `layernorm_gated` with `norm_before_gate` false and group size dim / groups.
package struct GatedRMSNorm: MixedPrecisionOp {
  private let groups: Int
  private let epsilon: Float
  private let rounds: Bool

  /// Makes the norm within `groups` groups, in bfloat16 if `rounds` says so.
  package init(groups: Int = 1, epsilon: Float = 1e-5, rounds: Bool = false) {
    self.groups = groups
    self.epsilon = epsilon
    self.rounds = rounds
  }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Tensor) {
    let (y, z, weight) = (inputs[0].float32, inputs[1].float32, inputs[2].float32)
    let dim = weight.count
    precondition(
      y.count == z.count && y.count % dim == 0 && dim % groups == 0,
      "GatedRMSNorm: \(y.shape), \(z.shape), \(groups) groups of \(dim)")
    let out = MixedTensor(y.shape, isBFloat16: rounds)
    let rstd = Tensor([y.count / dim, groups])
    Parallel.ranges(y.count / dim, grain: max(1, 4096 / dim)) { range in
      let start = range.lowerBound
      out.write(rows: range, from: 0, width: dim) { place, _ in
        ck_gated_rmsnorm_forward_f32(
          y.pointer + start * dim, z.pointer + start * dim, weight.pointer, epsilon, place,
          rstd.pointer + start * groups, range.count, dim, groups)
      }
    }
    return (out, rstd)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Tensor,
    into sink: GradientSink
  ) {
    let (y, z, weight) = (inputs[0].float32, inputs[1].float32, inputs[2].float32)
    let dim = weight.count
    let rows = y.count / dim
    var gradY: (Tensor, Bool)?
    var gradZ: (Tensor, Bool)?
    if sink.needs(0) { sink.contribute(0) { gradY = ($0, $1) } }
    if sink.needs(1) { sink.contribute(1) { gradZ = ($0, $1) } }
    func run(_ range: Range<Int>, gradWeight: UnsafeMutablePointer<Float>?) {
      let start = range.lowerBound
      let isWeight = gradWeight != nil
      ck_gated_rmsnorm_backward_f32(
        gradOutput.pointer + start * dim, y.pointer + start * dim, z.pointer + start * dim,
        weight.pointer, saved.pointer + start * groups,
        isWeight ? nil : gradY.map { $0.0.pointer + start * dim }, gradY?.1 == true ? 1 : 0,
        isWeight ? nil : gradZ.map { $0.0.pointer + start * dim }, gradZ?.1 == true ? 1 : 0,
        gradWeight, range.count, dim, groups)
    }
    if gradY != nil || gradZ != nil {
      Parallel.ranges(rows, grain: max(1, 4096 / dim)) { run($0, gradWeight: nil) }
    }
    if sink.needs(2) {
      sink.add(2) { total in
        addOverRows(rows: rows, into: total, grain: 64) { run($0, gradWeight: $1) }
      }
    }
  }
}
