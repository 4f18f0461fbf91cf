import Autograd
import Nn
import Plans
import TensorCore

/// Softmax attention to a square window of the token grid (neighborhood attention, arXiv 2204.07143; NATTEN
/// `NeighborhoodAttention2D` without relative biases): `qkv`, `proj`.
package final class SlidingWindow2D: SequenceMixer, LinearOutput {
  static let entry = OperatorEntry(
    OperatorDescriptor(
      name: "swa2d", title: "2-D window attention",
      summary: "attention to a square window of the token grid",
      slots: [.attention],
      fields: [
        WindowSetting.field("extent of the window along both axes of the grid"), HeadsSetting.field,
      ],
      cost: { spec, shape in
        AttentionCost.attention(
          shape, span: WindowSetting.span(spec, shape),
          heads: HeadsSetting.heads(spec, model: shape.numHeads))
      },
      label: { "swa2d k\($0.count("window"))\(HeadsSetting.label($0))" },
      fit: { spec, shape in WindowSetting.refusal(spec) ?? HeadsSetting.refusal(spec, shape) }),
    sequenceMixer: { spec, context in
      try SlidingWindow2D(
        context, heads: HeadsSetting.heads(spec, model: context.numHeads),
        window: spec.count("window"))
    }, transfer: { _ in .attention("qkv", "proj") })

  private let qkvWeight, qkvBias, projWeight, projBias: Parameter
  private let heads, window: Int
  private let queryKeys: QueryKeys

  /// Makes the operator; each query attends to `window` x `window` tokens.
  package init(_ context: OperatorContext, heads: Int, window: Int) throws {
    let dim = context.hiddenSize
    (qkvWeight, qkvBias) = try context.linear("qkv", inputs: dim, outputs: 3 * dim)
    (projWeight, projBias) = try context.linear("proj", inputs: dim, outputs: dim)
    (self.heads, self.window) = (heads, window)
    queryKeys = try QueryKeys(context, heads: heads)
  }

  package var parameters: [Parameter] {
    [qkvWeight, qkvBias, projWeight, projBias] + queryKeys.parameters
  }

  package var outputLayer: OutputLayer { OutputLayer(projWeight, projBias) }

  package func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let qkv = tape.linear(x, qkvWeight, qkvBias, rounds: true)
    return tape.apply(
      NeighborhoodAttention(
        heads: heads, grid: (grid.rows, grid.columns), window: (window, window)),
      queryKeys(qkv, grid: grid, on: tape))
  }
}

/// The `window` setting of operators that attend to neighbours on the token grid.
enum WindowSetting {
  static func field(_ summary: String) -> Setting<Int> {
    Setting("window", 7, in: 1...255, "\(summary); odd")
  }

  /// Keys that a query sees in a model's grid.
  static func span(_ spec: OperatorSpec, _ shape: ModelShape) -> Double {
    let side = Double(min(spec.count("window"), shape.grid))
    return side * side
  }

  static func refusal(_ spec: OperatorSpec) -> String? {
    let window = spec.count("window")
    guard window % 2 == 0 else { return nil }
    return "window \(window) has no middle; choose an odd extent"
  }
}
