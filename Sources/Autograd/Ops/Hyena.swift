import CKernels
import TensorCore

/// The Hyena mixers between their projections: q * inner(k * v) with q, k, v = short(x), both
/// convolutions causal and depthwise along the tokens with zero history, in one pass.
///
/// Inputs x (batch, tokens, 3 dim), then weight (channels, 1, taps) and bias (channels) of every filter
/// there is: of the short one, over q, k and v, and of the inner one. Output (batch, tokens, dim), in
/// bfloat16 where x is. keshik6/grafting `hyena_se`, `hyena_x`, `hyena_y`.
package struct Hyena: MixedPrecisionOp {
  private let hasShort, hasInner: Bool

  /// Chooses which filters there are; a filter that is absent passes its input on.
  package init(short: Bool, inner: Bool) { (hasShort, hasInner) = (short, inner) }

  package func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    let work = Work(self, inputs)
    let shape = [work.batch, work.tokens, work.dim]
    let y = MixedTensor(shape, like: inputs[0])
    Parallel.tasks(work.batch * work.groups.count) { task in
      let item = task / work.groups.count
      var (shape, filters) = (work.shape(work.groups[task % work.groups.count]), work.filters)
      let (from, to) = (item * work.tokens * 3 * work.dim, item * work.tokens * work.dim)
      ck_hyena_forward(inputs[0].address(of: from), &filters, y.address(of: to), &shape)
    }
    return (y, ())
  }

  package func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    let work = Work(self, inputs)
    // Every part of the batch sums the gradients of the filters for itself; where channels are few, parts give
    // work to more threads. Their number does not depend on that of the threads.
    let parts = max(1, min(work.batch, 16 / work.lines))
    let trained = inputs.indices.contains { $0 > 0 && sink.needs($0) }
    let sums = trained ? Tensor.zeros([parts, work.filterCounts.reduce(0, +)]) : nil
    func run(_ gradX: UnsafeMutablePointer<Float>?, accumulate: Bool) {
      Parallel.tasks(parts * work.groups.count) { task in
        let (part, group) = (task / work.groups.count, work.groups[task % work.groups.count])
        var (shape, filters) = (work.shape(group), work.filters)
        var gradients = work.gradients(sums?.rows(part..<(part + 1)))
        for item in (work.batch * part / parts)..<(work.batch * (part + 1) / parts) {
          let (from, to) = (item * work.tokens * 3 * work.dim, item * work.tokens * work.dim)
          let dx = gradX.map { $0 + from }
          ck_hyena_backward(
            inputs[0].address(of: from), &filters, gradOutput.pointer + to, dx, accumulate ? 1 : 0,
            &gradients, &shape)
        }
      }
    }
    if sink.needs(0) {
      sink.contribute(0) { gradX, accumulate in run(gradX.pointer, accumulate: accumulate) }
    } else {
      run(nil, accumulate: false)
    }
    guard let sums else { return }
    for part in 0..<parts where part > 0 {
      ck_add_f32(sums.pointer, sums.rows(part..<(part + 1)).pointer, sums.count / parts)
    }
    var start = 0
    for (index, count) in work.filterCounts.enumerated() {
      sink.pass(
        index + 1,
        Tensor(storage: sums.storage, offset: start, shape: inputs[index + 1].shape))
      start += count
    }
  }

  /// The sizes of a call, its filters, and how its channels are divided.
  private struct Work {
    let batch, tokens, dim: Int
    /// Elements of every filter's weight and bias, as they follow x.
    let filterCounts: [Int]
    /// Cache lines of channels, 16 each.
    let lines: Int
    let groups: [Range<Int>]
    let filters: ck_hyena_filters
    private let op: Hyena
    private let isBFloat16: Bool

    init(_ op: Hyena, _ inputs: [MixedTensor]) {
      (self.op, isBFloat16) = (op, inputs[0].isBFloat16)
      let shape = inputs[0].shape
      (batch, tokens, dim) = (shape[0], shape[1], shape[2] / 3)
      let tensors = inputs.dropFirst().map(\.float32)
      filterCounts = tensors.map(\.count)
      precondition(
        tensors.count == (op.hasShort ? 2 : 0) + (op.hasInner ? 2 : 0) && shape[2] % 3 == 0,
        "Hyena: input \(shape), \(tensors.count) tensors of filters")
      filters = op.pointers(tensors.map(\.pointer))
      // Whole cache lines of channels, some for every thread.
      lines = (dim + 15) / 16
      let (dim, lines) = (dim, lines)
      let count = min(lines, 4 * Parallel.threads)
      groups = (0..<count).map { index in
        lines * index / count * 16..<min(dim, lines * (index + 1) / count * 16)
      }
      precondition(
        [taps(short: true), taps(short: false)].allSatisfy { $0 <= 64 }, "Hyena: over 64 taps")
    }

    /// Taps of a filter, 0 if it is absent.
    private func taps(short: Bool) -> Int {
      if short { return op.hasShort ? filterCounts[0] / (3 * dim) : 0 }
      return op.hasInner ? filterCounts[filterCounts.count - 2] / dim : 0
    }

    func shape(_ group: Range<Int>) -> ck_hyena_shape {
      ck_hyena_shape(
        tokens: tokens, dim: dim, from: group.lowerBound, to: group.upperBound,
        short_taps: taps(short: true), inner_taps: taps(short: false),
        is_bfloat16: isBFloat16 ? 1 : 0)
    }

    /// Places for the filters' gradients, one behind the other in `sum`; none without it.
    func gradients(_ sum: Tensor?) -> ck_hyena_filters {
      guard let sum else { return ck_hyena_filters() }
      var (places, start): ([UnsafeMutablePointer<Float>], Int) = ([], 0)
      for count in filterCounts {
        places.append(sum.pointer + start)
        start += count
      }
      return op.pointers(places)
    }
  }

  /// Weight and bias of the filters there are, in the order of the inputs.
  private func pointers(_ places: [UnsafeMutablePointer<Float>]) -> ck_hyena_filters {
    var filters = ck_hyena_filters()
    if hasShort { (filters.short_weight, filters.short_bias) = (places[0], places[1]) }
    if hasInner {
      let first = places.count - 2
      (filters.inner_weight, filters.inner_bias) = (places[first], places[first + 1])
    }
    return filters
  }
}
