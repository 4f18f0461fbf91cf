import Checkpoints
import Files
import Foundation
import Nn
import TensorCore

/// Small convolutional classifier of generated images, whose features replace those of Inception.
package final class ShapeJudge {
  /// Features and logits of a batch.
  package struct Verdict {
    /// Mean activation per channel before the last layer (batch, features).
    package let features: Tensor
    /// Unnormalised scores (batch, classes).
    package let logits: Tensor

    package init(features: Tensor, logits: Tensor) {
      (self.features, self.logits) = (features, logits)
    }

    /// The class with the highest score, per row.
    package var classes: [Int] {
      let width = logits.shape[1]
      return (0..<logits.shape[0]).map { row in
        let scores = logits.rows(row..<(row + 1)).values
        return (0..<width).max { scores[$0] < scores[$1] } ?? 0
      }
    }

    /// The softmax of the scores (batch, classes).
    package var probabilities: Tensor {
      let result = Tensor(logits.shape)
      for row in 0..<logits.shape[0] {
        let scores = logits.rows(row..<(row + 1)).values.map(Double.init)
        let highest = scores.max() ?? 0
        let powers = scores.map { exp($0 - highest) }
        let total = powers.reduce(0, +)
        result.rows(row..<(row + 1))
          .assign(Tensor(powers.map { Float($0 / total) }, shape: [1, scores.count]))
      }
      return result
    }
  }

  /// Layers and classes.
  package let config: JudgeConfig
  private let convolutions: [Convolution3x3]
  private let headWeight: Tensor
  private let headBias: Tensor

  /// Loads a safetensors file that carries its layer list as metadata.
  ///
  /// - Throws: `FileError` for an unreadable file, a missing or unexpected key, a wrong shape.
  package init(path: String) throws {
    let file = try SafetensorsFile(path: path)
    let config = try JudgeConfig.find(for: file)
    let weights = WatchedWeights(FileWeights(file))
    convolutions = try config.convolutions.map { layer in
      try Convolution3x3(
        weights, layer.name, layer.in ?? 0, layer.out ?? 0,
        layer.stride == 2 ? .halving(padsAllSides: true) : .none)
    }
    let head = config.layers[config.layers.count - 1]
    headWeight = try weights.tensor(
      head.name + ".weight", [head.out ?? 0, head.in ?? 0], .xavierUniform)
    headBias = try weights.tensor(head.name + ".bias", [head.out ?? 0], .zeros)
    self.config = config
    try weights.requireAllTaken(of: file.names, in: path, model: "judge")
  }

  /// Computes features and logits of images.
  ///
  /// - Parameter images: (batch, 3, H, W), values -1 ... 1.
  /// - Returns: Features and scores.
  package func callAsFunction(_ images: Tensor) -> Verdict {
    let batch = images.shape[0]
    let (classes, width) = (headWeight.shape[0], headWeight.shape[1])
    let features = Tensor([batch, width])
    let step = 8
    for start in stride(from: 0, to: batch, by: step) {
      let range = start..<min(batch, start + step)
      let maps = convolutions.reduce(images.rows(range)) { $1($0, clampsNegative: true) }
      let size = maps.shape[2] * maps.shape[3]
      for index in 0..<(range.count * width) {
        let plane = UnsafeBufferPointer(start: maps.pointer + index * size, count: size)
        features[start * width + index] =
          Float(plane.reduce(0.0) { $0 + Double($1) } / Double(size))
      }
    }
    let logits = Tensor([batch, classes])
    for row in 0..<batch { logits.rows(row..<(row + 1)).assign(headBias) }
    Gemm.run(
      transposeB: true, m: batch, n: classes, k: width, a: features.pointer, b: headWeight.pointer,
      accumulate: true, c: logits.pointer)
    return Verdict(features: features, logits: logits)
  }
}
