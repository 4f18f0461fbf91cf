import Plans

extension ModelShape {
  /// The published sizes (Peebles and Xie, "Scalable Diffusion Models with Transformers", table 1).
  private static let sizes: [(name: String, depth: Int, hiddenSize: Int, numHeads: Int)] = [
    ("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16),
  ]
  private static let patchSizes = [2, 4, 8]
  /// Pixels per latent position of the autoencoder that they were published with.
  package static let pixelsPerLatent = 8

  /// A published model by its name, such as `DiT-XL/2`; nil if there is no such model.
  ///
  /// - Parameters:
  ///   - name: `DiT-` with S, B, L or XL, a slash, and the patch size 2, 4 or 8.
  ///   - imageSize: Side of the images in pixels, 256 or 512.
  ///   - numClasses: Classes, 1000 for ImageNet.
  package init?(named name: String, imageSize: Int = 256, numClasses: Int = 1000) {
    guard imageSize == 256 || imageSize == 512 else { return nil }
    for size in Self.sizes {
      for patch in Self.patchSizes where name == "DiT-\(size.name)/\(patch)" {
        self.init(
          depth: size.depth, hiddenSize: size.hiddenSize, numHeads: size.numHeads, patchSize: patch,
          inputSize: imageSize / Self.pixelsPerLatent, numClasses: numClasses)
        return
      }
    }
    return nil
  }

  /// The attention heads of the published models of a depth and hidden size; nil if there are none.
  static func publishedHeads(depth: Int, hiddenSize: Int) -> Int? {
    sizes.first { $0.depth == depth && $0.hiddenSize == hiddenSize }?.numHeads
  }

  /// The name of the published model of this size, or nil.
  package var publishedName: String? {
    Self.sizes.first {
      $0.depth == depth && $0.hiddenSize == hiddenSize && $0.numHeads == numHeads
        && Self.patchSizes.contains(patchSize)
    }.map { "DiT-\($0.name)/\(patchSize)" }
  }
}
