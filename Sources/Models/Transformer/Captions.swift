import Checkpoints
import Files
import TensorCore

/// Precomputed text embeddings of captions for a text-conditional model.
package struct Captions {
  /// Output of the text encoder (count, length, channels).
  package let embeddings: Tensor
  /// Attention mask (count, length): 1 for tokens, 0 for padding.
  package let mask: Tensor

  /// Number of captions.
  package var count: Int { embeddings.shape[0] }
  /// Padded length in tokens.
  package var length: Int { embeddings.shape[1] }
  /// Width of an embedding.
  package var channels: Int { embeddings.shape[2] }

  /// Wraps embeddings (count, length, channels) and a mask (count, length); nil attends to all tokens.
  package init(embeddings: Tensor, mask: Tensor? = nil) {
    precondition(
      embeddings.shape.count == 3 && (mask == nil || mask?.shape == Array(embeddings.shape[..<2])),
      "Captions: embeddings \(embeddings.shape), mask \(mask?.shape ?? [])")
    self.embeddings = embeddings
    self.mask = mask ?? .full(Array(embeddings.shape[..<2]), 1)
  }

  /// Returns the captions at `indices`, in that order, padded to `length` tokens.
  package func selecting(_ indices: [Int], length: Int) -> Captions {
    precondition(length >= self.length, "Captions: \(self.length) tokens cut to \(length)")
    return copied(indices, length: length)
  }

  /// Returns the captions at `indices`, padded or truncated to `length` tokens.
  private func copied(_ indices: [Int], length: Int) -> Captions {
    let result = Captions(
      embeddings: .zeros([indices.count, length, channels]), mask: .zeros([indices.count, length]))
    let kept = min(length, self.length)
    for (row, index) in indices.enumerated() {
      (result.embeddings.pointer + row * length * channels).update(
        from: embeddings.pointer + index * self.length * channels, count: kept * channels)
      (result.mask.pointer + row * length).update(
        from: mask.pointer + index * self.length, count: kept)
    }
    return result
  }

  /// Returns the captions without the trailing padding that all of them share.
  ///
  /// If a caption is all padding, attention is uniform over that padding, so nothing is removed.
  package func trimmed() -> Captions {
    var used = 1
    for row in 0..<count {
      guard let last = (0..<length).last(where: { mask[row * length + $0] != 0 }) else {
        return self
      }
      used = max(used, last + 1)
    }
    return copied(Array(0..<count), length: used)
  }

  /// Number of tokens of a caption up to the last one that is attended to, at least 1.
  package func tokens(of row: Int) -> Int {
    (0..<length).last { mask[row * length + $0] != 0 }.map { $0 + 1 } ?? 1
  }

  /// Joins captions of equal width, at least one, padded to the longest.
  package static func joined(_ parts: [Captions]) -> Captions {
    precondition(!parts.isEmpty, "Captions: none to join")
    let length = parts.map(\.length).max() ?? 0
    let count = parts.reduce(0) { $0 + $1.count }
    let result = Captions(embeddings: Tensor([count, length, parts[0].channels]))
    var row = 0
    for part in parts {
      let padded = part.selecting(Array(0..<part.count), length: length)
      result.embeddings.rows(row..<(row + part.count)).assign(padded.embeddings)
      result.mask.rows(row..<(row + part.count)).assign(padded.mask)
      row += part.count
    }
    return result
  }

  /// Returns these captions followed by `others`, all padded to the longer length.
  package func followed(by others: Captions) -> Captions {
    .joined([self, others])
  }
}

extension Captions {
  /// Tensor names in files of diffusers' pipelines, and in PixArt's feature files.
  private static let embeddingNames = ["prompt_embeds", "caption_feature"]
  private static let maskNames = ["prompt_attention_mask", "attention_mask"]

  /// Reads `prompt_embeds` (count, length, channels) or (length, channels) and the optional
  /// `prompt_attention_mask` (count, length) or (length) from a file.
  ///
  /// - Parameters:
  ///   - path: Path of the file.
  ///   - channels: Width of an embedding that the model requires.
  /// - Throws: `FileError` for another format, a missing tensor, a shape that does not fit, or values that
  ///   are not finite.
  package init(path: String, channels: Int) throws(FileError) {
    let file = try Checkpoint.open(path)
    let name =
      file.names.count == 1
      ? file.names.first : Self.embeddingNames.first { file.entry($0) != nil }
    guard let name, let entry = file.entry(name) else {
      throw FileError(
        "\(path): has no tensor 'prompt_embeds' among its \(file.names.count); save the text"
          + " encoder's output under that name")
    }
    let shape = entry.shape.count == 2 ? [1] + entry.shape : entry.shape
    guard shape.count == 3, shape[2] == channels, shape[0] > 0, shape[1] > 0 else {
      throw FileError(
        "\(path): tensor '\(name)' has shape \(entry.shape), expected captions by tokens by"
          + " \(channels); use the embeddings of the model's own text encoder")
    }
    let embeddings = Tensor(try file.floats(name), shape: shape)
    if let place = embeddings.firstNonFinite {
      throw FileError(
        "\(path): tensor '\(name)' holds a value that is not finite in caption \(place[0]), token"
          + " \(place[1]); run the text encoder in float32 or bfloat16 and save its output again")
    }
    let maskName = Self.maskNames.first { file.entry($0) != nil }
    guard let maskName, let maskEntry = file.entry(maskName) else {
      self.init(embeddings: embeddings)
      return
    }
    let values = try file.floats(maskName)
    guard values.count == shape[0] * shape[1], maskEntry.shape.last == shape[1],
      values.allSatisfy({ $0 == 0 || $0 == 1 })
    else {
      throw FileError(
        "\(path): tensor '\(maskName)' of shape \(maskEntry.shape) is no mask of"
          + " \(Array(shape[..<2])) zeros and ones; save it with the embeddings")
    }
    self.init(embeddings: embeddings, mask: Tensor(values, shape: Array(shape[..<2])))
  }
}
