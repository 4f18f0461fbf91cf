import Autograd
import TensorCore

/// Times and conditions of the rows of a batch.
package struct Conditioning {
  /// What a model is told about the images beside the time.
  package enum Condition {
    /// One class per row; the class after the last one stands for no class.
    case labels([Int])
    /// Text embeddings (batch, length, channels), and the bias (batch, length) that is added to the attention
    /// scores of their tokens; nil for none.
    case captions(Value, bias: Tensor?)
  }

  /// One per row: timesteps in [0, 1000) of a noise process, times in [0, 1] of a velocity process.
  package let timesteps: [Float]
  package let condition: Condition
  /// Precomputed sinusoidal features (batch, 256); nil computes them.
  package var timestepFeatures: Tensor?

  /// Bias of masked tokens in diffusers.
  package static let maskedScore: Float = -10_000

  package init(timesteps: [Float], condition: Condition) {
    (self.timesteps, self.condition) = (timesteps, condition)
  }

  package init(timesteps: [Float], labels: [Int], timestepFeatures: Tensor? = nil) {
    self.init(timesteps: timesteps, condition: .labels(labels))
    self.timestepFeatures = timestepFeatures
  }

  /// - Parameters:
  ///   - timesteps: One per row.
  ///   - caption: Text embeddings (batch, length, channels).
  ///   - mask: (batch, length), 1 for tokens and 0 for padding; nil attends to all.
  package init(timesteps: [Float], caption: Value, mask: Tensor? = nil) {
    let bias = mask.map { mask in
      let bias = Tensor(mask.shape)
      for index in 0..<mask.count { bias[index] = (1 - mask[index]) * Self.maskedScore }
      return bias
    }
    self.init(timesteps: timesteps, condition: .captions(caption, bias: bias))
  }

  /// Makes the conditioning of captions without the padding that all of them share.
  package init(timesteps: [Float], captions: Captions) {
    let shown = captions.trimmed()
    self.init(timesteps: timesteps, caption: Value(constant: shown.embeddings), mask: shown.mask)
  }
}
