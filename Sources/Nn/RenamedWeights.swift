import TensorCore

/// Weight source that maps keys to those of another source, in which a tensor may be split along
/// its first axis, or missing where its initialisation determines it.
package struct RenamedWeights: WeightSource {
  private let source: any WeightSource
  private let keys: (String) -> [String]

  /// Makes a source; `keys` maps a key to those keys of `source` whose tensors are concatenated along
  /// the first axis, or to none for a fixed table.
  package init(_ source: any WeightSource, keys: @escaping (String) -> [String]) {
    self.source = source
    self.keys = keys
  }

  package func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
    let parts = keys(name)
    if parts.isEmpty, case .table(let values) = initializer { return Tensor(values, shape: shape) }
    if parts.count == 1 { return try source.tensor(parts[0], shape, initializer) }
    precondition(
      !parts.isEmpty && shape[0] % parts.count == 0, "\(name): \(shape) from \(parts.count) tensors"
    )
    let rows = shape[0] / parts.count
    let result = Tensor(shape)
    for (index, part) in parts.enumerated() {
      result.rows((index * rows)..<((index + 1) * rows))
        .assign(try source.tensor(part, [rows] + shape.dropFirst(), initializer))
    }
    return result
  }
}
