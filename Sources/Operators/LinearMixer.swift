import Autograd
import Nn
import Plans
import TensorCore

/// y = W x + b for each token: `linear`.
///
/// Fitted in closed form it is the best that a slot can do without mixing tokens and without hidden units.
final class LinearMixer: SequenceMixer, ChannelMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "linear", title: "Linear", summary: "one matrix and bias for each token",
      slots: [.attention, .mlp], fields: [],
      cost: { _, shape in
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        return OperatorCost(
          parameters: shape.hiddenSize * (shape.hiddenSize + 1), core: 2 * tokens * dim * dim,
          activations: tokens * dim)
      },
      label: { _ in "lin" }),
    sequenceMixer: { _, context in try LinearMixer(context) },
    channelMixer: { _, context in try LinearMixer(context) },
    settings: { $0.have("linear") ? [:] : nil })

  private let weight, bias: Parameter

  init(_ context: OperatorContext) throws {
    (weight, bias) = try context.linear(
      "linear", inputs: context.hiddenSize, outputs: context.hiddenSize)
  }

  var parameters: [Parameter] { [weight, bias] }

  var outputLayer: OutputLayer { OutputLayer(weight, bias) }

  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value { x }
}
