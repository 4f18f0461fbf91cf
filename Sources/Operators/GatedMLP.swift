import Autograd
import Nn
import Plans
import TensorCore

/// y = w3(SiLU(a) b), a and b being the halves of w12(x) (xformers `SwiGLU`, LightningDiT `SwiGLUFFN`): `w12`, `w3`.
package final class GatedMLP: ChannelMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "swiglu", title: "SwiGLU MLP", summary: "two layers with a gate by SiLU, of any width",
      slots: [.mlp],
      fields: [
        Setting(
          "expansion_ratio", 8.0 / 3, in: 0.25...16, "inner width relative to the hidden size (r)"),
        Setting("bias", 1, in: 0...1, "1 with biases in both layers, 0 without", .implied),
      ],
      cost: { spec, shape in
        let hidden = width(spec, shape.hiddenSize)
        let (tokens, dim) = (Double(shape.tokens), Double(shape.hiddenSize))
        let biases = spec.value("bias") == 1 ? 2 * hidden + shape.hiddenSize : 0
        return OperatorCost(
          parameters: 3 * shape.hiddenSize * hidden + biases,
          core: 6 * tokens * dim * Double(hidden),
          activations: tokens * (3 * Double(hidden) + dim))
      },
      label: { spec in
        let ratio = spec.value("expansion_ratio")
        return ratio == 8.0 / 3 ? "glu" : "glu r\(numberText((100 * ratio).rounded() / 100))"
      },
      transferRefusal: { _, shape in
        shape.swiglu ? nil : "the model's MLPs are not gated, so their weights do not fit"
      },
      fit: { spec, shape in
        guard width(spec, shape.hiddenSize) < 1 else { return nil }
        return "expansion_ratio \(numberText(spec.value("expansion_ratio"))) of"
          + " \(shape.hiddenSize) channels leaves no inner channel; choose a larger ratio"
      }),
    channelMixer: { spec, context in
      try GatedMLP(
        context, hidden: width(spec, context.hiddenSize), hasBias: spec.value("bias") == 1)
    }, transfer: { _ in .hiddenUnits(up: "w12", down: "w3", parts: 2) },
    settings: { shapes in
      guard let hidden = shapes["w3.weight", 1] else { return nil }
      let ratio = MLP.ratio(hidden: hidden, to: shapes.hiddenSize)
      if shapes.have("w12", "w3") { return ["expansion_ratio": ratio] }
      return shapes.have(and: ["w12.weight", "w3.weight"])
        ? ["expansion_ratio": ratio, "bias": 0] : nil
    })

  /// Inner width: ratio times hidden size, truncated.
  private static func width(_ spec: OperatorSpec, _ hiddenSize: Int) -> Int {
    Int(spec.value("expansion_ratio") * Double(hiddenSize))
  }

  private let upWeight, downWeight: Parameter
  private let upBias, downBias: Parameter?

  package init(_ context: OperatorContext, hidden: Int, hasBias: Bool = true) throws {
    let dim = context.hiddenSize
    if hasBias {
      (upWeight, upBias) = try context.linear("w12", inputs: dim, outputs: 2 * hidden)
      (downWeight, downBias) = try context.linear("w3", inputs: hidden, outputs: dim)
    } else {
      (upWeight, upBias) = (try context.weight("w12", inputs: dim, outputs: 2 * hidden), nil)
      (downWeight, downBias) = (try context.weight("w3", inputs: hidden, outputs: dim), nil)
    }
  }

  package var parameters: [Parameter] {
    [upWeight, upBias, downWeight, downBias].compactMap(\.self)
  }

  package var outputLayer: OutputLayer { OutputLayer(downWeight, downBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    tape.apply(SwiGLU(), tape.linear(x, upWeight, upBias, rounds: true))
  }
}
