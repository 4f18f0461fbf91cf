import Autograd
import Nn
import Plans
import TensorCore

/// An operator of a transformer block: (batch, tokens, dim) -> (batch, tokens, dim).
package protocol GraftOperator: AnyObject {
  /// All parameters under their full checkpoint keys.
  var parameters: [Parameter] { get }

  /// Applies the operator.
  func callAsFunction(_ x: Value, on tape: Tape) -> Value
}

extension GraftOperator {
  /// Whether the input may be rounded to bfloat16, because linear layers in bfloat16 read it.
  package var roundsInput: Bool { parameters.contains { $0.precision.isRounded } }
}

/// The linear layer at the end of an operator, y = W features + b.
package struct OutputLayer {
  /// W (dim, features); nil where there are no features and the output is the bias.
  package let weight: Parameter?
  /// b (dim); nil for none.
  package let bias: Parameter?

  /// Wraps the parameters of a layer.
  package init(_ weight: Parameter?, _ bias: Parameter? = nil) {
    (self.weight, self.bias) = (weight, bias)
  }

  /// Applies the layer to features (batch, tokens, width).
  func callAsFunction(_ features: Value, on tape: Tape) -> Value {
    if let weight { return tape.linear(features, weight, bias) }
    guard let bias else { return features }
    let zeros = Tensor.zeros(features.shape.dropLast() + [bias.count])
    return tape.apply(Add(), Value(constant: zeros), Value(bias))
  }
}

/// An operator that ends in a linear layer, whose weights can be fitted in closed form.
package protocol LinearOutput: GraftOperator {
  /// The last layer.
  var outputLayer: OutputLayer { get }

  /// Computes what the last layer reads, (batch, tokens, dim) -> (batch, tokens, features).
  func features(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value
}

extension LinearOutput {
  package func callAsFunction(_ x: Value, on tape: Tape) -> Value {
    outputLayer(features(x, grid: TokenGrid(tokens: x.shape[1]), on: tape), on: tape)
  }
}

/// Extents of the token grid of an image, in raster order.
package struct TokenGrid: Equatable, Sendable {
  package let rows, columns: Int
  package init(rows: Int, columns: Int) {
    self.rows = rows
    self.columns = columns
  }

  /// Makes the grid of a number of tokens that is nearest to a square, with at least as many columns as
  /// rows.
  package init(tokens: Int) {
    var rows = Int(Double(tokens).squareRoot())
    while rows > 1, !tokens.isMultiple(of: rows) { rows -= 1 }
    self.init(rows: max(1, rows), columns: tokens / max(1, rows))
  }

  /// Number of tokens.
  package var tokens: Int { rows * columns }
}

/// Operator of the attention slot, which mixes tokens.
package protocol SequenceMixer: GraftOperator {
  /// Applies the operator to tokens on a grid; the default implementation ignores the grid.
  func callAsFunction(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value
}

extension SequenceMixer {
  package func callAsFunction(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    self(x, on: tape)
  }
}

extension SequenceMixer where Self: LinearOutput {
  package func callAsFunction(_ x: Value, grid: TokenGrid, on tape: Tape) -> Value {
    outputLayer(features(x, grid: grid, on: tape), on: tape)
  }
}

/// Operator of the MLP slot, which mixes channels.
package protocol ChannelMixer: GraftOperator {}

/// Model extents, key prefix and weights for building an operator.
package struct OperatorContext {
  /// Hidden size of the block.
  package let hiddenSize: Int
  /// Number of tokens.
  package let tokens: Int
  /// Attention heads of the model, the default of attention operators.
  package let numHeads: Int
  /// Checkpoint prefix, for example `blocks.7.attn.`.
  package let prefix: String
  /// Source of the parameters.
  package let weights: any WeightSource
  /// Positions that attention-like operators rotate queries and keys by; nil in models without.
  package let rotary: RotaryTables?
  /// Norm of queries and keys of every head in attention with softmax; nil in models without.
  package let queryKeyNorm: RowNormKind?

  package init(
    hiddenSize: Int, tokens: Int, numHeads: Int, prefix: String, weights: any WeightSource,
    rotary: RotaryTables? = nil, queryKeyNorm: RowNormKind? = nil
  ) {
    (self.rotary, self.queryKeyNorm) = (rotary, queryKeyNorm)
    self.hiddenSize = hiddenSize
    self.tokens = tokens
    self.numHeads = numHeads
    self.prefix = prefix
    self.weights = weights
  }

  /// Returns the parameter `name` relative to the prefix.
  package func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws
    -> Parameter
  {
    try weights.parameter(prefix + name, shape, initializer)
  }

  /// Returns the weight (outputs, inputs) and bias of a linear layer, with PyTorch's default
  /// initialisation.
  package func linear(_ name: String, inputs: Int, outputs: Int) throws -> (Parameter, Parameter) {
    (
      try weight(name, inputs: inputs, outputs: outputs),
      try parameter("\(name).bias", [outputs], .uniform(1 / Float(inputs).squareRoot()))
    )
  }

  /// Returns the weight (outputs, inputs) of a linear layer without bias, with PyTorch's default
  /// initialisation.
  package func weight(_ name: String, inputs: Int, outputs: Int) throws -> Parameter {
    try parameter(
      "\(name).weight", [outputs, inputs], .uniform(1 / Float(inputs).squareRoot()))
  }

  /// Returns the weight (channels, 1, taps) and bias of a depthwise convolution, with PyTorch's
  /// default initialisation.
  package func depthwise(_ name: String, channels: Int, taps: Int) throws -> (Parameter, Parameter)
  {
    let bound = Initializer.uniform(1 / Float(taps).squareRoot())
    return (
      try parameter("\(name).weight", [channels, 1, taps], bound),
      try parameter("\(name).bias", [channels], bound)
    )
  }
}
