import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// Operators that a run takes in place of a block's own; nil leaves the block's.
package struct BlockOperators {
  package var sequenceMixer: (any SequenceMixer)?
  package var channelMixer: (any ChannelMixer)?

  package init(
    sequenceMixer: (any SequenceMixer)? = nil, channelMixer: (any ChannelMixer)? = nil
  ) {
    (self.sequenceMixer, self.channelMixer) = (sequenceMixer, channelMixer)
  }
}

/// Common structure of DiT's and PixArt's blocks: two operator slots with modulations and gates.
///
/// x += gate * attention(modulate(norm(x))), then an optional step in between, then x += gate *
/// MLP(modulate(norm(x))).
package final class AdaLNBlock {
  /// Extents of the pretrained operators of a block.
  struct Shape {
    let dim, tokens, heads: Int
    /// The pretrained MLP.
    let mlp: MLPForm
    /// Keys and values are downsampled by this factor along each axis; 1 is plain attention.
    var compression = 1
    var epsilon: Float = 1e-6
    /// Epsilon of the norm before the MLP; nil selects `epsilon`.
    var mlpEpsilon: Float?
    /// Whether the norms are root mean square norms with weights, `norm1` and `norm2`.
    var hasRMSNorm = false
    /// Positions that attention rotates queries and keys by, and the norm of these.
    var rotary: RotaryTables?
    var queryKeyNorm: RowNormKind?
  }

  /// Form and inner width of a pretrained MLP.
  enum MLPForm {
    case plain(Int)
    case gated(Int, hasBias: Bool)
  }

  /// The operator in the attention slot.
  package let sequenceMixer: any SequenceMixer
  /// The operator in the MLP slot.
  package let channelMixer: any ChannelMixer
  private let epsilon, mlpEpsilon: Float
  /// Weights of the norms before attention and MLP; nil for layer norms without.
  private let norms: (Parameter, Parameter)?

  init(
    _ shape: Shape, index: Int, edits: [SlotID: OperatorSpec], weights: any WeightSource
  ) throws {
    func context(_ slot: Slot, _ weights: any WeightSource) -> OperatorContext {
      OperatorContext(
        hiddenSize: shape.dim, tokens: shape.tokens, numHeads: shape.heads,
        prefix: SlotID(block: index, slot: slot).checkpointPrefix, weights: weights,
        rotary: shape.rotary, queryKeyNorm: shape.queryKeyNorm)
    }
    let pretrained = XavierLinear(source: weights)
    if let spec = edits[SlotID(block: index, slot: .attention)] {
      sequenceMixer = try OperatorRegistry.sequenceMixer(spec, context(.attention, weights))
    } else if shape.compression > 1 {
      sequenceMixer = try CompressedAttention(
        context(.attention, pretrained), heads: shape.heads, factor: shape.compression)
    } else {
      sequenceMixer = try MultiHeadAttention(context(.attention, pretrained), heads: shape.heads)
    }
    if let spec = edits[SlotID(block: index, slot: .mlp)] {
      channelMixer = try OperatorRegistry.channelMixer(spec, context(.mlp, weights))
    } else {
      switch shape.mlp {
      case .plain(let width):
        channelMixer = try MLP(context(.mlp, pretrained), hidden: width)
      case .gated(let width, let hasBias):
        channelMixer = try GatedMLP(context(.mlp, pretrained), hidden: width, hasBias: hasBias)
      }
    }
    func norm(_ name: String) throws -> Parameter {
      try weights.parameter("blocks.\(index).\(name).weight", [shape.dim], .ones)
    }
    norms = shape.hasRMSNorm ? (try norm("norm1"), try norm("norm2")) : nil
    epsilon = shape.epsilon
    mlpEpsilon = shape.mlpEpsilon ?? shape.epsilon
  }

  package var parameters: [Parameter] {
    sequenceMixer.parameters + channelMixer.parameters + (norms.map { [$0.0, $0.1] } ?? [])
  }

  /// Inputs and outputs of a block and its operators, (batch, tokens, dim) unless stated.
  package struct Activations {
    package let input, attentionInput, attentionOutput, mlpInput, mlpOutput, output: Tensor
    /// Shift, scale and gate of attention, then of the MLP (batch, 6 dim).
    package let modulation: Tensor

    /// Input and output of the operator of a slot; the output is before the gate.
    package func activations(of slot: Slot) -> (input: Tensor, output: Tensor) {
      switch slot {
      case .attention: (attentionInput, attentionOutput)
      case .mlp: (mlpInput, mlpOutput)
      }
    }
  }

  /// Applies the block to x (batch, tokens, dim).
  ///
  /// - Parameters:
  ///   - x: Tokens.
  ///   - modulation: Shift, scale and gate of attention, then of the MLP (batch, 6 dim).
  ///   - grid: Token grid.
  ///   - tape: Tape of the operations.
  ///   - operators: Operators in place of the block's own.
  ///   - between: Applied to the tokens between the two slots.
  ///   - observe: Called with the activations; operator outputs are before the gates.
  /// - Returns: The block's output (batch, tokens, dim).
  func callAsFunction(
    _ x: Value, modulation: Value, grid: TokenGrid, on tape: Tape,
    with operators: BlockOperators = .init(), between: (Value) -> Value = { $0 },
    observe: ((Activations) -> Void)? = nil
  ) -> Value {
    let sequenceMixer = operators.sequenceMixer ?? sequenceMixer
    let channelMixer = operators.channelMixer ?? channelMixer
    let attentionInput = tape.modulated(
      x, modulation, chunks: (shift: 0, scale: 1), weight: norms?.0, epsilon: epsilon,
      rounds: sequenceMixer.roundsInput)
    let attentionOutput = sequenceMixer(attentionInput, grid: grid, on: tape)
    let middle = between(
      tape.apply(GatedResidual(gateChunk: 2), x, attentionOutput, modulation))
    let mlpInput = tape.modulated(
      middle, modulation, chunks: (shift: 3, scale: 4), weight: norms?.1, epsilon: mlpEpsilon,
      rounds: channelMixer.roundsInput)
    let mlpOutput = channelMixer(mlpInput, on: tape)
    let out = tape.apply(GatedResidual(gateChunk: 5), middle, mlpOutput, modulation)
    observe?(
      Activations(
        input: x.tensor, attentionInput: attentionInput.tensor,
        attentionOutput: attentionOutput.tensor, mlpInput: mlpInput.tensor,
        mlpOutput: mlpOutput.tensor, output: out.tensor, modulation: modulation.tensor))
    return out
  }
}

extension Tape {
  /// The modulated norm of x (batch, tokens, dim): a layer norm, or with a weight the root mean square norm.
  func modulated(
    _ x: Value, _ modulation: Value, chunks: (shift: Int, scale: Int), weight: Parameter?,
    epsilon: Float, rounds: Bool = false
  ) -> Value {
    let norm = ModulatedNorm(
      weight == nil ? .layer : .rootMeanSquare, shiftChunk: chunks.shift, scaleChunk: chunks.scale,
      epsilon: epsilon, rounds: rounds)
    return weight.map { apply(norm, x, modulation, Value($0)) } ?? apply(norm, x, modulation)
  }
}

/// Initialisation of pretrained linear layers: Xavier-uniform weights, zero biases.
private struct XavierLinear: WeightSource {
  let source: any WeightSource

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    try source.tensor(name, shape, pretrained(initializer, shape))
  }

  func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Parameter {
    try source.parameter(name, shape, pretrained(initializer, shape))
  }

  private func pretrained(_ initializer: Initializer, _ shape: [Int]) -> Initializer {
    guard case .uniform = initializer else { return initializer }
    return shape.count == 1 ? .zeros : .xavierUniform
  }
}

extension SlotID {
  /// The checkpoint prefix of the slot's operator, for example `blocks.7.attn.`.
  package var checkpointPrefix: String {
    "blocks.\(block).\(slot == .attention ? "attn" : "mlp")."
  }
}
