import Checkpoints
import Files

extension DiTConfig {
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

  /// The name of the published model of this size, or nil.
  package var publishedName: String? {
    Self.sizes.first {
      $0.depth == depth && $0.hiddenSize == hiddenSize && $0.numHeads == numHeads
        && Self.patchSizes.contains(patchSize)
    }.map { "DiT-\($0.name)/\(patchSize)" }
  }

  /// Reads the configuration off the names and shapes of official weights.
  ///
  /// - Parameters:
  ///   - file: The state dict.
  ///   - numHeads: Attention heads, which no shape shows; nil takes those of the published model of
  ///     this depth and hidden size.
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the tensor that is missing or does not fit.
  package static func detect(in file: any TensorFile, numHeads: Int? = nil) throws -> DiTConfig {
    func shape(_ name: String, rank: Int) throws(FileError) -> [Int] {
      guard let entry = file.entry(name) else {
        throw FileError(
          "\(file.path): has no tensor '\(name)', which every DiT has, and no configuration;"
            + " use the weights of a DiT")
      }
      guard entry.shape.count == rank else {
        throw FileError(
          "\(file.path): tensor '\(name)' has shape \(entry.shape), expected \(rank) axes;"
            + " use the weights of a DiT")
      }
      return entry.shape
    }
    func require(_ holds: Bool, _ name: String, _ expected: String) throws(FileError) {
      if holds { return }
      throw FileError(
        "\(file.path): tensor '\(name)' has shape \(file.entry(name)?.shape ?? []), expected"
          + " \(expected); use the weights of a DiT")
    }
    let patch = try shape("x_embedder.proj.weight", rank: 4)
    let (hiddenSize, channels) = (patch[0], patch[1])
    try require(patch[2] == patch[3] && hiddenSize > 0, "x_embedder.proj.weight", "square patches")
    let tokens = try shape("pos_embed", rank: 3)[1]
    let grid = Int(Double(tokens).squareRoot().rounded())
    try require(grid > 0 && grid * grid == tokens, "pos_embed", "a square number of tokens")
    let classes = try shape("y_embedder.embedding_table.weight", rank: 2)[0]
    try require(
      classes > 1, "y_embedder.embedding_table.weight", "a row per class and one for no class")
    let outputs = try shape("final_layer.linear.weight", rank: 2)[0]
    let perChannel = patch[2] * patch[2] * channels
    try require(
      outputs == perChannel || outputs == 2 * perChannel, "final_layer.linear.weight",
      "\(perChannel) or \(2 * perChannel) rows")
    var depth = 0
    while file.entry("blocks.\(depth).adaLN_modulation.1.weight") != nil { depth += 1 }
    _ = try shape("blocks.0.adaLN_modulation.1.weight", rank: 2)
    var ratio = 4.0
    for block in 0..<depth {
      let name = "blocks.\(block).mlp.fc1.weight"
      if let entry = file.entry(name), entry.shape.count == 2 {
        ratio = Double(entry.shape[0]) / Double(hiddenSize)
        break
      }
    }
    let published = sizes.first { $0.depth == depth && $0.hiddenSize == hiddenSize }?.numHeads
    guard let heads = numHeads ?? published else {
      throw FileError(
        "\(file.path): no published DiT has depth \(depth) and hidden size \(hiddenSize), so its"
          + " number of attention heads is unknown; state it in '\(file.path).json' as"
          + " {\"config\": {\"num_heads\": N}}")
    }
    let config = DiTConfig(
      depth: depth, hiddenSize: hiddenSize, numHeads: heads, patchSize: patch[2],
      inputSize: grid * patch[2], inChannels: channels, numClasses: classes - 1,
      learnSigma: outputs == 2 * perChannel, mlpRatio: ratio)
    try config.validate(file.path)
    return config
  }
}
