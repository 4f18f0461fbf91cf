import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// Text-conditional diffusion transformer PixArt-Σ with replaceable operators.
package final class PixArt {
  package let config: PixArtConfig
  package let blocks: [PixArtBlock]
  private let patches: PatchEmbedding
  private let times: TimestepEmbedder
  private let output: OutputProjection
  private let modulationWeight, modulationBias, outputTable: Parameter
  private let caption1Weight, caption1Bias, caption2Weight, caption2Bias: Parameter

  /// Builds the network: attention and an MLP in every block, except where another operator is named.
  ///
  /// - Parameters:
  ///   - config: Size and shape.
  ///   - edits: Replacement operators by slot.
  ///   - weights: Source of all parameters under their keys in the original repository.
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  package init(
    config: PixArtConfig, edits: [SlotID: OperatorSpec] = [:], weights: any WeightSource
  ) throws {
    let dim = config.hiddenSize
    self.config = config
    patches = try PatchEmbedding(
      weights, dim: dim, channels: config.inChannels, patch: config.patchSize)
    times = try TimestepEmbedder(weights, dim: dim, std: 0.02)
    modulationWeight = try weights.parameter("t_block.1.weight", [6 * dim, dim], .normal(0.02))
    modulationBias = try weights.parameter("t_block.1.bias", [6 * dim], .zeros)
    caption1Weight = try weights.parameter(
      "y_embedder.y_proj.fc1.weight", [dim, config.captionChannels], .normal(0.02))
    caption1Bias = try weights.parameter("y_embedder.y_proj.fc1.bias", [dim], .zeros)
    caption2Weight = try weights.parameter(
      "y_embedder.y_proj.fc2.weight", [dim, dim], .normal(0.02))
    caption2Bias = try weights.parameter("y_embedder.y_proj.fc2.bias", [dim], .zeros)
    blocks = try (0..<config.depth).map { index in
      try PixArtBlock(config: config, index: index, edits: edits, weights: weights)
    }
    output = try OutputProjection(
      weights, dim: dim, channels: config.outChannels, patch: config.patchSize)
    outputTable = try weights.table(
      "final_layer.scale_shift_table", [2, dim], .normal(1 / Float(dim).squareRoot()))
  }

  /// All parameters under their keys in the original repository.
  package var parameters: [Parameter] {
    patches.parameters + times.parameters
      + [modulationWeight, modulationBias, caption1Weight, caption1Bias, caption2Weight]
      + [caption2Bias] + blocks.flatMap(\.parameters) + output.parameters + [outputTable]
  }

  /// Timesteps and captions of a batch.
  package struct Conditioning {
    package let timesteps: [Float]
    /// Text embeddings (batch, length, captionChannels).
    package let caption: Value
    /// Bias added to the attention scores of caption tokens (batch, length); nil for none.
    package let captionBias: Tensor?

    /// Bias of masked tokens in diffusers.
    package static let maskedScore: Float = -10_000

    /// - Parameters:
    ///   - timesteps: In [0, 1000), one per row.
    ///   - caption: Text embeddings (batch, length, captionChannels).
    ///   - mask: (batch, length), 1 for tokens and 0 for padding; nil attends to all.
    package init(timesteps: [Float], caption: Value, mask: Tensor? = nil) {
      self.timesteps = timesteps
      self.caption = caption
      captionBias = mask.map { mask in
        let bias = Tensor(mask.shape)
        for index in 0..<mask.count { bias[index] = (1 - mask[index]) * Self.maskedScore }
        return bias
      }
    }
  }

  /// Receives intermediate tensors by upstream module name.
  package typealias Observer = (_ name: String, _ tensor: Tensor) -> Void

  /// Predicts noise and variance: x (batch, inChannels, height, width) -> (batch, outChannels, …).
  ///
  /// - Parameters:
  ///   - x: Noisy latents of any size, with sides that are multiples of the patch size.
  ///   - conditioning: Timesteps and captions.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with embeddings and the modulation.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Noise prediction and, with twice the channels, variance parameter.
  package func callAsFunction(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil,
    observeBlock: ((Int, AdaLNBlock.Activations) -> Void)? = nil
  ) -> Value {
    let grid = patches.grid(x)
    let positions = Tensor(
      config.positionTable(grid), shape: [1, grid.tokens, config.hiddenSize])
    var hidden = tape.apply(Add(), patches(x, on: tape), Value(constant: positions))
    let time = times(TimestepEmbedder.features(conditioning.timesteps), on: tape)
    let modulation = tape.linear(tape.apply(SiLU(), time), modulationWeight, modulationBias)
    let projected = tape.linear(conditioning.caption, caption1Weight, caption1Bias)
    let caption = tape.linear(tape.apply(GELU(), projected), caption2Weight, caption2Bias)
    observe?("pos_embed", positions)
    observe?("t_embedder", time.tensor)
    observe?("t_block", modulation.tensor)
    observe?("y_embedder", caption.tensor)
    for (index, block) in blocks.enumerated() {
      let report = observeBlock.map { call in { call(index, $0) } }
      hidden = block(
        hidden, modulation: modulation, caption: caption, bias: conditioning.captionBias,
        grid: grid, on: tape, observe: report)
    }
    // The table has a row each for shift and scale; the time embedding is added to both.
    let last = tape.apply(Add(), tape.apply(RepeatColumns(2), time), Value(outputTable))
    hidden = output(hidden, modulation: last, on: tape)
    return output.image(hidden, grid: grid, on: tape)
  }

  /// Runs inference without recording.
  package func predict(_ x: Tensor, _ conditioning: Conditioning) -> Tensor {
    self(Value(constant: x), conditioning, on: Tape(recording: false)).tensor
  }
}
