import Datasets
import Models
import Operators
import TensorCore

/// A small PixArt-Σ with open gates, and latents with captions for it.
@MainActor
package enum TinyPixArt {
  package static let captionChannels = 6

  package static func make() throws -> PixArt {
    OperatorRegistry.fillCatalog()
    var config = PixArtConfig(
      depth: 2, hiddenSize: 24, numHeads: 3, patchSize: 1, sampleSize: 4, inChannels: 2,
      captionChannels: captionChannels, interpolationScale: 1)
    config.nullCaptionLength = 3
    return try PixArt(config: config, weights: TinyModel.Noise())
  }

  package static func latents(seed: UInt64) -> LatentDataset {
    var data = TinyModel.latents(seed: seed)
    let random = RandomStream(seed: seed, "captions")
    let all = random.normal([data.count, 4, captionChannels])
    data.texts = CaptionSource(
      null: Captions(embeddings: random.normal([1, 3, captionChannels], from: 10_000)), length: 4,
      channels: captionChannels
    ) { index, embedding, mask in
      // Captions have two to four tokens.
      let tokens = 2 + index % 3
      embedding.update(
        from: all.pointer + index * 4 * captionChannels, count: tokens * captionChannels)
      for token in 0..<tokens { mask[token] = 1 }
    }
    return data
  }
}
