import CKernels
import TensorCore

/// The scan of Mamba-2: every head's state decays, takes in B x and is read by C.
///
/// Inputs xBC (batch, tokens, heads head_dim + 2 groups state) after convolution and activation, raw
/// step sizes dt (batch, tokens, heads), dt_bias, A_log and D (heads); output (batch, tokens,
/// heads head_dim). Heads of one group are neighbours and share B and C. Computed chunk by chunk
/// (Dao & Gu 2024, arXiv 2405.21060, section 6; state-spaces/mamba `ssd_minimal`): the chunk's length
/// changes rounding and speed, not the result. Chunks over 64 tokens, which suit a GPU, are taken in
/// pieces of 64: the pairs of tokens within a chunk are most of the work on a CPU.
package struct SelectiveScan: DifferentiableOp {
  private let heads, groups, state, chunk: Int

  /// Makes a scan of `heads` heads in `groups` groups with `state` states per channel.
  package init(heads: Int, groups: Int, state: Int, chunk: Int) {
    precondition(
      heads % groups == 0 && chunk > 0, "SelectiveScan: \(heads) heads, \(groups) groups")
    self.heads = heads
    self.groups = groups
    self.state = state
    self.chunk = min(chunk, 64)
  }

  /// A share of the work: some heads of one group of one batch item.
  private struct Share {
    let item, group, part: Int
    let heads: Range<Int>
  }

  /// Batch items and groups, the heads of each group in parts.
  private func shares(batch: Int, parts: Int) -> [Share] {
    let perGroup = heads / groups
    var list: [Share] = []
    for item in 0..<batch {
      for group in 0..<groups {
        for part in 0..<parts {
          let range = (perGroup * part / parts)..<(perGroup * (part + 1) / parts)
          let first = group * perGroup
          list.append(
            Share(
              item: item, group: group, part: part,
              heads: (first + range.lowerBound)..<(first + range.upperBound)))
        }
      }
    }
    return list
  }

  private func shape(_ xbc: Tensor) -> ck_scan_shape {
    let inner = xbc.shape[2] - 2 * groups * state
    precondition(inner > 0 && inner % heads == 0, "SelectiveScan: \(xbc.shape), \(heads) heads")
    return ck_scan_shape(
      tokens: xbc.shape[1], heads: heads, head_dim: inner / heads, groups: groups, state: state,
      chunk: chunk)
  }

  package func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Tensor) {
    let (xbc, dt, bias, decay, skip) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4])
    let (batch, tokens, width) = (xbc.shape[0], xbc.shape[1], xbc.shape[2])
    precondition(dt.shape == [batch, tokens, heads], "SelectiveScan: dt \(dt.shape)")
    var shape = shape(xbc)
    let inner = shape.heads * shape.head_dim
    let states = Tensor([batch, ck_scan_states(&shape)])
    let y = Tensor([batch, tokens, inner])
    let shares = shares(
      batch: batch, parts: max(1, min(heads / groups, Parallel.threads / (batch * groups))))
    Parallel.tasks(shares.count) { index in
      let share = shares[index]
      var shape = shape
      ck_scan_forward_f32(
        &shape, share.group, share.heads.lowerBound, share.heads.upperBound,
        xbc.pointer + share.item * tokens * width, dt.pointer + share.item * tokens * heads,
        bias.pointer, decay.pointer, skip.pointer, y.pointer + share.item * tokens * inner,
        states.pointer + share.item * states.shape[1])
    }
    return (y, states)
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Tensor, into sink: GradientSink
  ) {
    let (xbc, dt, bias, decay, skip) = (inputs[0], inputs[1], inputs[2], inputs[3], inputs[4])
    let (batch, tokens, width) = (xbc.shape[0], xbc.shape[1], xbc.shape[2])
    let shape = shape(xbc)
    let inner = shape.heads * shape.head_dim
    let gradXBC = Tensor(xbc.shape)
    let gradStep = Tensor(dt.shape)
    let perItem = (0..<3).map { _ in Tensor([batch, heads]) }
    // dB and dC are summed over the heads of a part, then over the parts, whose number must not depend on that
    // of the threads. The first part stores its sums in place, the others in `beside`.
    let parts = max(1, min(heads / groups / 4, 4 / (batch * groups)))
    let shares = shares(batch: batch, parts: parts)
    let row = 2 * groups * state
    let beside = Tensor([parts - 1, batch, tokens, row])
    Parallel.tasks(shares.count) { index in
      let share = shares[index]
      let start = share.item * tokens
      let isFirst = share.part == 0
      let base =
        isFirst
        ? gradXBC.pointer + start * width + inner
        : beside.pointer + ((share.part - 1) * batch * tokens + start) * row
      var to = ck_scan_gradients(
        dxbc: gradXBC.pointer + start * width, ddt: gradStep.pointer + start * heads,
        ddt_bias: perItem[0].pointer + share.item * heads,
        da_log: perItem[1].pointer + share.item * heads,
        dd: perItem[2].pointer + share.item * heads, db: base + share.group * state,
        dc: base + (groups + share.group) * state, bc_stride: isFirst ? width : row)
      var shape = shape
      ck_scan_backward_f32(
        &shape, share.group, share.heads.lowerBound, share.heads.upperBound,
        xbc.pointer + start * width, dt.pointer + start * heads, bias.pointer, decay.pointer,
        skip.pointer, gradOutput.pointer + start * inner,
        saved.pointer + share.item * saved.shape[1], &to)
    }
    if parts > 1 {
      Parallel.ranges(batch * tokens, grain: 64) { range in
        for token in range {
          for part in 0..<(parts - 1) {
            ck_add_f32(
              gradXBC.pointer + token * width + inner,
              beside.pointer + (part * batch * tokens + token) * row, row)
          }
        }
      }
    }
    sink.pass(0, gradXBC)
    sink.pass(1, gradStep)
    for (index, gradients) in perItem.enumerated() where sink.needs(2 + index) {
      sink.add(2 + index) { total in
        for item in 0..<batch { ck_add_f32(total.pointer, gradients.pointer + item * heads, heads) }
      }
    }
  }
}
