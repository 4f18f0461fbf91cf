import Autograd
import Checkpoints
import Files
import Nn
import TensorCore

extension DiffusionTrainer {
  /// What a checkpoint holds of the training: every trained parameter with its average and moments.
  ///
  /// The elements are fetched when they are written, so that no second copy is made.
  package func checkpointItems() -> [TensorItem] {
    optimizer.parameters.indices.flatMap { index in
      state(of: index).map { prefix, tensor in
        TensorItem(name: prefix + optimizer.parameters[index].name, tensor)
      }
    }
  }

  /// The metadata that belongs to `checkpointItems`.
  package var checkpointMetadata: [String: String] {
    ["optimizer_steps": String(optimizer.steps)]
  }

  /// Goes on from the tensors of a checkpoint.
  ///
  /// - Throws: `FileError` for a missing tensor, one of another shape, or missing metadata.
  package func restore(from file: SafetensorsFile) throws {
    guard let steps = file.metadata["optimizer_steps"].flatMap(Int.init) else {
      throw FileError(
        "\(file.path): no 'optimizer_steps' in its metadata, so it is no checkpoint of a training;"
          + " move the file away to start anew")
    }
    for (index, parameter) in optimizer.parameters.enumerated() {
      for (prefix, tensor) in state(of: index) {
        let saved = try FileWeights(file, prefix: prefix)
          .tensor(parameter.name, tensor.shape, .zeros)
        if prefix == "model." { parameter.assign(saved) } else { tensor.assign(saved) }
      }
    }
    optimizer.steps = steps
  }

  /// The tensors of one trained parameter under their prefixes.
  private func state(of index: Int) -> [(prefix: String, tensor: Tensor)] {
    [
      ("model.", optimizer.parameters[index].value), ("ema.", ema.averages[index]),
      ("first.", optimizer.first[index]), ("second.", optimizer.second[index]),
    ]
  }

  /// Writes the model with its averaged weights, adapters merged into them.
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

extension TensorItem {
  /// An item whose elements are taken from a tensor when they are written.
  package init(name: String, _ tensor: Tensor) {
    self.init(name: name, shape: tensor.shape) { tensor.values }
  }
}
