import Autograd
import Nn
import Plans
import TensorCore

/// y = fc2(GELU_tanh(fc1(x))) with any hidden size (timm `Mlp`): `fc1`, `fc2`.
package final class MLP: ChannelMixer {
  private let fc1Weight, fc1Bias, fc2Weight, fc2Bias: Parameter

  package init(_ context: OperatorContext, hidden: Int) throws {
    let dim = context.hiddenSize
    (fc1Weight, fc1Bias) = try context.linear("fc1", inputs: dim, outputs: hidden)
    (fc2Weight, fc2Bias) = try context.linear("fc2", inputs: hidden, outputs: dim)
  }

  package var parameters: [Parameter] { [fc1Weight, fc1Bias, fc2Weight, fc2Bias] }

  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    let hidden = tape.apply(Linear(), x, Value(fc1Weight), Value(fc1Bias))
    let activated = tape.apply(GELU(), hidden)
    return tape.apply(Linear(), activated, Value(fc2Weight), Value(fc2Bias))
  }
}
