import Plans

extension ModelShape {
  /// The published sizes (Peebles and Xie, "Scalable Diffusion Models with Transformers", table 1).
  private static var sizes: [(name: String, depth: Int, hiddenSize: Int, numHeads: Int)] {
    [("S", 12, 384, 6), ("B", 12, 768, 12), ("L", 24, 1024, 16), ("XL", 28, 1152, 16)]
  }
  private static var patchSizes: [Int] { [2, 4, 8] }
  /// Pixels per latent position of their autoencoder.
  package static var pixelsPerLatent: Int { 8 }

  /// Looks up a published model by name, such as `DiT-XL/2`; nil if there is none.
  ///
  /// - Parameters:
  ///   - name: `DiT-` with S, B, L or XL, a slash, and the patch size 2, 4 or 8.
  ///   - imageSize: Side of the images in pixels, 256 or 512.
  ///   - numClasses: Number of classes, 1000 for ImageNet.
  package init?(named name: String, imageSize: Int = 256, numClasses: Int = 1000) {
    guard imageSize == 256 || imageSize == 512 else { return nil }
    for size in Self.sizes {
      for (family, patch) in [ModelFamily.dit, .sit].flatMap({ family in
        Self.patchSizes.map { (family, $0) }
      }) where name == "\(family.title)-\(size.name)/\(patch)" {
        self.init(
          family: family,
          depth: size.depth, hiddenSize: size.hiddenSize, numHeads: size.numHeads, patchSize: patch,
          inputSize: imageSize / Self.pixelsPerLatent, numClasses: numClasses)
        return
      }
    }
    return nil
  }

  /// Number of heads of the published model with a depth and hidden size, those of LightningDiT included; nil if
  /// there is none.
  static func publishedHeads(depth: Int, hiddenSize: Int) -> Int? {
    let larger = [("1p0B", 24, 1536, 24), ("1p6B", 28, 1792, 28)]
    return (sizes + larger).first { $0.1 == depth && $0.2 == hiddenSize }?.3
  }

  /// Name of the published model of this architecture, or nil.
  package var publishedName: String? {
    guard [.dit, .sit].contains(self.family), !hasModernBlocks else { return nil }
    return Self.sizes.first {
      $0.depth == self.depth && $0.hiddenSize == self.hiddenSize && $0.numHeads == self.numHeads
        && Self.patchSizes.contains(self.patchSize)
    }.map { "\(self.family.title)-\($0.name)/\(self.patchSize)" }
  }
}
