import Autograd
import Models
import Nn
import Plans
import Sampling
import TensorCore

/// What an operator of the teacher saw and gave for some samples.
struct SlotActivations {
  let id: SlotID
  /// Its input and output (samples, tokens, dim).
  let input, target: Tensor
  /// The adaLN gate behind it (samples, dim).
  let gate: Tensor
}

/// Runs the teacher and hands out the activations of some slots.
struct TeacherPass {
  let teacher: DiT
  let slots: Set<SlotID>
  let diffusion: GaussianDiffusion

  /// Noises some rows of a batch, runs the teacher, and calls `visit` with every slot in order.
  func callAsFunction(
    _ batch: DiffusionBatch, _ range: Range<Int>, _ visit: @escaping (SlotActivations) -> Void
  ) {
    let steps = Array(batch.steps[range])
    let noisy = diffusion.noisy(
      batch.latents.rows(range), noise: batch.noise.rows(range), steps: steps)
    _ = teacher(
      Value(constant: noisy),
      DiT.Conditioning(
        timesteps: diffusion.modelTimesteps(steps), labels: Array(batch.labels[range])),
      on: Tape(recording: false),
      observeBlock: { [slots] block, seen in
        func show(_ slot: Slot, _ input: Tensor, _ target: Tensor) {
          let id = SlotID(block: block, slot: slot)
          guard slots.contains(id) else { return }
          visit(
            SlotActivations(id: id, input: input, target: target, gate: seen.gate(of: slot)))
        }
        show(.attention, seen.attentionInput, seen.attentionOutput)
        show(.mlp, seen.mlpInput, seen.mlpOutput)
      })
  }
}

/// The regression objective of one slot (equation 2 of the paper).
struct SlotObjective {
  let regression: RegressionObjective
  /// Whether prediction and target are compared behind the gate, as the released trainer's "scaled
  /// predictor" does.
  let isGateScaled: Bool

  init(_ settings: Stage1Settings, _ id: SlotID) {
    regression = settings.objective(for: id)
    isGateScaled = settings.settings(for: id).isGateScaled
  }

  /// The mean loss of an output (samples, tokens, dim).
  func loss(_ output: Tensor, _ seen: SlotActivations) -> Double {
    guard isGateScaled else { return regression.loss(output, seen.target) }
    return regression.loss(
      Self.gated(output, seen.gate), Self.gated(seen.target, seen.gate))
  }

  /// The mean loss of an output and its gradient by the output.
  func lossAndGradient(_ output: Tensor, _ seen: SlotActivations) -> (Double, Tensor) {
    guard isGateScaled else { return regression.lossAndGradient(output, seen.target) }
    let (loss, gradient) = regression.lossAndGradient(
      Self.gated(output, seen.gate), Self.gated(seen.target, seen.gate))
    return (loss, Self.gated(gradient, seen.gate))
  }

  /// x (samples, tokens, dim) times the gate (samples, dim) of its sample.
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
  /// The gate (samples, dim) behind a slot's operator.
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
  /// The regression objective of a slot.
  package func objective(for id: SlotID) -> RegressionObjective {
    switch loss(for: id) {
    case .l1: .l1
    case .l2: .l2
    case .huber: .huber(delta: Float(settings(for: id).huberDelta))
    }
  }
}
