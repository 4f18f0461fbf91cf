import Checkpoints
import TensorCore

/// Reads parameters from a safetensors file, optionally under a key prefix.
package struct SafetensorsWeights: WeightSource {
  private let file: SafetensorsFile
  private let prefix: String

  /// Serves the tensors of a file; `prefix` is put before every key.
  package init(_ file: SafetensorsFile, prefix: String = "") {
    self.file = file
    self.prefix = prefix
  }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let key = prefix + name
    guard let entry = file.entry(key) else {
      throw CheckpointError(
        "\(file.path): tensor '\(key)' is missing; expected shape \(shape); "
          + "check that the file holds this model")
    }
    guard entry.shape == shape else {
      throw CheckpointError(
        "\(file.path): tensor '\(key)' has shape \(entry.shape), expected \(shape); "
          + "check that the file holds this model")
    }
    return Tensor(try file.floats(key), shape: shape)
  }
}
