import Models
import TensorCore

/// Captions of the samples of a data set, read one at a time.
package struct CaptionSource {
  /// Caption that dropped ones are replaced by; nil drops none.
  package var null: Captions?
  /// Number of tokens of the longest caption.
  package let length: Int
  /// Width of an embedding.
  package let channels: Int
  /// Copies the embeddings (tokens, channels) and the mask (tokens) of a sample into zeroed buffers for `length`
  /// tokens; called from any thread.
  package let read: (Int, UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>) -> Void

  package init(
    null: Captions? = nil, length: Int, channels: Int,
    read: @escaping (Int, UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>) -> Void
  ) {
    (self.null, self.length, self.channels, self.read) = (null, length, channels, read)
  }

  /// Captions of samples; nil in place of a sample stands for the null caption.
  package func captions(_ indices: [Int?]) -> Captions {
    let length = max(self.length, null?.length ?? 0)
    let result = Captions(
      embeddings: .zeros([indices.count, length, channels]), mask: .zeros([indices.count, length]))
    let dropped = null?.selecting([0], length: length)
    for (row, index) in indices.enumerated() {
      let (embedding, mask) = (
        result.embeddings.pointer + row * length * channels, result.mask.pointer + row * length
      )
      if let index {
        read(index, embedding, mask)
      } else if let dropped {
        embedding.update(from: dropped.embeddings.pointer, count: length * channels)
        mask.update(from: dropped.mask.pointer, count: length)
      }
    }
    return result.trimmed()
  }
}
