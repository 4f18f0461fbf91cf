import Autograd
import Foundation
import Nn
import Plans
import TensorCore

/// Mamba-2: gated state space scan along the raster sequence (state-spaces/mamba `Mamba2`):
/// `in_proj`, `conv1d`, `dt_bias`, `A_log`, `D`, `norm`, `out_proj`.
///
/// in_proj(x) is z | x B C | dt. A causal convolution and SiLU are applied to x B C; the scan reads
/// the result and dt; its output is gated by z, normalised per group and projected. Scanned in both
/// directions, the sum of both outputs is gated: the same weights run over the reversed sequence too.
package final class Mamba2: SequenceMixer, LinearOutput {
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
        Setting("scan", names: ["forward", "both"], "direction of the scan"),
        Setting("bias", names: ["no", "yes"], "biases of in_proj and out_proj"),
      ],
      cost: { spec, shape in
        let sizes = Sizes(spec, hiddenSize: shape.hiddenSize)
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        let (inner, projected) = (Double(sizes.inner), Double(sizes.projected))
        let scans = Double(1 + spec.count("scan"))
        let biases = spec.count("bias") * (sizes.projected + shape.hiddenSize)
        return OperatorCost(
          parameters: shape.hiddenSize * (sizes.projected + sizes.inner)
            + sizes.convolved * (spec.count("d_conv") + 1) + 3 * sizes.heads + sizes.inner + biases,
          // Core 2 N d_inner d_state; featurizer: projections only, as in Table 4.
          core: scans * 2 * tokens * inner * Double(sizes.state),
          projections: 2 * tokens * (dim * (projected + inner) + Double(biases)),
          activations: tokens
            * (projected + scans * (2 * Double(sizes.convolved) + inner) + inner + dim))
      },
      label: { spec in
        let state = spec.count("d_state")
        return (state == 64 ? "mamba2" : "mamba2 s\(state)") + (spec.count("scan") == 0 ? "" : " ⇄")
      },
      transferRefusal: { spec, shape in
        let (groups, state) = (spec.count("ngroups"), spec.count("d_state"))
        guard
          spec.count("expand") != 1 || groups * state != shape.hiddenSize || spec.count("bias") == 0
        else { return nil }
        return
          "queries, keys and values of attention fit mamba2 with expand 1, bias 1 and ngroups times"
          + " d_state of the hidden size \(shape.hiddenSize), such as ngroups \(shape.numHeads) and"
          + " d_state and headdim \(shape.hiddenSize / max(1, shape.numHeads)); change them, or start"
          + " from \"own\" weights"
      },
      fit: { spec, shape in Sizes(spec, hiddenSize: shape.hiddenSize).refusal }),
    sequenceMixer: { spec, context in
      try Mamba2(
        context, Sizes(spec, hiddenSize: context.hiddenSize), taps: spec.count("d_conv"),
        chunk: spec.count("chunk_size"), isBidirectional: spec.count("scan") == 1,
        hasBias: spec.count("bias") == 1)
    }, transfer: { _ in .scan }, settings: settings)

  /// Infers the settings from parameter shapes; these do not distinguish several groups from one.
  private static func settings(_ shapes: OperatorShapes) -> [String: Double]? {
    let others = ["in_proj.weight", "out_proj.weight", "norm.weight", "A_log", "D", "dt_bias"]
    let hasBias = shapes["in_proj.bias", 0] != nil
    guard shapes.have("conv1d", and: others + (hasBias ? ["in_proj.bias", "out_proj.bias"] : [])),
      let inner = shapes["out_proj.weight", 1],
      let heads = shapes["dt_bias", 0], let convolved = shapes["conv1d.weight", 0],
      let taps = shapes.taps(of: "conv1d"), heads > 0
    else { return nil }
    return [
      "expand": Double(inner / shapes.hiddenSize), "headdim": Double(inner / heads),
      "d_state": Double((convolved - inner) / 2), "d_conv": taps, "bias": hasBias ? 1 : 0,
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
  private let isBidirectional: Bool
  private let inBias, outBias: Parameter?
  private let inWeight, convolutionWeight, convolutionBias: Parameter
  private let stepBias, decayLog, skip, normWeight, outWeight: Parameter

  init(
    _ context: OperatorContext, _ sizes: Sizes, taps: Int, chunk: Int, isBidirectional: Bool,
    hasBias: Bool
  ) throws {
    let (dim, heads) = (context.hiddenSize, sizes.heads)
    self.sizes = sizes
    self.isBidirectional = isBidirectional
    scan = SelectiveScan(
      heads: heads, groups: sizes.groups, state: sizes.state, chunk: chunk)
    func layer(_ name: String, _ inputs: Int, _ outputs: Int) throws -> (Parameter, Parameter?) {
      guard hasBias else {
        return (try context.weight(name, inputs: inputs, outputs: outputs), nil)
      }
      return try context.linear(name, inputs: inputs, outputs: outputs)
    }
    (inWeight, inBias) = try layer("in_proj", dim, sizes.projected)
    (convolutionWeight, convolutionBias) = try context.depthwise(
      "conv1d", channels: sizes.convolved, taps: taps)
    stepBias = try context.parameter("dt_bias", [heads], .drawn(Self.stepBias))
    decayLog = try context.parameter(
      "A_log", [heads], .drawn { Float(log(1 + 15 * $0)) })
    skip = try context.parameter("D", [heads], .ones)
    normWeight = try context.parameter("norm.weight", [sizes.inner], .ones)
    (outWeight, outBias) = try layer("out_proj", sizes.inner, dim)
  }

  /// Inverse softplus of a step size drawn log-uniformly from 0.001 to 0.1, at least 1e-4.
  private static func stepBias(_ uniform: Double) -> Float {
    let step = max(1e-4, exp(log(0.001) + uniform * (log(0.1) - log(0.001))))
    return Float(step + log(-expm1(-step)))
  }

  package var parameters: [Parameter] {
    [
      inWeight, inBias, convolutionWeight, convolutionBias, stepBias, decayLog, skip, normWeight,
      outWeight, outBias,
    ].compactMap(\.self)
  }

  package var outputLayer: OutputLayer { OutputLayer(outWeight, outBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let projected = tape.linear(x, inWeight, inBias, rounds: true)
    let (inner, end) = (sizes.inner, sizes.inner + sizes.convolved)
    let gate = tape.apply(ChannelSlice(0..<inner), projected)
    let step = tape.apply(ChannelSlice(end..<(end + sizes.heads)), projected)
    let signal = tape.apply(ChannelSlice(inner..<end), projected)
    func scanned(_ signal: Value, _ step: Value) -> Value {
      let convolved = tape.apply(
        CausalConvolution(), signal, Value(convolutionWeight), Value(convolutionBias))
      return tape.apply(
        scan, tape.apply(SiLU(), convolved), step, Value(stepBias), Value(decayLog), Value(skip))
    }
    var output = scanned(signal, step)
    if isBidirectional {
      let reverse = ReverseTokens()
      let back = scanned(tape.apply(reverse, signal), tape.apply(reverse, step))
      output = tape.apply(Add(), output, tape.apply(reverse, back))
    }
    return tape.apply(
      GatedRMSNorm(groups: sizes.groups, rounds: outWeight.precision.isRounded), output, gate,
      Value(normWeight))
  }
}
