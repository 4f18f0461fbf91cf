import Autograd
import Foundation
import Nn
import Operators
import Plans
import TensorCore

/// The class-conditional diffusion transformer of facebookresearch/DiT, with exchangeable operators.
package final class DiT {
  package let config: DiTConfig
  package let blocks: [DiTBlock]
  private let patchWeight, patchBias, positions: Parameter
  private let time0Weight, time0Bias, time2Weight, time2Bias, labelTable: Parameter
  private let finalWeight, finalBias, finalModulationWeight, finalModulationBias: Parameter

  /// How a fresh model starts.
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
  ///   - weights: Source of all parameters under their official keys.
  ///   - initialization: How fresh parameters start.
  /// - Throws: `PlanError` for an operator that cannot be built, errors of the weight source.
  package init(
    config: DiTConfig, edits: [SlotID: OperatorSpec] = [:], weights: any WeightSource,
    initialization: Initialization = .init()
  ) throws {
    let dim = config.hiddenSize
    self.config = config
    patchWeight = try weights.parameter(
      "x_embedder.proj.weight", [dim, config.inChannels, config.patchSize, config.patchSize],
      .xavierUniform)
    patchBias = try weights.parameter("x_embedder.proj.bias", [dim], .zeros)
    positions = try weights.parameter(
      "pos_embed", [1, config.tokens, dim], .table(config.positionTable(grid: config.grid)))
    positions.isFrozen = true
    let normal = Initializer.normal(initialization.embedderStd)
    time0Weight = try weights.parameter("t_embedder.mlp.0.weight", [dim, 256], normal)
    time0Bias = try weights.parameter("t_embedder.mlp.0.bias", [dim], .zeros)
    time2Weight = try weights.parameter("t_embedder.mlp.2.weight", [dim, dim], normal)
    time2Bias = try weights.parameter("t_embedder.mlp.2.bias", [dim], .zeros)
    labelTable = try weights.parameter(
      "y_embedder.embedding_table.weight", [config.numClasses + 1, dim], normal)
    blocks = try (0..<config.depth).map { index in
      try DiTBlock(config: config, index: index, edits: edits, weights: weights)
    }
    let outputs = config.patchSize * config.patchSize * config.outChannels
    finalWeight = try weights.parameter("final_layer.linear.weight", [outputs, dim], .zeros)
    finalBias = try weights.parameter("final_layer.linear.bias", [outputs], .zeros)
    finalModulationWeight = try weights.parameter(
      "final_layer.adaLN_modulation.1.weight", [2 * dim, dim], .zeros)
    finalModulationBias = try weights.parameter(
      "final_layer.adaLN_modulation.1.bias", [2 * dim], .zeros)
  }

  /// All parameters under their checkpoint keys, the frozen position table included.
  package var parameters: [Parameter] {
    [positions, patchWeight, patchBias, time0Weight, time0Bias, time2Weight, time2Bias, labelTable]
      + blocks.flatMap(\.parameters)
      + [finalWeight, finalBias, finalModulationWeight, finalModulationBias]
  }

  /// The sinusoid features (batch, 256) of timesteps: cosines, then sines, angles in float32.
  ///
  /// - Parameters:
  ///   - timesteps: In [0, 1000).
  ///   - shift: What is subtracted from the divisor 128 of the exponents (`DiTConfig.frequencyShift`).
  /// - Returns: A row per timestep.
  package static func timestepFeatures(_ timesteps: [Float], shift: Int = 0) -> Tensor {
    let half = 128
    let result = Tensor([timesteps.count, 2 * half])
    for (row, timestep) in timesteps.enumerated() {
      for index in 0..<half {
        let frequency = expf(-logf(10000) * Float(index) / Float(half - shift))
        let angle = timestep * frequency
        result[row * 2 * half + index] = cosf(angle)
        result[row * 2 * half + half + index] = sinf(angle)
      }
    }
    return result
  }

  /// What the model sees besides the image.
  package struct Conditioning {
    package let timesteps: [Float]
    package let labels: [Int]
    /// Sinusoid features to use instead of computing them (batch, 256).
    package var timestepFeatures: Tensor?
    package init(timesteps: [Float], labels: [Int], timestepFeatures: Tensor? = nil) {
      self.timesteps = timesteps
      self.labels = labels
      self.timestepFeatures = timestepFeatures
    }
  }

  /// Sees intermediate tensors by their upstream module names.
  package typealias Observer = (_ name: String, _ tensor: Tensor) -> Void

  /// Predicts noise and variance: x (batch, channels, size, size) -> (batch, outChannels, size, size).
  ///
  /// - Parameters:
  ///   - x: Noised latents; a smaller or larger grid than the model's own uses a stretched table.
  ///   - conditioning: Timesteps in [0, 1000) and labels; the null class is `numClasses`.
  ///   - tape: Records for training, or not for inference.
  ///   - observe: Called with embeddings and the final layer's tensors.
  ///   - observeBlock: Called with every block's index and operator activations.
  /// - Returns: Noise prediction and variance parameter.
  package func callAsFunction(
    _ x: Value, _ conditioning: Conditioning, on tape: Tape, observe: Observer? = nil,
    observeBlock: ((Int, DiTBlock.Activations) -> Void)? = nil
  ) -> Value {
    var hidden = embedPatches(x, on: tape)
    observe?("x_embedder.out", hidden.tensor)
    hidden = tape.apply(Add(), hidden, positionValue(grid: x.shape[2] / config.patchSize))

    let features =
      conditioning.timestepFeatures
      ?? Self.timestepFeatures(conditioning.timesteps, shift: config.frequencyShift)
    var time = tape.apply(
      Linear(), Value(constant: features), Value(time0Weight), Value(time0Bias))
    time = tape.apply(SiLU(), time)
    time = tape.apply(Linear(), time, Value(time2Weight), Value(time2Bias))
    let label = tape.apply(Embedding(conditioning.labels), Value(labelTable))
    observe?("t_embedder.out", time.tensor)
    observe?("y_embedder.out", label.tensor)
    let condition = tape.apply(SiLU(), tape.apply(Add(), time, label))

    for (index, block) in blocks.enumerated() {
      observe?("blocks.\(index).in", hidden.tensor)
      if let observe { observe("blocks.\(index).adaLN.out", block.modulation(condition.tensor)) }
      let report = observeBlock.map { call in { call(index, $0) } }
      hidden = block(hidden, condition, on: tape, observe: report)
      observe?("blocks.\(index).out", hidden.tensor)
    }

    let modulation = tape.apply(
      Linear(), condition, Value(finalModulationWeight), Value(finalModulationBias))
    observe?("final_layer.adaLN.out", modulation.tensor)
    hidden = tape.apply(LayerNormModulate(shiftChunk: 0, scaleChunk: 1), hidden, modulation)
    hidden = tape.apply(Linear(), hidden, Value(finalWeight), Value(finalBias))
    observe?("final_layer.out", hidden.tensor)
    return tape.apply(Unpatchify(patch: config.patchSize, channels: config.outChannels), hidden)
  }

  /// Inference without a record.
  package func predict(_ x: Tensor, _ conditioning: Conditioning) -> Tensor {
    self(Value(constant: x), conditioning, on: Tape(recording: false)).tensor
  }

  private func embedPatches(_ x: Value, on tape: Tape) -> Value {
    let patches = tape.apply(Patchify(patch: config.patchSize), x)
    return tape.apply(
      PatchProjection(), patches, Value(patchWeight), Value(patchBias))
  }

  private func positionValue(grid: Int) -> Value {
    if grid == config.grid { return Value(positions) }
    let values = config.positionTable(
      grid: grid, stretch: Double(config.grid) / Double(grid))
    return Value(constant: Tensor(values, shape: [1, grid * grid, config.hiddenSize]))
  }
}

/// The patch convolution as a linear layer on flattened patches; its weight keeps its 4-D shape.
private struct PatchProjection: DifferentiableOp {
  private func flat(_ inputs: [Tensor]) -> [Tensor] {
    let weight = inputs[1]
    return [
      inputs[0], weight.reshaped([weight.shape[0], weight.count / weight.shape[0]]), inputs[2],
    ]
  }

  func forward(_ inputs: [Tensor]) -> (output: Tensor, saved: Void) {
    Linear().forward(flat(inputs))
  }

  func backward(
    _ gradOutput: Tensor, inputs: [Tensor], output: Tensor, saved: Void, into sink: GradientSink
  ) {
    Linear().backward(gradOutput, inputs: flat(inputs), output: output, saved: (), into: sink)
  }
}
