import Autograd
import Nn
import TensorCore

/// Sequence mixer of the Hyena operators: y = out_proj(q * inner(k * v)), where q, k and v are
/// thirds of short(in_proj(x)); both causal depthwise convolutions are optional (keshik6/grafting).
final class HyenaMixer: SequenceMixer, LinearOutput {
  private let inWeight, inBias, outWeight, outBias: Parameter
  /// Weight and bias of the short and then the inner convolution, where present.
  private let filters: [Parameter]
  private let gating: Hyena

  /// Makes the mixer.
  ///
  /// - Parameters:
  ///   - context: Hidden size and source of weights: `in_proj`, `short_filter`, `inner_filter`, `out_proj`.
  ///   - shortTaps: Taps of the convolution of q, k and v; nil for none.
  ///   - innerTaps: Taps of the convolution between the gates; nil for none.
  /// - Throws: Errors of the weight source.
  init(_ context: OperatorContext, shortTaps: Int?, innerTaps: Int?) throws {
    let dim = context.hiddenSize
    (inWeight, inBias) = try context.linear("in_proj", inputs: dim, outputs: 3 * dim)
    let short = try shortTaps.map {
      try context.depthwise("short_filter", channels: 3 * dim, taps: $0)
    }
    let inner = try innerTaps.map {
      try context.identityFilter("inner_filter", channels: dim, taps: $0)
    }
    filters = [short, inner].compactMap { $0 }.flatMap { [$0.0, $0.1] }
    gating = Hyena(short: short != nil, inner: inner != nil)
    (outWeight, outBias) = try context.linear("out_proj", inputs: dim, outputs: dim)
  }

  var parameters: [Parameter] { [inWeight, inBias] + filters + [outWeight, outBias] }

  var outputLayer: OutputLayer { OutputLayer(outWeight, outBias) }

  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let projected = tape.linear(x, inWeight, inBias, rounds: true)
    return tape.apply(gating, [projected] + filters.map { Value($0) })
  }
}
