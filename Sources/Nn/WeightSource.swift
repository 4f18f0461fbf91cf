import Autograd
import Files
import TensorCore

/// Initialisation of a parameter that is not loaded from a file.
package enum Initializer {
  case zeros
  case ones
  /// U(-bound, bound); PyTorch's default for linear and convolution layers is bound 1/sqrt(fan_in).
  case uniform(Float)
  /// N(0, std^2).
  case normal(Float)
  /// Xavier uniform of a matrix (out, in...).
  case xavierUniform
  /// A fixed table.
  case table([Float])
  /// A function of one uniform number in [0, 1) per element.
  case drawn(@Sendable (Double) -> Float)

  /// Makes a tensor of the given shape; element i is drawn from number i of a stream.
  package func tensor(_ shape: [Int], _ random: RandomStream) -> Tensor {
    let result = Tensor(shape)
    switch self {
    case .zeros: result.fill(0)
    case .ones: result.fill(1)
    case .uniform(let bound): random.fillUniform(result, bound: bound)
    case .normal(let std): random.fillNormal(result, scale: std)
    case .xavierUniform:
      let fanIn = shape.dropFirst().reduce(1, *)
      random.fillUniform(result, bound: (6 / Float(fanIn + shape[0])).squareRoot())
    case .table(let values): return Tensor(values, shape: shape)
    case .drawn(let rule):
      for index in 0..<result.count { result[index] = rule(random.uniform(index)) }
    }
    return result
  }
}

/// Source of the parameters of a module: freshly drawn, or from a checkpoint.
package protocol WeightSource {
  /// The tensor for a checkpoint key.
  ///
  /// - Throws: `FileError` if the key is missing or has another shape.
  func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor

  /// A parameter under its checkpoint key.
  func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Parameter
}

extension WeightSource {
  /// Builds a model of these weights: for inference only in a precision, see `SealedWeights`, or with nil one that
  /// may be trained.
  package func loading<Model>(
    _ precision: Precision?, _ make: (any WeightSource) throws -> Model
  ) throws -> Model {
    guard let precision else { return try make(self) }
    let model = try make(SealedWeights(self, precision))
    // Releases the buffers into which the weights were read.
    BufferPool.trim()
    return model
  }

  package func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws
    -> Parameter
  {
    Parameter(name, try tensor(name, shape, initializer))
  }

  /// A parameter that is looked up or added but not multiplied, and therefore stays float32.
  package func table(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Parameter
  {
    Parameter(name, try tensor(name, shape, initializer), isTable: true)
  }
}

/// Parameters for inference only: large weights are sealed in bfloat16 one by one, so that the
/// model is not in memory twice.
package struct SealedWeights: WeightSource {
  private let source: any WeightSource
  private let rule: PrecisionRule

  /// Wraps `source` in a precision; in float32 nothing is sealed.
  package init(_ source: any WeightSource, _ precision: Precision) {
    self.source = source
    rule = PrecisionRule(precision)
  }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    try source.tensor(name, shape, initializer)
  }

  package func parameter(_ name: String, _ shape: [Int], _ initializer: Initializer) throws
    -> Parameter
  {
    let parameter = try source.parameter(name, shape, initializer)
    parameter.use(rule)
    parameter.seal()
    return parameter
  }
}

/// Draws every parameter by its initializer, from the random stream named by its key.
package struct FreshWeights: WeightSource {
  private let seed: UInt64

  package init(seed: UInt64) { self.seed = seed }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
    initializer.tensor(shape, RandomStream(seed: seed, name))
  }
}

/// Reads every parameter from a dictionary of tensors.
package struct DictionaryWeights: WeightSource {
  private let tensors: [String: Tensor]
  private let origin: String

  /// Makes a source of tensors by key; `origin` names them in errors.
  package init(_ tensors: [String: Tensor], origin: String) {
    self.tensors = tensors
    self.origin = origin
  }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    guard let tensor = tensors[name], tensor.shape == shape else {
      throw FileError(misfit: name, tensors[name]?.shape, expected: shape, in: origin)
    }
    return tensor
  }
}

extension FileError {
  /// Error for a tensor that is missing (`found` is nil) or has another shape.
  init(misfit name: String, _ found: [Int]?, expected: [Int], in file: String) {
    let state = found.map { "has shape \($0), expected" } ?? "is missing; expected shape"
    self.init(
      "\(file): tensor '\(name)' \(state) \(expected); check that the file holds this model")
  }
}
