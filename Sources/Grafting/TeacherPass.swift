import Autograd
import Datasets
import Models
import Nn
import Plans
import Sampling
import TensorCore

/// Teacher activations at a site of a plan, for some samples.
package struct SiteActivations {
  package let site: GraftSite
  /// Input and output of the operator or, for a pair, of its two blocks (samples, tokens, dim).
  package let input, target: Tensor
  /// The adaLN gate of a slot, or the conditioning of the blocks of a pair (samples, dim).
  package let side: Tensor
}

extension GraftSite {
  /// Name of `SiteActivations.side` at this site.
  var sideName: String {
    switch self {
    case .slot: "gate"
    case .pair: "condition"
    }
  }
}

/// Runs the teacher and reports its activations at some sites.
struct TeacherPass {
  let teacher: DiT
  let sites: Set<GraftSite>
  let diffusion: GaussianDiffusion

  /// Adds noise to some rows of a batch, runs the teacher, and calls `visit` with every site in
  /// order.
  func callAsFunction(
    _ batch: DiffusionBatch, _ range: Range<Int>, _ visit: @escaping (SiteActivations) -> Void
  ) {
    let steps = Array(batch.steps[range])
    let noisy = diffusion.noisy(
      batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps)
    let conditioning = DiT.Conditioning(
      timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range]))
    // Needed by pairs only.
    lazy var condition = teacher.condition(conditioning, on: Tape(recording: false)).tensor
    // Input of the pair whose second block comes next.
    var pairInput: Tensor?
    _ = teacher(
      Value(constant: noisy), conditioning, on: Tape(recording: false),
      observeBlock: { [sites] block, seen in
        let ended = GraftSite.pair(BlockPair(first: block - 1))
        if sites.contains(ended), let input = pairInput.take() {
          visit(
            SiteActivations(site: ended, input: input, target: seen.output, side: condition))
        }
        if sites.contains(.pair(BlockPair(first: block))) { pairInput = seen.input }
        for slot in Slot.allCases {
          let site = GraftSite.slot(SlotID(block: block, slot: slot))
          guard sites.contains(site) else { continue }
          let (input, target) = seen.activations(of: slot)
          visit(
            SiteActivations(
              site: site, input: input, target: target, side: seen.gate(of: slot)))
        }
      })
  }
}

/// The regression objective of one site (equation 2 of the paper).
struct SiteObjective {
  let regression: RegressionObjective
  /// Whether prediction and target are compared after the gate, as in the released trainer's
  /// "scaled predictor"; pairs have no gate.
  let isGateScaled: Bool

  init(_ settings: Stage1Settings, _ site: GraftSite) {
    regression = settings.objective(for: site)
    guard case .slot = site else {
      isGateScaled = false
      return
    }
    isGateScaled = settings.settings(for: site).isGateScaled
  }

  /// The mean loss of an output (samples, tokens, dim).
  func loss(_ output: Tensor, _ seen: SiteActivations) -> Double {
    guard isGateScaled else { return regression.loss(output, seen.target) }
    return regression.loss(
      Self.gated(output, seen.side), Self.gated(seen.target, seen.side))
  }

  /// The mean loss of an output and its gradient with respect to the output.
  func lossAndGradient(_ output: Tensor, _ seen: SiteActivations) -> (Double, Tensor) {
    guard isGateScaled else { return regression.lossAndGradient(output, seen.target) }
    let (loss, gradient) = regression.lossAndGradient(
      Self.gated(output, seen.side), Self.gated(seen.target, seen.side))
    return (loss, Self.gated(gradient, seen.side))
  }

  /// Multiplies x (samples, tokens, dim) by the gate (samples, dim) of each sample.
  private static func gated(_ x: Tensor, _ gate: Tensor) -> Tensor {
    let (tokens, dim) = (x.shape[1], x.shape[2])
    let result = Tensor(x.shape)
    for row in 0..<(x.shape[0] * tokens) {
      let factors = gate.pointer + row / tokens * dim
      let (source, target) = (x.pointer + row * dim, result.pointer + row * dim)
      for channel in 0..<dim { target[channel] = source[channel] * factors[channel] }
    }
    return result
  }
}

extension DiTBlock.Activations {
  /// The gate (samples, dim) applied to the operator of a slot.
  func gate(of slot: Slot) -> Tensor {
    let dim = attentionInput.shape[2]
    let rows = modulation.shape[0]
    let result = Tensor([rows, dim])
    let chunk = slot == .attention ? 2 : 5
    for row in 0..<rows {
      (result.pointer + row * dim).update(
        from: modulation.pointer + (row * 6 + chunk) * dim, count: dim)
    }
    return result
  }
}

extension Stage1Settings {
  /// The regression objective of a site.
  package func objective(for site: GraftSite) -> RegressionObjective {
    switch loss(for: site) {
    case .l1: .l1
    case .l2: .l2
    case .huber: .huber(delta: Float(settings(for: site).huberDelta))
    }
  }
}
