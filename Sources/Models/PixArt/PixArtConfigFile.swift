import Checkpoints
import Files
import Foundation
import Plans

extension PixArtConfig {
  /// Supported entries of diffusers' `config.json`; null equals absent.
  private struct Stored: Decodable {
    struct Compression: Decodable {
      var factor: Int
      var layers: [Int]
    }
    var numAttentionHeads, attentionHeadDim, numLayers, captionChannels: Int
    var inChannels, outChannels, patchSize, sampleSize, crossAttentionDim: Int?
    var interpolationScale, normEps: Double?
    var useAdditionalConditions, attentionBias, normElementwiseAffine: Bool?
    var onlyCrossAttention, doubleSelfAttention: Bool?
    var normType, activationFn, attentionType, _className: String?
    var kvCompression: Compression?
  }

  /// Reads the text of a diffusers `config.json`, extended by `kv_compression` with `factor` and
  /// `layers`.
  ///
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the key at fault.
  package static func parse(_ json: Data, file: String) throws(FileError) -> PixArtConfig {
    let source = ConfigFile(path: file, model: "PixArtTransformer2DModel")
    let stored: Stored = try source.decode(json)
    let (dim, overflow) = stored.numAttentionHeads.multipliedReportingOverflow(
      by: stored.attentionHeadDim)
    let sampleSize = stored.sampleSize ?? 128
    let inChannels = stored.inChannels ?? 4
    let outChannels = stored.outChannels ?? inChannels
    try source.require(
      (1...4096).contains(inChannels) && [inChannels, 2 * inChannels].contains(outChannels),
      "out_channels", outChannels, "as many as the \(inChannels) input channels, or twice as many")
    let config = PixArtConfig(
      depth: stored.numLayers, hiddenSize: overflow ? -1 : dim,
      numHeads: stored.numAttentionHeads, patchSize: stored.patchSize ?? 2,
      sampleSize: sampleSize, inChannels: inChannels, learnSigma: outChannels == 2 * inChannels,
      captionChannels: stored.captionChannels,
      interpolationScale: stored.interpolationScale
        ?? defaultInterpolationScale(sampleSize: sampleSize),
      normEpsilon: stored.normEps ?? 1e-6,
      keyCompression: stored.kvCompression.map {
        KeyCompression(factor: $0.factor, layers: Set($0.layers))
      })
    try config.validate(file)
    try refuseVariants(stored, dim: dim, sampleSize: sampleSize, file: file)
    return config
  }

  /// Throws for unsupported variants of the same class.
  private static func refuseVariants(
    _ stored: Stored, dim: Int, sampleSize: Int, file: String
  ) throws(FileError) {
    // diffusers assumes size conditions (PixArt-α at 1024 pixels) for this size by default.
    let hasSizes = stored.useAdditionalConditions ?? (sampleSize == 128)
    let source = ConfigFile(path: file, model: "PixArt-Σ transformer")
    try source.require(
      !hasSizes, "use_additional_conditions",
      stored.useAdditionalConditions.map(String.init) ?? "absent at sample_size 128",
      "false as in PixArt-Σ")
    try source.require(
      [nil, "ada_norm_single"].contains(stored.normType), "norm_type", stored.normType ?? "",
      "'ada_norm_single'")
    try source.require(
      [nil, "gelu-approximate"].contains(stored.activationFn), "activation_fn",
      stored.activationFn ?? "", "'gelu-approximate'")
    try source.require(stored.attentionBias ?? true, "attention_bias", false, "true")
    try source.require(
      [nil, "PixArtTransformer2DModel", "Transformer2DModel"].contains(stored._className),
      "_class_name", stored._className ?? "", "PixArtTransformer2DModel or Transformer2DModel")
    try source.require(
      stored.attentionType ?? "default" == "default", "attention_type", stored.attentionType ?? "",
      "'default'")
    for (key, value) in [
      ("only_cross_attention", stored.onlyCrossAttention),
      ("double_self_attention", stored.doubleSelfAttention),
    ] { try source.require(value != true, key, true, "false") }
    try source.require(
      stored.normElementwiseAffine != true, "norm_elementwise_affine", true, "false")
    let width = stored.crossAttentionDim ?? dim
    try source.require(
      width == dim, "cross_attention_dim", width, "the hidden size \(dim)")
  }

  /// Infers the configuration from tensors in the original naming, whose files have none.
  ///
  /// Heads are assumed to have width 72, as in every released model, because shapes do not
  /// determine them. The position buffer determines the sample size and
  /// the scale; files without it are taken for the 256-pixel model, the
  /// only released one without.
  ///
  /// - Parameters:
  ///   - file: The weights.
  ///   - numHeads: Attention heads, if they are known otherwise.
  /// - Returns: A configuration without key compression, and what was assumed.
  /// - Throws: `FileError` if a required tensor is missing or the heads cannot be told.
  static func inferred(
    from file: any TensorFile, numHeads: Int? = nil
  ) throws(FileError) -> (config: PixArtConfig, notes: [String]) {
    func shape(_ name: String, rank: Int) throws(FileError) -> [Int] {
      if let entry = file.entry(name), entry.shape.count == rank { return entry.shape }
      throw FileError(
        "\(file.path): tensor '\(name)' is missing or not \(rank)-dimensional, and there is no"
          + " config.json; put the model's config.json beside the weights")
    }
    var notes: [String] = []
    let patch = try shape("x_embedder.proj.weight", rank: 4)
    let outputs = try shape("final_layer.linear.weight", rank: 2)
    let dim = patch[0]
    guard numHeads != nil || (dim % 72 == 0 && dim > 0) else {
      throw FileError(
        "\(file.path): a hidden size of \(dim) does not divide into heads of 72, and there is no"
          + " config.json; put the model's config.json beside the weights")
    }
    var sampleSize = 256 / ModelShape.pixelsPerLatent
    var scale: Double?
    if file.entry("pos_embed") != nil {
      let positions = try shape("pos_embed", rank: 3)
      sampleSize = Int(Double(positions[1]).squareRoot().rounded()) * patch[2]
      scale = interpolationScale(of: try file.floats("pos_embed"), dim: dim)
    } else {
      notes.append(
        "\(file.path): has no 'pos_embed' and no config.json, so it is taken for the model of 256 pixels; state"
          + " \"sample_size\" and \"interpolation_scale\" in a config.json beside it for another")
    }
    var depth = 0
    while file.entry("blocks.\(depth).scale_shift_table") != nil { depth += 1 }
    let config = PixArtConfig(
      depth: depth, hiddenSize: dim, numHeads: numHeads ?? dim / 72, patchSize: patch[2],
      sampleSize: sampleSize, inChannels: patch[1],
      learnSigma: outputs[0] == 2 * patch[1] * patch[2] * patch[2],
      captionChannels: try shape("y_embedder.y_proj.fc1.weight", rank: 2)[1],
      interpolationScale: scale ?? Double(sampleSize) / 64)
    try config.validate(file.path)
    return (config, notes)
  }

  /// Interpolation scale of a stored position table; nil for a table that is no sin-cos table of a square.
  ///
  /// The table begins with the sine of the column and, a quarter of the width later, its cosine; the column of the
  /// second token is 1 / scale.
  private static func interpolationScale(of values: [Float], dim: Int) -> Double? {
    let grid = Int(Double(values.count / max(1, dim)).squareRoot().rounded())
    guard dim >= 4, dim % 4 == 0, grid > 1, values.count == grid * grid * dim else { return nil }
    let column = atan2(Double(values[dim]), Double(values[dim + dim / 4]))
    guard column > 1e-3 else { return nil }
    let scale = (1e4 / column).rounded() / 1e4
    let sides = (0..<grid).map { Double($0) / scale }
    let table = PositionTable.values(rows: sides, columns: sides, dim: dim)
    return zip(values, table).allSatisfy { abs($0 - $1) < 1e-2 } ? scale : nil
  }

  /// Layers whose attention has a downsampling convolution of keys and values, and its kernel size.
  static func compression(in file: any TensorFile, depth: Int) throws(FileError)
    -> KeyCompression?
  {
    var result: KeyCompression?
    for layer in 0..<depth {
      let name = "blocks.\(layer).attn.sr.weight"
      guard let entry = file.entry(name) else { continue }
      let factor = entry.shape.last ?? 0
      guard result == nil || result?.factor == factor else {
        throw FileError(
          "\(file.path): tensor '\(name)' has shape \(entry.shape), expected the kernel of the other"
            + " layers; check that the file holds one PixArt")
      }
      result = KeyCompression(factor: factor, layers: (result?.layers ?? []).union([layer]))
    }
    return result
  }

  /// Entries of diffusers' `config.json`, with `kv_compression` if there is any.
  package var diffusersForm: [String: Any] {
    var form: [String: Any] = [
      "_class_name": "PixArtTransformer2DModel", "num_attention_heads": shape.numHeads,
      "attention_head_dim": shape.hiddenSize / shape.numHeads, "num_layers": shape.depth,
      "in_channels": shape.inChannels, "out_channels": shape.outChannels,
      "patch_size": shape.patchSize, "sample_size": shape.inputSize,
      "caption_channels": shape.captionChannels, "cross_attention_dim": shape.hiddenSize,
      "interpolation_scale": interpolationScale, "norm_eps": normEpsilon,
      "norm_type": "ada_norm_single", "activation_fn": "gelu-approximate", "attention_bias": true,
      "norm_elementwise_affine": false, "use_additional_conditions": false,
      "num_embeds_ada_norm": 1000, "norm_num_groups": 32, "upcast_attention": false, "dropout": 0.0,
    ]
    if let keyCompression {
      form["kv_compression"] = [
        "factor": keyCompression.factor, "layers": keyCompression.layers.sorted(),
      ]
    }
    return form
  }

  /// The metadata entry `config`.
  ///
  /// - Throws: Never in practice; encoding could.
  func json() throws -> String {
    String(
      decoding: try JSONSerialization.data(withJSONObject: diffusersForm, options: [.sortedKeys]),
      as: UTF8.self)
  }
}
