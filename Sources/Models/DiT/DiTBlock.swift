import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// One adaLN-Zero block with its two operator slots.
package final class DiTBlock: TransformerBlock {
  private let core: AdaLNBlock
  private let modulationWeight, modulationBias: Parameter
  private let hasShift: Bool

  init(
    config: ModelShape, index: Int, edits: [SlotID: OperatorSpec], weights: any WeightSource,
    rotary: RotaryTables? = nil
  ) throws {
    let dim = config.hiddenSize
    hasShift = config.blockShift
    core = try AdaLNBlock(
      AdaLNBlock.Shape(
        dim: dim, tokens: config.tokens, heads: config.numHeads,
        mlp: config.swiglu
          ? .gated(config.mlpWidth, hasBias: config.mlpBias) : .plain(config.mlpWidth),
        mlpEpsilon: Float(config.mlpNormEpsilon), hasRMSNorm: config.rmsNorm, rotary: rotary,
        queryKeyNorm: config.queryKeyNorm ? (config.rmsNorm ? .rootMeanSquare : .layer) : nil),
      index: index, edits: edits, weights: weights)
    let (prefix, chunks) = ("blocks.\(index).adaLN_modulation.1.", config.blockShift ? 6 : 4)
    modulationWeight = try weights.parameter("\(prefix)weight", [chunks * dim, dim], .zeros)
    modulationBias = try weights.parameter("\(prefix)bias", [chunks * dim], .zeros)
  }

  /// The operator in the attention slot.
  package var sequenceMixer: any SequenceMixer { core.sequenceMixer }
  /// The operator in the MLP slot.
  package var channelMixer: any ChannelMixer { core.channelMixer }

  package var parameters: [Parameter] { core.parameters + [modulationWeight, modulationBias] }

  /// Inputs and outputs of the block and its operators.
  package typealias Activations = AdaLNBlock.Activations

  /// Applies the block to x (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - x: Tokens.
  ///   - modulation: Result of `modulation` (batch, 6 dim).
  ///   - grid: Token grid.
  ///   - tape: Tape of the operations.
  ///   - operators: Operators in place of the block's own.
  ///   - observe: Called with the activations; operator outputs are before the gates.
  /// - Returns: The block's output (batch, tokens, dim).
  func callAsFunction(
    _ x: Value, modulation: Value, grid: TokenGrid, on tape: Tape,
    with operators: BlockOperators = .init(), observe: ((Activations) -> Void)? = nil
  ) -> Value {
    core(x, modulation: modulation, grid: grid, on: tape, with: operators, observe: observe)
  }

  /// Projects the activated conditioning (batch, dim) to shift, scale and gate of attention, then
  /// of the MLP (batch, 6 dim); shifts are zero in a model without them.
  func modulation(_ condition: Value, on tape: Tape) -> Value {
    let modulation = tape.linear(condition, modulationWeight, modulationBias)
    return hasShift ? modulation : tape.apply(ZeroShifts(), modulation)
  }
}
