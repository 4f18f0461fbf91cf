import Autograd
import Nn
import Plans
import TensorCore

/// y = fc2(GELU_tanh(fc1(x))) with any hidden size (timm `Mlp`): `fc1`, `fc2`.
package final class MLP: ChannelMixer, LinearOutput {
  package static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "mlp", title: "MLP", summary: "two layers with GELU, of any width",
      slots: [.mlp],
      fields: [
        Setting(
          "expansion_ratio", 4.0, in: 0.25...16, "inner width relative to the hidden size (r)")
      ],
      cost: { spec, shape in
        let hidden = width(spec, shape.hiddenSize)
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        return OperatorCost(
          parameters: 2 * shape.hiddenSize * hidden + hidden + shape.hiddenSize,
          core: 4 * tokens * dim * Double(hidden),
          activations: tokens * (2 * Double(hidden) + dim))
      },
      label: { spec in "r\(numberText(spec.value("expansion_ratio")))" },
      transferRefusal: { _, shape in
        shape.swiglu ? "the model's MLPs are gated, so their weights do not fit" : nil
      },
      fit: { spec, shape in
        guard width(spec, shape.hiddenSize) < 1 else { return nil }
        return "expansion_ratio \(numberText(spec.value("expansion_ratio"))) of"
          + " \(shape.hiddenSize) channels leaves no inner channel; choose a larger ratio"
      }),
    channelMixer: { spec, context in
      try MLP(context, hidden: width(spec, context.hiddenSize))
    }, transfer: { _ in .hiddenUnits },
    settings: { shapes in
      guard shapes.have("fc1", "fc2"), let hidden = shapes["fc1.weight", 0] else { return nil }
      return ["expansion_ratio": ratio(hidden: hidden, to: shapes.hiddenSize)]
    })

  /// Returns the MLP ratio that yields the inner width `hidden`.
  package static func ratio(hidden: Int, to hiddenSize: Int) -> Double {
    let ratio = Double(hidden) / Double(hiddenSize)
    return Int(ratio * Double(hiddenSize)) == hidden ? ratio : ratio.nextUp
  }

  /// Inner width: ratio times hidden size, truncated as in timm's `Mlp`.
  private static func width(_ spec: OperatorSpec, _ hiddenSize: Int) -> Int {
    Int(spec.value("expansion_ratio") * Double(hiddenSize))
  }

  private let fc1Weight, fc1Bias, fc2Weight, fc2Bias: Parameter

  package init(_ context: OperatorContext, hidden: Int) throws {
    let dim = context.hiddenSize
    (fc1Weight, fc1Bias) = try context.linear("fc1", inputs: dim, outputs: hidden)
    (fc2Weight, fc2Bias) = try context.linear("fc2", inputs: hidden, outputs: dim)
  }

  package var parameters: [Parameter] { [fc1Weight, fc1Bias, fc2Weight, fc2Bias] }

  package var outputLayer: OutputLayer { OutputLayer(fc2Weight, fc2Bias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    tape.hidden(x, up: (fc1Weight, fc1Bias))
  }
}
