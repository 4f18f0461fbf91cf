import Autograd
import Checkpoints
import Files
import Nn
import TensorCore

extension DiffusionTrainer {
  /// Items of a checkpoint: all trained parameters with their averages and moments.
  ///
  /// The elements are loaded when they are written, without a second copy.
  package func checkpointItems() -> [TensorItem] {
    optimizer.parameters.indices.flatMap { index in
      state(of: index).map { prefix, tensor in
        TensorItem(name: prefix + optimizer.parameters[index].name, tensor)
      }
    }
  }

  /// Metadata of `checkpointItems`.
  package var checkpointMetadata: [String: String] {
    ["optimizer_steps": String(optimizer.steps)]
  }

  /// Restores the state from the tensors of a checkpoint.
  ///
  /// - Parameters:
  ///   - file: The checkpoint.
  ///   - limit: Maximum number of optimizer steps.
  /// - Throws: `FileError` for a missing tensor, another shape, or missing or invalid metadata.
  package func restore(from file: SafetensorsFile, stepsUpTo limit: Int) throws {
    // A training step takes at most one optimizer step.
    let steps = try file.count("optimizer_steps", in: 0...limit)
    for (index, parameter) in optimizer.parameters.enumerated() {
      for (prefix, tensor) in state(of: index) {
        let saved = try FileWeights(file, prefix: prefix)
          .tensor(parameter.name, tensor.shape, .zeros)
        if prefix == "model." { parameter.assign(saved) } else { tensor.assign(saved) }
      }
    }
    optimizer.steps = steps
  }

  /// Tensors of one trained parameter with their key prefixes.
  private func state(of index: Int) -> [(prefix: String, tensor: Tensor)] {
    [
      ("model.", optimizer.parameters[index].value), ("ema.", ema.averages[index]),
      ("first.", optimizer.first[index]), ("second.", optimizer.second[index]),
    ]
  }

  /// Writes the model with averaged weights and merged adapters.
  ///
  /// - Throws: `FileError` if the file cannot be written.
  package func saveAveragedModel(to path: String, metadata: [String: String]) throws {
    try withAverages {
      let items = model.parameters.map { parameter in
        TensorItem(name: parameter.name, shape: parameter.shape) {
          parameter.mergedValue.values
        }
      }
      try SafetensorsWriter.write(items, metadata: metadata, to: path)
    }
  }
}

extension SafetensorsFile {
  /// Reads a count from the metadata of a checkpoint.
  ///
  /// - Throws: `FileError` for an entry that is missing, no whole number or out of range.
  package func count(_ key: String, in range: ClosedRange<Int>) throws(FileError) -> Int {
    let text = metadata[key]
    if let count = text.flatMap(Int.init), range.contains(count) { return count }
    throw FileError(
      "\(path): '\(key)' in its metadata is \(text.map { "'\($0.prefix(40))'" } ?? "missing"), expected"
        + " \(range.lowerBound) to \(range.upperBound); the checkpoint is damaged, go on from another one"
        + " by 'espalier runs retry RUN --step N', or move it away to start anew")
  }
}

extension TensorItem {
  /// Makes an item whose elements are read from a tensor when it is written.
  package init(name: String, _ tensor: Tensor) {
    self.init(name: name, shape: tensor.shape) { tensor.values }
  }
}
