import Checkpoints
import Files
import TensorCore

/// Reads parameters from a file of tensors, optionally under a key prefix.
///
/// Non-finite values are refused.
package struct FileWeights: WeightSource {
  private let file: any TensorFile
  private let prefix: String

  /// Makes a source over a file; `prefix` is prepended to every key.
  package init(_ file: any TensorFile, prefix: String = "") {
    self.file = file
    self.prefix = prefix
  }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let key = prefix + name
    let entry = file.entry(key)
    guard entry?.shape == shape else {
      throw FileError(misfit: key, entry?.shape, expected: shape, in: file.path)
    }
    if let entry { try file.requireFloats(entry) }
    let tensor = Tensor(shape)
    try file.readFloats(
      key, into: UnsafeMutableBufferPointer(start: tensor.pointer, count: tensor.count))
    if let place = tensor.firstNonFinite {
      throw FileError(
        "\(file.path): tensor '\(key)' holds a value at \(place) that is not finite; use a checkpoint from"
          + " before the training diverged, or fetch the file again")
    }
    return tensor
  }
}
