import Autograd
import Checkpoints
import Files
import Operators
import Plans

/// Parts of LightningDiT's blocks in a state dict, by names and shapes of its tensors.
struct DetectedBlocks {
  let rmsNorm, queryKeyNorm, rotary, swiglu, mlpBias, blockShift: Bool
  /// Attention heads, if a tensor of one head shows them.
  let heads: Int?
  /// Ratio of the MLPs' width before gating to the hidden size; nil without gated MLPs.
  let gatedRatio: Double?

  /// Tables of rotary positions, cosines and sines, which are computed.
  static let rotation = ["feat_rope.freqs_cos", "feat_rope.freqs_sin"]

  /// Whether the blocks have any part of LightningDiT's.
  static func areModern(in file: any TensorFile) -> Bool {
    (rotation + ["blocks.0.norm1.weight", "blocks.0.attn.q_norm.weight"])
      .contains { file.entry($0) != nil } || hasGatedMLPs(in: file)
  }

  /// Whether most MLPs are gated; single ones may be replacements.
  private static func hasGatedMLPs(in file: any TensorFile) -> Bool {
    let names = file.names.filter { $0.hasPrefix("blocks.") }
    let gated = names.count { $0.hasSuffix(".mlp.w12.weight") }
    return gated > names.count { $0.hasSuffix(".mlp.fc1.weight") }
  }

  /// Throws for models around such blocks that are built otherwise.
  static func requireKnownParts(in file: any TensorFile) throws(FileError) {
    for (name, what) in [
      ("t_embedder.W", "of Fourier features of the time, as RAE's"),
      ("s_embedder.proj.weight", "of a wide head behind the blocks, as RAE's and DDT's"),
      ("x_embedder.proj1.weight", "of an embedding of pixels with a bottleneck, as JiT's"),
      ("in_context_posemb", "of tokens for the class, as JiT's"),
    ] where file.entry(name) != nil {
      throw FileError(
        "\(file.path): tensor '\(name)' is that \(what), which is not built; use a model with the embeddings of"
          + " LightningDiT")
    }
  }

  /// Reads a state dict.
  ///
  /// - Throws: `FileError` that names a tensor of other blocks.
  init(in tensors: OfficialTensors, hiddenSize: Int, depth: Int) throws(FileError) {
    let file = tensors.file
    func first(_ suffix: String) -> TensorEntry? {
      (0..<depth).lazy.compactMap { file.entry("blocks.\($0).\(suffix)") }.first
    }
    func refuse(_ name: String, _ expected: String) throws(FileError) -> Never {
      throw FileError(
        "\(file.path): tensor '\(name)' belongs to blocks that cannot be built, expected \(expected); use a model"
          + " with the blocks of DiT or LightningDiT")
    }
    rmsNorm = file.entry("blocks.0.norm1.weight") != nil
    if let bias = first("norm1.bias") { try refuse(bias.name, "norms without biases") }
    let norm = first("attn.q_norm.weight")
    queryKeyNorm = norm != nil
    if let norm, (first("attn.q_norm.bias") == nil) != rmsNorm {
      try refuse(norm.name, "norms of queries and keys of the kind of the blocks' norms")
    }
    let table = Self.rotation.lazy.compactMap(file.entry).first
    rotary = table != nil
    let headDim = norm?.shape.last ?? table?.shape.last
    heads = headDim.flatMap { $0 > 0 && hiddenSize % $0 == 0 ? hiddenSize / $0 : nil }
    swiglu = Self.hasGatedMLPs(in: file)
    mlpBias = !swiglu || first("mlp.w12.bias") != nil
    let rows = try tensors.shape("blocks.0.adaLN_modulation.1.weight", rank: 2)[0]
    try tensors.require(
      rows == 6 * hiddenSize || rows == 4 * hiddenSize, "blocks.0.adaLN_modulation.1.weight",
      "\(6 * hiddenSize) rows, or \(4 * hiddenSize) without shifts")
    blockShift = rows == 6 * hiddenSize
    gatedRatio =
      swiglu
      ? first("mlp.w3.weight").flatMap { $0.shape.last }.map {
        Self.ratio(gated: $0, hiddenSize: hiddenSize)
      } : nil
  }

  /// The ratio whose gated MLP has this inner width; 4 if that is one.
  private static func ratio(gated width: Int, hiddenSize: Int) -> Double {
    func gives(_ plain: Int) -> Bool { Int(2.0 / 3.0 * Double(plain)) == width }
    if gives(4 * hiddenSize) { return 4 }
    let start = 3 * width / 2
    let plain = (start..<(start + 3)).first(where: gives) ?? start
    return MLP.ratio(hidden: plain, to: hiddenSize)
  }

  /// Throws if stored tables of rotary positions are not those of integer coordinates with base 10000.
  static func requireKnownRotation(in file: any TensorFile, _ shape: ModelShape) throws(FileError) {
    let headDim = shape.hiddenSize / shape.numHeads
    let table = RotaryTables(side: shape.grid)(
      rows: shape.grid, columns: shape.grid, headDim: headDim)
    for (place, name) in rotation.enumerated() where file.entry(name) != nil {
      let stored = try file.floats(name)
      // Tolerance of tables rounded to bfloat16.
      let isKnown =
        stored.count == table.count
        && stored.indices.allSatisfy { abs(stored[$0] - table[$0 - $0 % 2 + place]) < 5e-3 }
      if isKnown { continue }
      throw FileError(
        "\(file.path): tensor '\(name)' differs from the rotary positions of a grid of \(shape.grid) by"
          + " \(shape.grid) tokens with heads of \(headDim) channels and base 10000, which are computed; use a model"
          + " with those")
    }
  }
}
