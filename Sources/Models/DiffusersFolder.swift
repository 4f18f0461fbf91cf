import Files
import Foundation

/// A folder of diffusers: one model with its `config.json`, or a pipeline with one in `transformer`.
package struct DiffusersFolder {
  /// The folder of the transformer.
  package let transformer: String
  /// The folder of the autoencoder beside it, if there is one.
  package let autoencoder: String?
  /// Class names of the pipeline, by label; empty without them.
  package let classNames: [String]

  private static let sizeLimit = 16 << 20

  /// Whether a path is a folder, so that it must be one of diffusers.
  package static func isFolder(_ path: String) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
      && isFolder.boolValue
  }

  /// Finds the parts of a folder.
  ///
  /// - Throws: `FileError` if it holds no transformer of diffusers.
  package init(_ path: String) throws(FileError) {
    let isPipeline = Self.isFolder("\(path)/transformer")
    transformer = isPipeline ? "\(path)/transformer" : path
    guard access("\(transformer)/config.json", F_OK) == 0 else {
      throw FileError(
        "\(path): is a folder without 'transformer/config.json' or 'config.json';"
          + " name a model file or a folder of diffusers")
    }
    let pipeline = isPipeline ? path : "\(path)/.."
    autoencoder = Self.isFolder("\(pipeline)/vae") ? "\(pipeline)/vae" : nil
    classNames = try Self.classNames("\(pipeline)/model_index.json")
  }

  /// The weights in a folder: one safetensors file, an index of several, or a PyTorch file.
  ///
  /// - Throws: `FileError` if there are none.
  package static func weights(in folder: String) throws(FileError) -> String {
    let stem = "diffusion_pytorch_model"
    let names = [
      "\(stem).safetensors", "\(stem).safetensors.index.json", "\(stem).bin",
      "\(stem).fp16.safetensors",
    ]
    for name in names where access("\(folder)/\(name)", F_OK) == 0 { return "\(folder)/\(name)" }
    throw FileError(
      "\(folder): has no weights under the names of diffusers, such as '\(names[0])';"
        + " put them beside config.json")
  }

  /// `id2label` of a pipeline, if it names the classes 0, 1, 2 and so on.
  private static func classNames(_ path: String) throws(FileError) -> [String] {
    struct Index: Decodable { let id2label: [String: String]? }
    guard access(path, F_OK) == 0 else { return [] }
    let text = try AtomicFile.read(path, limit: sizeLimit)
    let labels = (try? JSONDecoder().decode(Index.self, from: Data(text)))?.id2label ?? [:]
    let names = (0..<labels.count).compactMap { labels[String($0)] }
    return names.count == labels.count ? names : []
  }

  /// The shape and conventions of a `DiTTransformer2DModel`, from its `config.json`.
  ///
  /// Its timesteps' sinusoids and the layer norm before the MLP differ from the official model;
  /// the configuration keeps them (diffusers `embeddings.py`, `attention.py`).
  /// - Parameter path: The configuration.
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the key at fault.
  package static func config(_ path: String) throws -> DiTConfig {
    let text = try AtomicFile.read(path, limit: sizeLimit)
    let decoder = JSONDecoder()
    let stored: StoredConfig
    do {
      stored = try decoder.decode(StoredConfig.self, from: Data(text))
    } catch DecodingError.keyNotFound(let key, _) {
      throw FileError(
        "\(path): has no '\(key.stringValue)'; use the config.json of a DiTTransformer2DModel")
    } catch {
      throw FileError(
        "\(path): is no configuration of a DiTTransformer2DModel; fetch it again")
    }
    try stored.check(path)
    let config = stored.config
    try config.validate(path)
    return config
  }

  /// The keys of `config.json` that decide what the model computes.
  private struct StoredConfig: Decodable {
    let className: String?
    let heads, headDim, inChannels: Int
    let outChannels: Int?
    let depth, patchSize, sampleSize, classes: Int
    let normType, activation: String?
    let normEpsilon: Double?
    let attentionBias, affine: Bool?

    private enum CodingKeys: String, CodingKey {
      case className = "_class_name"
      case heads = "num_attention_heads"
      case headDim = "attention_head_dim"
      case inChannels = "in_channels"
      case outChannels = "out_channels"
      case depth = "num_layers"
      case patchSize = "patch_size"
      case sampleSize = "sample_size"
      case classes = "num_embeds_ada_norm"
      case normType = "norm_type"
      case activation = "activation_fn"
      case normEpsilon = "norm_eps"
      case attentionBias = "attention_bias"
      case affine = "norm_elementwise_affine"
    }

    func check(_ path: String) throws(FileError) {
      func require(_ holds: Bool, _ key: String, _ found: Any, _ expected: String)
        throws(FileError)
      {
        if holds { return }
        throw FileError(
          "\(path): config key '\(key)' is \(found), expected \(expected);"
            + " use the config.json of a class-conditional DiT")
      }
      let known = ["DiTTransformer2DModel", "Transformer2DModel", nil]
      try require(
        known.contains(className), "_class_name", className ?? "", "DiTTransformer2DModel")
      try require(
        normType ?? "ada_norm_zero" == "ada_norm_zero", "norm_type", normType ?? "", "ada_norm_zero"
      )
      try require(
        activation ?? "gelu-approximate" == "gelu-approximate", "activation_fn", activation ?? "",
        "gelu-approximate")
      try require(attentionBias ?? true, "attention_bias", false, "true")
      try require(!(affine ?? false), "norm_elementwise_affine", true, "false")
      let range = 1...65536
      try require(range.contains(heads), "num_attention_heads", heads, "a positive number")
      try require(range.contains(headDim), "attention_head_dim", headDim, "a positive number")
      try require(range.contains(inChannels), "in_channels", inChannels, "a positive number")
      let outputs = outChannels ?? inChannels
      try require(
        outputs == inChannels || outputs == 2 * inChannels, "out_channels", outputs,
        "\(inChannels) or \(2 * inChannels)")
    }

    var config: DiTConfig {
      var config = DiTConfig(
        depth: depth, hiddenSize: heads * headDim, numHeads: heads, patchSize: patchSize,
        inputSize: sampleSize, inChannels: inChannels, numClasses: classes,
        learnSigma: outChannels == 2 * inChannels)
      config.frequencyShift = 1
      config.mlpNormEpsilon = normEpsilon ?? 1e-5
      return config
    }
  }
}
