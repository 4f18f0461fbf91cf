import Autograd
import Plans
import TensorCore

/// y = 0 without parameters: prunes the slot, so that only the residual connection remains.
///
/// Lower bound for any replacement; fits both slots.
package final class Skip: SequenceMixer, ChannelMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "skip", title: "Skip", summary: "outputs zeros (baseline for pruning)",
      slots: [.attention, .mlp], fields: [], cost: { _, _ in OperatorCost() },
      label: { _ in "skip" }),
    sequenceMixer: { _, _ in Skip() }, channelMixer: { _, _ in Skip() })

  package var parameters: [Parameter] { [] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    Value(constant: .zeros(x.shape))
  }
}
