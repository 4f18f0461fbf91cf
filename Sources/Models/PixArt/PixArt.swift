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

  package func exampleConditioning(_ count: Int) -> Conditioning {
    let caption = RandomStream(seed: 0, "caption").normal([
      count, ModelFamily.captionTokens, config.captionChannels,
    ])
    return Conditioning(
      timesteps: [Float](repeating: middleTime, count: count), caption: Value(constant: caption))
  }

  package var blocks: [any TransformerBlock] { stack }

  package func remade(
    with changes: GraftPlan.Changes, weights: any WeightSource
  ) throws -> any DiffusionTransformer {
    try PixArt(config: config, edits: changes.edits, weights: weights)
  }

  package func modulations(
    _ conditioning: Conditioning, on tape: Tape, observe: Observer?
  ) -> Modulations {
    modulations(
      conditioning.timesteps, caption(conditioning.condition, on: tape), on: tape, observe: observe)
  }

  package func modulations(
    along times: [Float], _ condition: Conditioning.Condition
  ) -> (Float) -> Modulations {
    // The projection of the captions is the same at every step.
    let caption = caption(condition, on: Tape(recording: false))
    return { [self] time in
      modulations(
        [Float](repeating: time, count: caption.text.shape[0]), caption,
        on: Tape(recording: false))
    }
  }

  private func modulations(
    _ timesteps: [Float], _ caption: (text: Value, bias: Tensor?), on tape: Tape,
    observe: Observer? = nil
  ) -> Modulations {
    let time = times(TimestepEmbedder.features(timesteps), on: tape)
    let modulation = tape.linear(tape.apply(SiLU(), time), modulationWeight, modulationBias)
    observe?("t_embedder", time)
    observe?("t_block", modulation)
    observe?("y_embedder", caption.text)
    // The table has a row each for shift and scale; the time embedding is added to both.
    let last = tape.apply(Add(), tape.apply(RepeatColumns(2), time), Value(outputTable))
    return Modulations(blocks: [modulation], finalLayer: last, caption: caption)
  }

  /// Projects captions to (batch, length, dim).
  private func caption(
    _ condition: Conditioning.Condition, on tape: Tape
  ) -> (text: Value, bias: Tensor?) {
    guard case .captions(let caption, let bias) = condition else {
      preconditionFailure("PixArt: needs captions")
    }
    let projected = tape.linear(caption, caption1Weight, caption1Bias)
    return (
      tape.linear(tape.apply(GELU(), projected), caption2Weight, caption2Bias), bias
    )
  }

  package func embedded(
    _ x: Value, on tape: Tape, observe: Observer?
  ) -> (tokens: Value, grid: TokenGrid) {
    let grid = patches.grid(x)
    let positions = Tensor(
      config.positionTable(grid), shape: [1, grid.tokens, config.hiddenSize])
    observe?("pos_embed", Value(constant: positions))
    return (tape.apply(Add(), patches(x, on: tape), Value(constant: positions)), grid)
  }

  package func output(
    ofBlock index: Int, _ hidden: Value, _ modulations: Modulations, grid: TokenGrid,
    with operators: BlockOperators, on tape: Tape,
    observe: ((AdaLNBlock.Activations) -> Void)?
  ) -> Value {
    guard let caption = modulations.caption else {
      preconditionFailure("PixArt: modulations without captions")
    }
    return stack[index](
      hidden, modulation: modulations.block(index), caption: caption.text, bias: caption.bias,
      grid: grid, on: tape, with: operators, observe: observe)
  }

  package func image(
    _ hidden: Value, _ modulations: Modulations, grid: TokenGrid, on tape: Tape, observe: Observer?
  ) -> Value {
    output.image(
      output(hidden, modulation: modulations.finalLayer, on: tape), grid: grid, on: tape)
  }
}
