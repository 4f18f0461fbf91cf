import Autograd
import Plans
import TensorCore

/// y = 0 without parameters, which prunes the slot so that only the residual connection remains, or one
/// constant for all tokens: `bias`.
///
/// Lower bound for any replacement; fits both slots.
package final class Skip: SequenceMixer, ChannelMixer {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "skip", title: "Skip", summary: "outputs zeros, or a constant (baseline for pruning)",
      slots: [.attention, .mlp],
      fields: [
        Setting("constant", 0, in: 0...1, "1 outputs a trained constant, 0 outputs zeros")
      ],
      cost: { spec, shape in
        OperatorCost(parameters: spec.count("constant") * shape.hiddenSize)
      },
      label: { $0.count("constant") == 0 ? "skip" : "const" },
      hasOutputLayer: { $0.count("constant") == 1 }),
    sequenceMixer: { spec, context in
      if spec.count("constant") == 0 { return Skip() }
      return try ConstantMixer(context)
    },
    channelMixer: { spec, context in
      if spec.count("constant") == 0 { return Skip() }
      return try ConstantMixer(context)
    },
    settings: { $0.names == ["bias"] ? ["constant": 1] : nil })

  package var parameters: [Parameter] { [] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    Value(constant: .zeros(x.shape))
  }
}

/// y = b for every token, whatever the input: `bias`.
final class ConstantMixer: SequenceMixer, ChannelMixer, LinearOutput {
  private let bias: Parameter

  init(_ context: OperatorContext) throws {
    bias = try context.parameter("bias", [context.hiddenSize], .zeros)
  }

  var parameters: [Parameter] { [bias] }

  var outputLayer: OutputLayer { OutputLayer(nil, bias) }

  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    Value(constant: Tensor(x.shape.dropLast() + [0]))
  }
}
