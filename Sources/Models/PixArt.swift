import Autograd
import Nn
import Operators
import Plans
import TensorCore

/// Text-conditional diffusion transformer PixArt-Σ with replaceable operators.
package final class PixArt: DiffusionTransformer {
  package let config: PixArtConfig
  private let stack: [PixArtBlock]
  private let patches: PatchEmbedding
  private let times: TimestepEmbedder
  private let output: OutputProjection
  private let modulationWeight, modulationBias, outputTable: Parameter
  private let caption1Weight, caption1Bias, caption2Weight, caption2Bias: Parameter
  /// Null caption (length, channels) of caption dropout, of a file that has one.
  private let nullEmbedding: Parameter?

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
    nullEmbedding = try config.nullCaptionLength.map { length in
      let table = try weights.table(
        PixArtKeyMap.nullCaption, [length, config.captionChannels], .normal(0.02))
      table.isFrozen = true
      return table
    }
    stack = try (0..<config.depth).map { index in
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
      + [caption2Bias] + [nullEmbedding].compactMap(\.self) + stack.flatMap(\.parameters)
      + output.parameters + [outputTable]
  }

  package var shape: ModelShape { config.shape }

  package func diffusersKeys(_ official: String) -> [String] {
    PixArtKeyMap.keys(official, in: .diffusers)
  }

  package func exampleConditioning(at time: Float) -> Conditioning {
    let caption = RandomStream(seed: 0, "caption").normal([
      1, ModelFamily.captionTokens, config.captionChannels,
    ])
    return Conditioning(timesteps: [time], caption: Value(constant: caption))
  }

  package var blocks: [any TransformerBlock] { stack }

  package func remade(
    with changes: GraftPlan.Changes, weights: any WeightSource
  ) throws -> any DiffusionTransformer {
    try PixArt(config: config, edits: changes.edits, weights: weights)
  }

  /// Predicts noise and variance: x (batch, inChannels, height, width) -> (batch, outChannels, …).
  ///
  /// - Parameters:
  ///   - x: Noisy latents of any size, with sides that are multiples of the patch size.
  ///   - conditioning: Timesteps and captions.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with embeddings and the modulation.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Noise prediction and, with twice the channels, variance parameter.
  package func forward(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer?,
    observeBlock: BlockObserver?
  ) -> Value {
    guard case .captions(let caption, let bias) = conditioning.condition else {
      preconditionFailure("PixArt: needs captions")
    }
    let grid = patches.grid(x)
    let positions = Tensor(
      config.positionTable(grid), shape: [1, grid.tokens, config.hiddenSize])
    var hidden = tape.apply(Add(), patches(x, on: tape), Value(constant: positions))
    let time = times(TimestepEmbedder.features(conditioning.timesteps), on: tape)
    let modulation = tape.linear(tape.apply(SiLU(), time), modulationWeight, modulationBias)
    let projected = tape.linear(caption, caption1Weight, caption1Bias)
    let text = tape.linear(tape.apply(GELU(), projected), caption2Weight, caption2Bias)
    observe?("pos_embed", Value(constant: positions))
    observe?("t_embedder", time)
    observe?("t_block", modulation)
    observe?("y_embedder", text)
    for (index, block) in stack.enumerated() {
      let report = observeBlock.map { call in { call(index, $0) } }
      observe?("blocks.\(index).in", hidden)
      let input = hidden
      hidden = tape.segment { tape in
        block(
          input, modulation: modulation, caption: text, bias: bias, grid: grid, on: tape,
          observe: report)
      }
      observe?("blocks.\(index).out", hidden)
    }
    // The table has a row each for shift and scale; the time embedding is added to both.
    let last = tape.apply(Add(), tape.apply(RepeatColumns(2), time), Value(outputTable))
    hidden = output(hidden, modulation: last, on: tape)
    return output.image(hidden, grid: grid, on: tape)
  }
}
