import Autograd
import Foundation
import Nn
import Operators
import Plans
import TensorCore

/// Class-conditional diffusion transformer of facebookresearch/DiT with replaceable operators and
/// optional parallel blocks; also the network of SiT, and with other blocks that of LightningDiT.
package final class DiT: DiffusionTransformer {
  package let config: ModelShape
  private let stack: [DiTBlock]
  /// Merges of the pairs of parallel blocks; all other blocks are sequential.
  package let merges: [BlockPair: BlockMerge]
  private let patches: PatchEmbedding
  private let times: TimestepEmbedder
  private let output: OutputProjection
  private let positions, labelTable, finalModulationWeight, finalModulationBias: Parameter

  /// Initialisation of a new model.
  package struct Initialization: Sendable {
    /// Standard deviation of the label table and of the timestep MLP's weights (upstream 0.02).
    package var embedderStd: Float
    package init(embedderStd: Float = 0.02) { self.embedderStd = embedderStd }
  }

  /// Builds the network: attention and an MLP in every block, except where another operator is named.
  ///
  /// - Parameters:
  ///   - config: Size and shape.
  ///   - edits: Replacement operators by slot.
  ///   - parallel: Pairs of parallel blocks, disjoint.
  ///   - weights: Source of all parameters under their official keys.
  ///   - initialization: Initialisation of freshly drawn parameters.
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  package init(
    config: ModelShape, edits: [SlotID: OperatorSpec] = [:],
    parallel: [BlockPair: ParallelMerge] = [:], weights: any WeightSource,
    initialization: Initialization = .init()
  ) throws {
    let dim = config.hiddenSize
    self.config = config
    patches = try PatchEmbedding(
      weights, dim: dim, channels: config.inChannels, patch: config.patchSize)
    positions = try weights.table(
      "pos_embed", [1, config.tokens, dim], .table(config.positionTable()))
    positions.isFrozen = true
    times = try TimestepEmbedder(weights, dim: dim, std: initialization.embedderStd)
    labelTable = try weights.table(
      "y_embedder.embedding_table.weight", [config.labelRows, dim],
      .normal(initialization.embedderStd))
    let rotary = config.rotary ? RotaryTables(side: config.grid) : nil
    stack = try (0..<config.depth).map { index in
      try DiTBlock(config: config, index: index, edits: edits, weights: weights, rotary: rotary)
    }
    var merges: [BlockPair: BlockMerge] = [:]
    for (pair, kind) in parallel {
      merges[pair] = try BlockMerge(kind, of: pair, dim: dim, weights: weights)
    }
    self.merges = merges
    output = try OutputProjection(
      weights, dim: dim, channels: config.outChannels, patch: config.patchSize,
      hasRMSNorm: config.rmsNorm)
    finalModulationWeight = try weights.parameter(
      "final_layer.adaLN_modulation.1.weight", [2 * dim, dim], .zeros)
    finalModulationBias = try weights.parameter(
      "final_layer.adaLN_modulation.1.bias", [2 * dim], .zeros)
  }

  package var shape: ModelShape { config }
  package var blocks: [any TransformerBlock] { stack }

  /// All parameters with their checkpoint keys, including the frozen position table.
  package var parameters: [Parameter] {
    [positions] + patches.parameters + times.parameters + [labelTable]
      + stack.indices.flatMap {
        stack[$0].parameters + (merges[BlockPair(first: $0)]?.parameters ?? [])
      }
      + output.parameters + [finalModulationWeight, finalModulationBias]
  }

  package func remade(
    with changes: GraftPlan.Changes, weights: any WeightSource
  ) throws -> any DiffusionTransformer {
    try DiT(config: config, edits: changes.edits, parallel: changes.parallel, weights: weights)
  }

  package func trajectory(
    _ condition: Conditioning.Condition, times: [Float], observeBlock: BlockObserver?
  ) -> TrajectoryModel {
    let modulations = TrajectoryModulations(self, labels: Self.labels(condition), timesteps: times)
    return { latents, time in
      self(
        Value(constant: latents), modulations(at: time), on: Tape(recording: false),
        observeBlock: observeBlock
      ).tensor
    }
  }

  package func diffusersKeys(_ official: String) -> [String] {
    DiTKeyMap.diffusersKeys(official) ?? [official]
  }

  package func exampleConditioning(at time: Float) -> Conditioning {
    Conditioning(timesteps: [time], labels: [0])
  }

  private static func labels(_ condition: Conditioning.Condition) -> [Int] {
    guard case .labels(let labels) = condition else { preconditionFailure("DiT: needs labels") }
    return labels
  }

  /// Sinusoidal features (batch, 256) of timesteps: cosines, then sines, with float32 angles.
  ///
  /// - Parameters:
  ///   - timesteps: In [0, 1000).
  ///   - shift: Subtracted from the divisor 128 of the exponents (`ModelShape.frequencyShift`).
  /// - Returns: One row per timestep.
  package static func timestepFeatures(_ timesteps: [Float], shift: Int = 0) -> Tensor {
    TimestepEmbedder.features(timesteps, shift: shift)
  }

  /// Predicts noise and variance: x (batch, channels, height, width) -> (batch, outChannels, …).
  ///
  /// - Parameters:
  ///   - x: Noisy latents; for another grid than that of the model the position table is computed
  ///     at scaled coordinates.
  ///   - conditioning: Timesteps in [0, 1000) and labels; the null class is `nullClass`.
  ///   - tape: Tape, recording for training.
  ///   - observe: Called with embeddings and the final layer's tensors.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Noise prediction and variance parameter.
  package func forward(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer?,
    observeBlock: BlockObserver?
  ) -> Value {
    self(
      x, modulations(conditioning, on: tape, observe: observe), on: tape, observe: observe,
      observeBlock: observeBlock)
  }

  /// Runs the network with precomputed modulations.
  package func callAsFunction(
    _ x: Value, _ modulations: Modulations, on tape: Tape, observe: Observer? = nil,
    observeBlock: BlockObserver? = nil
  ) -> Value {
    let grid = patches.grid(x)
    var hidden = patches(x, on: tape)
    observe?("x_embedder.out", hidden)
    hidden = tape.apply(Add(), hidden, positionValue(grid))

    func run(_ index: Int, _ x: Value) -> Value {
      let (block, modulation) = (stack[index], modulations.blocks[index])
      observe?("blocks.\(index).in", x)
      observe?("blocks.\(index).adaLN.out", modulation)
      let report = observeBlock.map { call in { call(index, $0) } }
      let out = tape.segment { tape in
        block(x, modulation: modulation, grid: grid, on: tape, observe: report)
      }
      observe?("blocks.\(index).out", out)
      return out
    }
    var index = 0
    while index < stack.count {
      let pair = BlockPair(first: index)
      if let merge = merges[pair] {
        hidden = merge(hidden, run(pair.first, hidden), run(pair.second, hidden), on: tape)
        observe?("blocks.\(index).merge.out", hidden)
        index += 2
      } else {
        hidden = run(index, hidden)
        index += 1
      }
    }

    observe?("final_layer.adaLN.out", modulations.finalLayer)
    hidden = output(hidden, modulation: modulations.finalLayer, on: tape)
    observe?("final_layer.out", hidden)
    return image(hidden, grid: grid, on: tape)
  }

  /// The output as an image; a velocity towards the noise is turned round.
  private func image(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    let image = output.image(x, grid: grid, on: tape)
    return config.reversedTime ? tape.apply(WeightedSum([-1]), image) : image
  }

  /// Applies one block to its input (batch, tokens, dim) on the grid of the model.
  ///
  /// - Parameters:
  ///   - index: The block, of no pair.
  ///   - hidden: Its input.
  ///   - modulations: Modulations of the batch.
  ///   - operators: Operators in place of the block's own.
  ///   - tape: Tape of the operations.
  /// - Returns: Its output.
  package func output(
    ofBlock index: Int, _ hidden: Value, _ modulations: Modulations,
    with operators: BlockOperators = .init(), on tape: Tape
  ) -> Value {
    stack[index](
      hidden, modulation: modulations.blocks[index], grid: grid, on: tape, with: operators)
  }

  /// Runs the blocks from one on and the final layer on the grid of the model; no pair may begin before that
  /// block and end behind it.
  ///
  /// - Parameters:
  ///   - first: The block; the number of blocks runs the final layer alone.
  ///   - hidden: Its input (batch, tokens, dim).
  ///   - modulations: Modulations of the batch.
  ///   - tape: Tape of the operations.
  /// - Returns: Noise prediction and variance parameter, as a whole run gives them.
  package func resumed(
    at first: Int, _ hidden: Value, _ modulations: Modulations, on tape: Tape
  ) -> Value {
    var (hidden, index) = (hidden, first)
    while index < stack.count {
      if let merge = merges[BlockPair(first: index)] {
        let outputs = [index, index + 1].map {
          output(ofBlock: $0, hidden, modulations, on: tape)
        }
        hidden = merge(hidden, outputs[0], outputs[1], on: tape)
        index += 2
      } else {
        hidden = output(ofBlock: index, hidden, modulations, on: tape)
        index += 1
      }
    }
    hidden = output(hidden, modulation: modulations.finalLayer, on: tape)
    return image(hidden, grid: grid, on: tape)
  }

  /// Computes the modulations of all blocks and the final layer.
  package func modulations(
    _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil
  ) -> Modulations {
    let condition = condition(conditioning, on: tape, observe: observe)
    return Modulations(
      blocks: stack.map { $0.modulation(condition, on: tape) },
      finalLayer: tape.linear(condition, finalModulationWeight, finalModulationBias))
  }

  /// Computes the conditioning of all blocks: SiLU of the sum of both embeddings (batch, dim).
  package func condition(
    _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil
  ) -> Value {
    let times =
      config.reversedTime ? conditioning.timesteps.map { 1 - $0 } : conditioning.timesteps
    let features =
      conditioning.timestepFeatures
      ?? Self.timestepFeatures(times, shift: config.frequencyShift)
    let time = self.times(features, on: tape)
    let label = tape.apply(Embedding(Self.labels(conditioning.condition)), Value(labelTable))
    observe?("t_embedder.out", time)
    observe?("y_embedder.out", label)
    return tape.apply(SiLU(), tape.apply(Add(), time, label))
  }

  package func pairCondition(_ conditioning: Conditioning, on tape: Tape) -> Value {
    condition(conditioning, on: tape)
  }

  /// Applies two parallel blocks and their merge to x (batch, tokens, dim) on the grid of the
  /// model.
  ///
  /// - Returns: The input of the block after the pair.
  package func output(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> Value {
    guard let merge = merges[pair] else { preconditionFailure("DiT: \(pair) is no pair") }
    let outputs = self.outputs(of: pair, x, condition, on: tape)
    return merge(x, outputs[0], outputs[1], on: tape)
  }

  /// Computes what the projection of two parallel blocks reads: their outputs one behind the other
  /// (batch, tokens, 2 dim); parameters as those of `output(of:)`.
  package func mergeFeatures(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> Value {
    let outputs = self.outputs(of: pair, x, condition, on: tape)
    return tape.apply(ConcatenateChannels(), outputs[0], outputs[1])
  }

  private func outputs(
    of pair: BlockPair, _ x: Value, _ condition: Value, on tape: Tape
  ) -> [Value] {
    pair.blocks.map { index in
      let block = stack[index]
      return block(x, modulation: block.modulation(condition, on: tape), grid: grid, on: tape)
    }
  }

  private func positionValue(_ grid: TokenGrid) -> Value {
    if grid == TokenGrid(rows: config.grid, columns: config.grid) { return Value(positions) }
    return Value(
      constant: Tensor(
        config.positionTable(grid), shape: [1, grid.tokens, config.hiddenSize]))
  }
}
