import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// One adaLN-Zero block with its two operator slots.
package final class DiTBlock {
  /// The operator in the attention slot.
  package let sequenceMixer: any SequenceMixer
  /// The operator in the MLP slot.
  package let channelMixer: any ChannelMixer
  private let modulationWeight, modulationBias: Parameter
  private let mlpNorm: LayerNormModulate

  init(
    config: DiTConfig, index: Int, edits: [SlotID: OperatorSpec], weights: any WeightSource
  ) throws {
    let dim = config.hiddenSize
    func context(_ slot: Slot, _ weights: any WeightSource) -> OperatorContext {
      OperatorContext(
        hiddenSize: dim, tokens: config.tokens, numHeads: config.numHeads,
        prefix: SlotID(block: index, slot: slot).checkpointPrefix, weights: weights)
    }
    let pretrained = XavierLinear(source: weights)
    if let spec = edits[SlotID(block: index, slot: .attention)] {
      sequenceMixer = try OperatorRegistry.sequenceMixer(spec, context(.attention, weights))
    } else {
      sequenceMixer = try MultiHeadAttention(
        context(.attention, pretrained), heads: config.numHeads)
    }
    if let spec = edits[SlotID(block: index, slot: .mlp)] {
      channelMixer = try OperatorRegistry.channelMixer(spec, context(.mlp, weights))
    } else {
      channelMixer = try MLP(
        context(.mlp, pretrained), hidden: Int(Double(dim) * config.mlpRatio))
    }
    mlpNorm = LayerNormModulate(
      shiftChunk: 3, scaleChunk: 4, epsilon: Float(config.mlpNormEpsilon))
    let prefix = "blocks.\(index).adaLN_modulation.1."
    modulationWeight = try weights.parameter("\(prefix)weight", [6 * dim, dim], .zeros)
    modulationBias = try weights.parameter("\(prefix)bias", [6 * dim], .zeros)
  }

  package var parameters: [Parameter] {
    sequenceMixer.parameters + channelMixer.parameters + [modulationWeight, modulationBias]
  }

  /// Sees what enters and leaves the operators of a block; all tensors (batch, tokens, dim).
  package struct Activations {
    package let attentionInput, attentionOutput, mlpInput, mlpOutput: Tensor
  }

  /// Applies the block to x (batch, tokens, dim) under the conditioning SiLU(c) (batch, dim).
  ///
  /// - Parameters:
  ///   - x: Tokens.
  ///   - condition: Activated conditioning.
  ///   - tape: Records or not.
  ///   - observe: Called with the operators' activations, taken before the gates.
  /// - Returns: The block's output (batch, tokens, dim).
  func callAsFunction(
    _ x: Value, _ condition: Value, on tape: Tape, observe: ((Activations) -> Void)? = nil
  ) -> Value {
    let modulation = tape.apply(
      Linear(), condition, Value(modulationWeight), Value(modulationBias))
    let attentionInput = tape.apply(
      LayerNormModulate(shiftChunk: 0, scaleChunk: 1), x, modulation)
    let attentionOutput = sequenceMixer(attentionInput, on: tape)
    let middle = tape.apply(GatedResidual(gateChunk: 2), x, attentionOutput, modulation)
    let mlpInput = tape.apply(mlpNorm, middle, modulation)
    let mlpOutput = channelMixer(mlpInput, on: tape)
    let out = tape.apply(GatedResidual(gateChunk: 5), middle, mlpOutput, modulation)
    observe?(
      Activations(
        attentionInput: attentionInput.tensor, attentionOutput: attentionOutput.tensor,
        mlpInput: mlpInput.tensor, mlpOutput: mlpOutput.tensor))
    return out
  }

  /// The conditioning projection (batch, 6 dim): shift, scale, gate of attention, then of the MLP.
  package func modulation(_ condition: Tensor) -> Tensor {
    Tape(recording: false).apply(
      Linear(), Value(constant: condition), Value(modulationWeight), Value(modulationBias)
    ).tensor
  }
}

/// DiT's own initialisation of block linears: Xavier-uniform weights, zero biases.
private struct XavierLinear: WeightSource {
  let source: any WeightSource

  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    try source.tensor(name, shape, shape.count == 1 ? .zeros : .xavierUniform)
  }
}

extension SlotID {
  /// The checkpoint prefix of the slot's operator, for example `blocks.7.attn.`.
  package var checkpointPrefix: String {
    "blocks.\(block).\(slot == .attention ? "attn" : "mlp")."
  }
}
