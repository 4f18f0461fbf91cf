import Checkpoints
import Files
import Foundation
import TensorCore

/// Tensors that are computed part by part and kept in files, so that what was interrupted goes on.
package struct TensorParts {
  /// Folder of the files; nil keeps none.
  private let folder: String?

  /// Keeps parts in a folder.
  ///
  /// - Throws: `FileError` if the folder cannot be made.
  package init(keptIn folder: String?) throws(FileError) {
    self.folder = folder
    if let folder { try AtomicFile.makeDirectory(folder) }
  }

  /// Gives a part, from its file or computed and then kept.
  ///
  /// - Parameters:
  ///   - name: Name of the part, unique in the folder.
  ///   - rows: Rows of every tensor; a file of other ones is computed again.
  ///   - names: Names of the tensors, in their order.
  ///   - compute: Computes the tensors.
  /// - Returns: The tensors.
  /// - Throws: Errors of `compute`, and `FileError` for a file that cannot be written.
  package func part(
    _ name: String, rows: Int, _ names: [String], _ compute: () throws -> [Tensor]
  ) throws -> [Tensor] {
    guard let folder else { return try compute() }
    let path = "\(folder)/\(name).safetensors"
    if let kept = Self.read(path, rows, names) { return kept }
    let parts = try compute()
    try SafetensorsWriter.write(
      zip(names, parts).map { .init(name: $0, shape: $1.shape, floats: $1.values) },
      metadata: [:], to: path)
    return parts
  }

  private static func read(_ path: String, _ rows: Int, _ names: [String]) -> [Tensor]? {
    guard access(path, R_OK) == 0, let file = try? SafetensorsFile(path: path),
      file.names.count == names.count
    else { return nil }
    var parts: [Tensor] = []
    for name in names {
      guard let shape = file.entry(name)?.shape, shape.first == rows,
        let values = try? file.floats(name)
      else { return nil }
      parts.append(Tensor(values, shape: shape))
    }
    return parts
  }

  /// Stacks parts of tensors along their rows.
  package static func stacked(_ parts: [Tensor]) -> Tensor {
    let width = parts.first.map { Array($0.shape.dropFirst()) } ?? [0]
    let result = Tensor([parts.reduce(0) { $0 + $1.shape[0] }] + width)
    var start = 0
    for part in parts {
      result.rows(start..<(start + part.shape[0])).assign(part)
      start += part.shape[0]
    }
    return result
  }
}
