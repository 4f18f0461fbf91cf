import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// adaLN-single block: two operator slots with cross-attention to the caption between them.
package final class PixArtBlock: TransformerBlock {
  private let core: AdaLNBlock
  private let attention: CaptionAttention
  private let modulationTable: Parameter

  init(
    config: PixArtConfig, index: Int, edits: [SlotID: OperatorSpec], weights: any WeightSource
  ) throws {
    let dim = config.hiddenSize
    let compression = config.keyCompression.flatMap { $0.layers.contains(index) ? $0.factor : nil }
    core = try AdaLNBlock(
      AdaLNBlock.Shape(
        dim: dim, tokens: config.grid * config.grid, heads: config.numHeads, mlp: .plain(4 * dim),
        compression: compression ?? 1, epsilon: Float(config.normEpsilon)),
      index: index, edits: edits, weights: weights)
    attention = try CaptionAttention(
      weights, prefix: "blocks.\(index).cross_attn.", dim: dim, heads: config.numHeads)
    modulationTable = try weights.table(
      "blocks.\(index).scale_shift_table", [6, dim], .normal(1 / Float(dim).squareRoot()))
  }

  /// The operator in the attention slot.
  package var sequenceMixer: any SequenceMixer { core.sequenceMixer }
  /// The operator in the MLP slot.
  package var channelMixer: any ChannelMixer { core.channelMixer }

  package var parameters: [Parameter] {
    [modulationTable] + core.parameters + attention.parameters
  }

  /// Applies the block to x (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - x: Tokens.
  ///   - modulation: Shared modulation (batch, 6 dim), to which the block adds its table.
  ///   - caption: Projected caption (batch, length, dim).
  ///   - bias: Bias of the attention scores of caption tokens (batch, length); nil for none.
  ///   - grid: Token grid.
  ///   - tape: Tape of the operations.
  ///   - operators: Operators in place of the block's own.
  ///   - observe: Called with the activations; operator outputs are before the gates.
  /// - Returns: The block's output (batch, tokens, dim).
  func callAsFunction(
    _ x: Value, modulation: Value, caption: Value, bias: Tensor?, grid: TokenGrid, on tape: Tape,
    with operators: BlockOperators = .init(), observe: ((AdaLNBlock.Activations) -> Void)? = nil
  ) -> Value {
    core(
      x, modulation: tape.apply(Add(), modulation, Value(modulationTable)), grid: grid, on: tape,
      with: operators,
      between: { tape.apply(Add(), $0, attention($0, caption, bias: bias, on: tape)) },
      observe: observe)
  }
}

/// Cross-attention of image tokens to the caption (PixArt-sigma `MultiHeadCrossAttention`):
/// `q_linear`,
/// `kv_linear`, `proj`.
private struct CaptionAttention {
  private let heads: Int
  private let qWeight, qBias, kvWeight, kvBias, projWeight, projBias: Parameter

  init(_ weights: any WeightSource, prefix: String, dim: Int, heads: Int) throws {
    func linear(_ name: String, _ outputs: Int, _ initializer: Initializer = .xavierUniform) throws
      -> (Parameter, Parameter)
    {
      (
        try weights.parameter("\(prefix)\(name).weight", [outputs, dim], initializer),
        try weights.parameter("\(prefix)\(name).bias", [outputs], .zeros)
      )
    }
    (qWeight, qBias) = try linear("q_linear", dim)
    (kvWeight, kvBias) = try linear("kv_linear", 2 * dim)
    (projWeight, projBias) = try linear("proj", dim, .zeros)
    self.heads = heads
  }

  var parameters: [Parameter] { [qWeight, qBias, kvWeight, kvBias, projWeight, projBias] }

  func callAsFunction(_ x: Value, _ caption: Value, bias: Tensor?, on tape: Tape) -> Value {
    let queries = tape.linear(x, qWeight, qBias, rounds: true)
    let keysAndValues = tape.linear(caption, kvWeight, kvBias, rounds: true)
    let mixed = tape.apply(CrossAttention(heads: heads, bias: bias), queries, keysAndValues)
    return tape.linear(mixed, projWeight, projBias)
  }
}
