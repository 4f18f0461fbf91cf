import Autograd
import Foundation
import Nn
import Plans
import TensorCore

/// Mamba-2: gated state space scan along the raster sequence (state-spaces/mamba `Mamba2`):
/// `in_proj`, `conv1d`, `dt_bias`, `A_log`, `D`, `norm`, `out_proj`.
///
/// in_proj(x) is z | x B C | dt. A causal convolution and SiLU are applied to x B C; the scan reads
/// the result and dt; its output is gated by z, normalised per group and projected.
package final class Mamba2: SequenceMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "mamba2", title: "Mamba-2", summary: "gated state space scan in raster order",
      slots: [.attention],
      fields: [
        Setting("d_state", 64, in: 1...1024, "states per channel (S)"),
        Setting("d_conv", 4, in: 1...64, "tokens that the convolution spans"),
        Setting("expand", 2, in: 1...16, "inner width relative to the hidden size"),
        Setting("headdim", 16, in: 1...1024, "channels per head; divides the inner width"),
        Setting("ngroups", 1, in: 1...1024, "groups of heads with B and C of their own"),
        Setting(
          "chunk_size", 256, in: 1...1024,
          "tokens that the scan takes at once, here 64 at most; no change of result"),
      ],
      cost: { spec, shape in
        let sizes = Sizes(spec, hiddenSize: shape.hiddenSize)
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        let (inner, projected) = (Double(sizes.inner), Double(sizes.projected))
        return OperatorCost(
          parameters: shape.hiddenSize * (sizes.projected + sizes.inner)
            + sizes.convolved * (spec.count("d_conv") + 1) + 3 * sizes.heads + sizes.inner,
          // Core 2 N d_inner d_state; featurizer: projections only, as in Table 4.
          core: 2 * tokens * inner * Double(sizes.state),
          projections: 2 * tokens * dim * (projected + inner),
          activations: tokens * (projected + 2 * Double(sizes.convolved) + 2 * inner + dim))
      },
      label: { spec in
        let state = spec.count("d_state")
        return state == 64 ? "mamba2" : "mamba2 s\(state)"
      },
      fit: { spec, shape in Sizes(spec, hiddenSize: shape.hiddenSize).refusal }),
    sequenceMixer: { spec, context in
      try Mamba2(
        context, Sizes(spec, hiddenSize: context.hiddenSize), taps: spec.count("d_conv"),
        chunk: spec.count("chunk_size"))
    }, settings: settings)

  /// Infers the settings from parameter shapes; these do not distinguish several groups from one.
  private static func settings(_ shapes: OperatorShapes) -> [String: Double]? {
    let others = ["in_proj.weight", "out_proj.weight", "norm.weight", "A_log", "D", "dt_bias"]
    guard shapes.have("conv1d", and: others), let inner = shapes["out_proj.weight", 1],
      let heads = shapes["dt_bias", 0], let convolved = shapes["conv1d.weight", 0],
      let taps = shapes.taps(of: "conv1d"), heads > 0
    else { return nil }
    return [
      "expand": Double(inner / shapes.hiddenSize), "headdim": Double(inner / heads),
      "d_state": Double((convolved - inner) / 2), "d_conv": taps,
    ]
  }

  /// Widths derived from the configuration.
  struct Sizes {
    let inner, headDim, groups, state: Int

    init(_ spec: OperatorSpec, hiddenSize: Int) {
      inner = spec.count("expand") * hiddenSize
      headDim = spec.count("headdim")
      groups = spec.count("ngroups")
      state = spec.count("d_state")
    }

    var heads: Int { inner / headDim }
    /// Width of x, B and C.
    var convolved: Int { inner + 2 * groups * state }
    /// Width of z, x, B, C and dt.
    var projected: Int { inner + convolved + heads }

    var refusal: String? {
      guard inner.isMultiple(of: headDim) else {
        return "headdim \(headDim) does not divide the inner width \(inner) (expand times hidden"
          + " size); choose a divisor"
      }
      guard heads.isMultiple(of: groups) else {
        return "ngroups \(groups) does not divide the \(heads) heads (inner width over headdim);"
          + " choose a divisor"
      }
      return nil
    }
  }

  private let sizes: Sizes
  private let scan: SelectiveScan
  private let inWeight, convolutionWeight, convolutionBias: Parameter
  private let stepBias, decayLog, skip, normWeight, outWeight: Parameter

  init(_ context: OperatorContext, _ sizes: Sizes, taps: Int, chunk: Int) throws {
    let (dim, heads) = (context.hiddenSize, sizes.heads)
    self.sizes = sizes
    scan = SelectiveScan(
      heads: heads, groups: sizes.groups, state: sizes.state, chunk: chunk)
    inWeight = try context.weight("in_proj", inputs: dim, outputs: sizes.projected)
    (convolutionWeight, convolutionBias) = try context.depthwise(
      "conv1d", channels: sizes.convolved, taps: taps)
    stepBias = try context.parameter("dt_bias", [heads], .drawn(Self.stepBias))
    decayLog = try context.parameter(
      "A_log", [heads], .drawn { Float(log(1 + 15 * $0)) })
    skip = try context.parameter("D", [heads], .ones)
    normWeight = try context.parameter("norm.weight", [sizes.inner], .ones)
    outWeight = try context.weight("out_proj", inputs: sizes.inner, outputs: dim)
  }

  /// Inverse softplus of a step size drawn log-uniformly from 0.001 to 0.1, at least 1e-4.
  private static func stepBias(_ uniform: Double) -> Float {
    let step = max(1e-4, exp(log(0.001) + uniform * (log(0.1) - log(0.001))))
    return Float(step + log(-expm1(-step)))
  }

  package var parameters: [Parameter] {
    [
      inWeight, convolutionWeight, convolutionBias, stepBias, decayLog, skip, normWeight,
      outWeight,
    ]
  }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let projected = tape.linear(x, inWeight, rounds: true)
    let (inner, end) = (sizes.inner, sizes.inner + sizes.convolved)
    let gate = tape.apply(ChannelSlice(0..<inner), projected)
    let step = tape.apply(ChannelSlice(end..<(end + sizes.heads)), projected)
    var signal = tape.apply(ChannelSlice(inner..<end), projected)
    signal = tape.apply(
      CausalConvolution(), signal, Value(convolutionWeight), Value(convolutionBias))
    signal = tape.apply(SiLU(), signal)
    let scanned = tape.apply(
      scan, signal, step, Value(stepBias), Value(decayLog), Value(skip))
    let normed = tape.apply(
      GatedRMSNorm(groups: sizes.groups, rounds: outWeight.precision == .bfloat16), scanned, gate,
      Value(normWeight))
    return tape.linear(normed, outWeight)
  }
}
