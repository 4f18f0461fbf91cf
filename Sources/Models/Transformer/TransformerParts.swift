import Autograd
import Foundation
import Nn
import Operators
import Plans
import TensorCore

/// Embeddings and output projection of diffusion transformers on latents.

/// Patch convolution, computed as a linear layer on flattened patches; the weight keeps its 4-D
/// shape.
struct PatchEmbedding {
  private let patch: Int
  private let weight, bias: Parameter

  init(_ weights: any WeightSource, dim: Int, channels: Int, patch: Int) throws {
    self.patch = patch
    weight = try weights.parameter(
      "x_embedder.proj.weight", [dim, channels, patch, patch], .xavierUniform)
    bias = try weights.parameter("x_embedder.proj.bias", [dim], .zeros)
  }

  var parameters: [Parameter] { [weight, bias] }

  /// x (batch, channels, height, width) -> (batch, tokens, dim).
  func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    tape.apply(
      PatchProjection(), tape.apply(Patchify(patch: patch), x), Value(weight), Value(bias))
  }

  /// The grid of tokens of an image (batch, channels, height, width).
  func grid(_ x: Value) -> TokenGrid {
    TokenGrid(rows: x.shape[2] / patch, columns: x.shape[3] / patch)
  }
}

private struct PatchProjection: MixedPrecisionOp {
  private func flat(_ inputs: [MixedTensor]) -> [MixedTensor] {
    let weight = inputs[1].float32
    let flattened = weight.reshaped([weight.shape[0], weight.count / weight.shape[0]])
    return [inputs[0], .float32(flattened), inputs[2]]
  }

  func forward(_ inputs: [MixedTensor]) -> (output: MixedTensor, saved: Void) {
    Linear().forward(flat(inputs))
  }

  func backward(
    _ gradOutput: Tensor, inputs: [MixedTensor], output: MixedTensor, saved: Void,
    into sink: GradientSink
  ) {
    Linear().backward(gradOutput, inputs: flat(inputs), output: output, saved: (), into: sink)
  }
}

/// Two linear layers on sinusoidal timestep features.
struct TimestepEmbedder {
  private let weight0, bias0, weight2, bias2: Parameter

  init(_ weights: any WeightSource, dim: Int, std: Float) throws {
    weight0 = try weights.parameter("t_embedder.mlp.0.weight", [dim, 256], .normal(std))
    bias0 = try weights.parameter("t_embedder.mlp.0.bias", [dim], .zeros)
    weight2 = try weights.parameter("t_embedder.mlp.2.weight", [dim, dim], .normal(std))
    bias2 = try weights.parameter("t_embedder.mlp.2.bias", [dim], .zeros)
  }

  var parameters: [Parameter] { [weight0, bias0, weight2, bias2] }

  /// Features (batch, 256) -> (batch, dim).
  func callAsFunction(_ features: Tensor, on tape: Tape) -> Value {
    let hidden = tape.linear(Value(constant: features), weight0, bias0)
    return tape.linear(tape.apply(SiLU(), hidden), weight2, bias2)
  }

  /// Sinusoidal features (batch, 256) of timesteps: cosines, then sines, with float32 angles.
  ///
  /// - Parameters:
  ///   - timesteps: In [0, 1000).
  ///   - shift: Subtracted from the divisor 128 of the exponents.
  /// - Returns: One row per timestep.
  static func features(_ timesteps: [Float], shift: Int = 0) -> Tensor {
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
}

/// Fixed 2-D sin-cos position table.
enum PositionTable {
  /// The table (rows * columns, dim), row-major: sines and cosines of the column coordinate, then of the
  /// row coordinate, with frequencies 10000^(-4 i / dim); computed in double precision.
  ///
  /// - Parameters:
  ///   - rows: Coordinate of every row of tokens.
  ///   - columns: Coordinate of every column of tokens.
  ///   - dim: Width, a multiple of 4.
  /// - Returns: The table in row-major order.
  static func values(rows: [Double], columns: [Double], dim: Int) -> [Float] {
    let half = dim / 2
    func waves(_ coordinates: [Double]) -> [Float] {
      coordinates.flatMap { coordinate in
        let angles = (0..<(half / 2)).map {
          coordinate * pow(10000, -Double($0) / Double(half / 2))
        }
        return angles.map { Float(sin($0)) } + angles.map { Float(cos($0)) }
      }
    }
    let (across, down) = (waves(columns), waves(rows))
    var table: [Float] = []
    table.reserveCapacity(rows.count * columns.count * dim)
    for row in rows.indices {
      for column in columns.indices {
        table += across[(column * half)..<((column + 1) * half)]
        table += down[(row * half)..<((row + 1) * half)]
      }
    }
    return table
  }
}

extension ModelShape {
  /// The fixed 2-D sin-cos table (tokens, hiddenSize) of a DiT, row-major, columns first.
  ///
  /// - Parameter tokens: The grid of the table; nil selects that of the model. For another grid the
  ///   coordinates are the token centres, scaled to the grid of the model.
  /// - Returns: The table in row-major order.
  package func positionTable(_ tokens: TokenGrid? = nil) -> [Float] {
    func coordinates(_ count: Int) -> [Double] {
      let stretch = Double(grid) / Double(count)
      return (0..<count).map { (Double($0) + 0.5) * stretch - 0.5 }
    }
    return PositionTable.values(
      rows: coordinates(tokens?.rows ?? grid), columns: coordinates(tokens?.columns ?? grid),
      dim: self.hiddenSize)
  }
}

/// Final modulation, linear layer and unpatchifying.
struct OutputProjection {
  private let patch, channels: Int
  private let weight, bias: Parameter
  /// Weight of a root mean square norm; nil for a layer norm without.
  private let norm: Parameter?

  init(
    _ weights: any WeightSource, dim: Int, channels: Int, patch: Int, hasRMSNorm: Bool = false
  ) throws {
    norm =
      hasRMSNorm ? try weights.parameter("final_layer.norm_final.weight", [dim], .ones) : nil
    let outputs = patch * patch * channels
    weight = try weights.parameter("final_layer.linear.weight", [outputs, dim], .zeros)
    bias = try weights.parameter("final_layer.linear.bias", [outputs], .zeros)
    (self.patch, self.channels) = (patch, channels)
  }

  var parameters: [Parameter] { [weight, bias] + [norm].compactMap(\.self) }

  /// Tokens (batch, tokens, dim) under shift and scale (batch, 2 dim) -> (batch, tokens, outputs).
  func callAsFunction(_ x: Value, modulation: Value, on tape: Tape) -> Value {
    let normed = tape.modulated(
      x, modulation, chunks: (shift: 0, scale: 1), weight: norm,
      epsilon: Float(ModelShape.officialEpsilon))
    return tape.linear(normed, weight, bias)
  }

  /// Unpatchifies the output to images (batch, channels, height, width).
  func image(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    tape.apply(
      Unpatchify(patch: patch, channels: channels, rows: grid.rows, columns: grid.columns), x)
  }
}
