import Checkpoints
import Files
import Foundation
import Plans
import TensorCore

/// Writes models in the formats and namings of other programs.
package enum ModelWriter {
  /// Output options.
  package struct Choice {
    /// Names of the parameters.
    package var naming: DiTNaming
    /// Type of the elements: F32, F16 or BF16.
    package var dtype: DType
    /// Dictionary key of the state dict in a PyTorch archive; nil writes the state dict itself.
    package var entry: String?

    /// Makes options.
    package init(naming: DiTNaming = .official, dtype: DType = .f32, entry: String? = nil) {
      (self.naming, self.dtype, self.entry) = (naming, dtype, entry)
    }
  }

  /// File extensions of the PyTorch format.
  private static let torchEndings = [".pt", ".pth", ".bin", ".ckpt"]

  /// Whether the extension of a path selects the PyTorch format.
  package static func isTorch(_ path: String) -> Bool {
    torchEndings.contains(where: path.hasSuffix)
  }

  /// Writes a model to `path`: a PyTorch archive (`.pt`, `.pth`, `.bin`, `.ckpt`) with its metadata
  /// in `NAME.json` next to it, a safetensors file, or otherwise a pipeline folder of diffusers.
  ///
  /// - Parameters:
  ///   - model: The network.
  ///   - metadata: Its configuration and, for a grafted model, its plan.
  ///   - classNames: Names of its classes, if known.
  ///   - choice: Names and type.
  ///   - path: The file or folder to write.
  /// - Returns: The files that were written.
  /// - Throws: `FileError` if the file cannot be written, or the naming does not fit.
  package static func write(
    _ model: any DiffusionTransformer, metadata: [String: String], classNames: [String],
    as choice: Choice,
    to path: String
  ) throws -> [String] {
    let items = try items(model, choice, path: path)
    if isTorch(path) {
      try TorchWriter.write(items, entry: choice.entry, to: path)
      try Sidecar.write(metadata, beside: path)
      return [path, Sidecar.path(of: path)]
    }
    // Other libraries require the metadata entry `format`.
    let metadata = metadata.merging(["format": "pt"]) { $1 }
    if path.hasSuffix(".safetensors") {
      try SafetensorsWriter.write(items, metadata: metadata, to: path)
      return [path]
    }
    guard choice.naming == .diffusers else {
      throw FileError(
        "\(path): ends in neither .pt, .pth, .bin, .ckpt nor .safetensors; name such a file, or write a"
          + " folder with the naming of diffusers")
    }
    let folder = "\(path)/transformer"
    try AtomicFile.makeDirectory(folder)
    let files = [
      "\(folder)/diffusion_pytorch_model.safetensors", "\(folder)/config.json",
      "\(path)/model_index.json", "\(path)/scheduler/scheduler_config.json",
    ]
    try SafetensorsWriter.write(items, metadata: metadata, to: files[0])
    let pipeline = try Pipeline(of: model, path: path)
    try writeJSON(pipeline.config, to: files[1])
    var index = pipeline.index
    if !classNames.isEmpty {
      index["id2label"] = Dictionary(
        uniqueKeysWithValues: classNames.enumerated().map { (String($0), $1) })
    }
    try writeJSON(index, to: files[2])
    try AtomicFile.makeDirectory("\(path)/scheduler")
    try writeJSON(pipeline.scheduler, to: files[3])
    return files
  }

  /// Files of a pipeline of diffusers beside the weights.
  private struct Pipeline {
    let config: [String: Any]
    let index: [String: Any]
    let scheduler: [String: Any]

    init(of model: any DiffusionTransformer, path: String) throws(FileError) {
      let isText = model.shape.family.condition == .captions
      try ModelWriter.requireKnownToDiffusers(model.shape, path)
      config = (model as? PixArt)?.config.diffusersForm ?? diffusersConfig(model.shape)
      var index: [String: Any] = [
        "_class_name": isText ? "PixArtSigmaPipeline" : "DiTPipeline",
        "transformer": ["diffusers", config["_class_name"] as? String ?? ""],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", isText ? "DPMSolverMultistepScheduler" : "DDIMScheduler"],
      ]
      if isText {
        index["text_encoder"] = ["transformers", "T5EncoderModel"]
        index["tokenizer"] = ["transformers", "T5Tokenizer"]
      }
      self.index = index
      var scheduler: [String: Any] = [
        "_class_name": isText ? "DPMSolverMultistepScheduler" : "DDIMScheduler",
        "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
        "beta_schedule": "linear", "prediction_type": "epsilon",
      ]
      if isText {
        scheduler["algorithm_type"] = "dpmsolver++"
        scheduler["solver_order"] = 2
      } else {
        scheduler["clip_sample"] = false
      }
      self.scheduler = scheduler
    }
  }

  private static func requireKnownToDiffusers(
    _ shape: ModelShape, _ path: String
  ) throws(FileError) {
    let reason =
      shape.family.prediction == .velocity
      ? "whose network predicts velocities" : shape.hasModernBlocks ? "with such blocks" : nil
    guard let reason else { return }
    throw FileError(
      "\(path): diffusers has no pipeline of a \(shape.family.title), \(reason); use the official naming"
    )
  }

  /// Copies `tokenizer` and `text_encoder` of a pipeline into another.
  ///
  /// - Throws: `FileError` if a folder cannot be copied.
  package static func copyTextEncoder(from source: String, to folder: String) throws(FileError) {
    for part in ["tokenizer", "text_encoder"] {
      let (from, to) = ("\(source)/\(part)", "\(folder)/\(part)")
      if FileManager.default.fileExists(atPath: to) || !DiffusersFolder.isFolder(from) { continue }
      do {
        try FileManager.default.copyItem(atPath: from, toPath: to)
      } catch {
        throw FileError(
          "\(to): cannot be copied from \(from) (\(error.localizedDescription)); copy it yourself")
      }
    }
  }

  /// The parameters under the chosen names.
  private static func items(_ model: any DiffusionTransformer, _ choice: Choice, path: String)
    throws -> [TensorItem]
  {
    guard model.merges.isEmpty || choice.naming == .official else {
      throw FileError(
        "\(path): diffusers knows no parallel blocks, and the model has \(model.merges.count) pairs;"
          + " use the official naming")
    }
    if model.shape.family == .pixart { return pixArtItems(model, choice) }
    if choice.naming == .diffusers {
      try requireKnownToDiffusers(model.shape, path)
      try requireComputedPositions(model, path: path)
    }
    return try model.parameters.flatMap { parameter -> [TensorItem] in
      guard choice.naming == .diffusers else {
        return parts(of: parameter.value, as: [parameter.name], choice)
      }
      guard model.shape.mlpRatio == 4 else {
        throw FileError(
          "\(path): the model's MLP ratio is \(model.shape.mlpRatio), but diffusers knows only 4;"
            + " use the official naming")
      }
      guard DiTKeyMap.diffusersKeys(parameter.name) != nil else {
        throw FileError(
          "\(path): parameter '\(parameter.name)' of the grafted model has no name in diffusers;"
            + " use the official naming")
      }
      let copies = DiTKeyMap.isEmbedder(parameter.name) ? model.shape.depth : 1
      return (0..<copies).flatMap { block -> [TensorItem] in
        let keys = DiTKeyMap.diffusersKeys(parameter.name, embeddersOf: block) ?? []
        return parts(of: parameter.value, as: keys, choice)
      }
    }
  }

  /// The parameters of a PixArt under the chosen names; its null caption has none in diffusers.
  private static func pixArtItems(
    _ model: any DiffusionTransformer, _ choice: Choice
  ) -> [TensorItem] {
    model.parameters.flatMap { parameter -> [TensorItem] in
      guard choice.naming == .diffusers else {
        return parts(of: parameter.value, as: [parameter.name], choice)
      }
      if parameter.name == PixArtKeyMap.nullCaption { return [] }
      return parts(
        of: parameter.value, as: PixArtKeyMap.keys(parameter.name, in: .diffusers), choice)
    }
  }

  /// A parameter's values divided along the rows into equal parts under other names.
  private static func parts(
    of value: Tensor, as names: [String], _ choice: Choice
  ) -> [TensorItem] {
    names.enumerated().map { part, name in
      let rows = value.shape[0] / names.count
      let piece = value.rows((part * rows)..<((part + 1) * rows))
      return TensorItem(name: name, shape: piece.shape, dtype: choice.dtype) { piece.values }
    }
  }

  /// Throws if the position table differs from the one that diffusers computes.
  private static func requireComputedPositions(_ model: any DiffusionTransformer, path: String)
    throws
  {
    let table = model.shape.positionTable()
    let stored = model.parameters.first { $0.name == DiTKeyMap.positionTable }?.value.values ?? []
    // Tolerance of a table rounded to bfloat16.
    guard zip(stored, table).allSatisfy({ abs($0 - $1) < 5e-3 }) else {
      throw FileError(
        "\(path): the model's position table 'pos_embed' is a learned one, and diffusers computes a"
          + " sin-cos table instead; use the official naming")
    }
  }

  private static func diffusersConfig(_ config: ModelShape) -> [String: Any] {
    [
      "_class_name": "DiTTransformer2DModel", "num_attention_heads": config.numHeads,
      "attention_head_dim": config.hiddenSize / config.numHeads, "in_channels": config.inChannels,
      "out_channels": config.outChannels, "num_layers": config.depth,
      "patch_size": config.patchSize, "sample_size": config.inputSize,
      // Diffusers' table always has one row more, which a model without a null class gives to its last class.
      "num_embeds_ada_norm": config.labelRows - 1, "norm_type": "ada_norm_zero",
      "activation_fn": "gelu-approximate", "attention_bias": true, "dropout": 0.0,
      "norm_elementwise_affine": false, "norm_eps": config.mlpNormEpsilon,
      "norm_num_groups": 32, "upcast_attention": false,
    ]
  }

  /// Writes weights and configuration of an autoencoder in the format of diffusers.
  ///
  /// Mean and standard deviation per channel, which its pipelines do not support, are folded into
  /// the pointwise convolutions at the latents.
  /// - Returns: The files that were written.
  /// - Throws: `FileError` if the source is no autoencoder or the folder cannot be written.
  package static func writeAutoencoder(_ source: String, to folder: String) throws -> [String] {
    let file = try AutoencoderKL.file(of: source)
    var config = try AutoencoderKLConfig.find(for: file)
    var items: [TensorItem] = []
    for name in file.names {
      guard let entry = file.entry(name) else { continue }
      // Diffusers reads linear layers of attention, which some files have as 1x1 convolutions.
      let isLinear = name.contains(".attentions.") && entry.shape.count == 4
      items.append(
        TensorItem(name: name, shape: isLinear ? Array(entry.shape.prefix(2)) : entry.shape) {
          () throws(FileError) in
          try file.floats(name)
        })
    }
    let folded = try config.folding(file)
    items.removeAll { item in folded.contains { $0.name == item.name } }
    items += folded
    try AtomicFile.makeDirectory(folder)
    let files = ["\(folder)/diffusion_pytorch_model.safetensors", "\(folder)/config.json"]
    try SafetensorsWriter.write(items, metadata: ["format": "pt"], to: files[0])
    let encoder = JSONEncoder()
    encoder.keyEncodingStrategy = .convertToSnakeCase
    let encoded = try JSONSerialization.jsonObject(with: try encoder.encode(config))
    var table = encoded as? [String: Any] ?? [:]
    table["_class_name"] = "AutoencoderKL"
    table["act_fn"] = "silu"
    try writeJSON(table, to: files[1])
    return files
  }

  private static func writeJSON(_ table: [String: Any], to path: String) throws {
    try AtomicFile.write(
      try JSONSerialization.data(
        withJSONObject: table, options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]),
      to: path)
  }
}
