import Files
import Foundation
import Plans

/// Folder of diffusers: a model with its `config.json`, or a pipeline with a model in
/// `transformer`.
package struct DiffusersFolder {
  /// The folder itself.
  package let path: String
  /// The folder of the transformer.
  package let transformer: String
  /// The folder of the autoencoder, if there is one.
  package let autoencoder: String?
  /// Class names of the pipeline, by label; empty without them.
  package let classNames: [String]
  private let scheduler: String
  /// Folder of the parts of the pipeline.
  package let pipeline: String

  private static let sizeLimit = 16 << 20

  /// Whether a path is a folder.
  package static func isFolder(_ path: String) -> Bool {
    var isFolder: ObjCBool = false
    return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder)
      && isFolder.boolValue
  }

  /// Locates the parts of a folder.
  ///
  /// - Throws: `FileError` if it holds no transformer of diffusers.
  package init(_ path: String) throws(FileError) {
    let isPipeline = Self.isFolder("\(path)/transformer")
    self.path = path
    transformer = isPipeline ? "\(path)/transformer" : path
    guard access("\(transformer)/config.json", F_OK) == 0 else {
      throw FileError("\(path): is \(Self.otherKind(path))")
    }
    pipeline = isPipeline ? path : "\(path)/.."
    autoencoder = Self.isFolder("\(pipeline)/vae") ? "\(pipeline)/vae" : nil
    classNames = try Self.classNames("\(pipeline)/model_index.json")
    scheduler = "\(pipeline)/scheduler/scheduler_config.json"
  }

  /// What a folder without a configuration is, and what to name instead.
  private static func otherKind(_ path: String) -> String {
    func holds(_ name: String) -> Bool { access("\(path)/\(name)", F_OK) == 0 }
    if holds(".metadata") {
      return "a distributed checkpoint of PyTorch; convert it"
        + " (python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER FILE) and name the file"
    }
    if holds("run.json") {
      return "a run; name the checkpoints/model.safetensors in it"
    }
    if holds("latest") || holds("zero_to_fp32.py") {
      return
        "a checkpoint of DeepSpeed; name the mp_rank_00_model_states.pt in it, or with ZeRO stage 3 run its"
        + " zero_to_fp32.py and name what that writes"
    }
    return
      "a folder without 'transformer/config.json' or 'config.json'; name a model file or a folder of diffusers"
  }

  // MARK: - Weights

  /// Supported variants of weights, preferred ones first.
  private static let variants = ["", "fp32", "bf16", "fp16"]

  /// Locates the weights in a folder: one file or the index of several, preferring safetensors to
  /// PyTorch, and plain weights to variants.
  ///
  /// - Parameters:
  ///   - folder: The folder.
  ///   - stems: Name of the weights without its ending, by ending; transformers has one for each.
  /// - Returns: The path of the file or the index.
  /// - Throws: `FileError` if there are none.
  package static func weights(
    in folder: String,
    stems: [String: String] = [
      "safetensors": "diffusion_pytorch_model", "bin": "diffusion_pytorch_model",
    ]
  ) throws(FileError) -> String {
    for ending in ["safetensors", "bin"] {
      guard let stem = stems[ending] else { continue }
      for variant in variants {
        // Names of indices contain the variant in several places.
        let names =
          variant.isEmpty
          ? ["\(stem).\(ending)", "\(stem).\(ending).index.json"]
          : [
            "\(stem).\(variant).\(ending)", "\(stem).\(ending).index.\(variant).json",
            "\(stem).\(ending).\(variant).index.json", "\(stem).\(variant).\(ending).index.json",
          ]
        for name in names where access("\(folder)/\(name)", F_OK) == 0 {
          return "\(folder)/\(name)"
        }
      }
    }
    throw FileError(
      "\(folder): has no weights under the usual names, such as '\(stems["safetensors"] ?? "").safetensors';"
        + " put them beside config.json")
  }

  /// `id2label` of a pipeline, if it names the classes 0, 1, 2 and so on.
  private static func classNames(_ path: String) throws(FileError) -> [String] {
    struct Index: Decodable { let id2label: [String: String]? }
    guard access(path, F_OK) == 0 else { return [] }
    let text = try AtomicFile.readJSON(path, limit: sizeLimit)
    let labels = (try? JSONDecoder().decode(Index.self, from: Data(text)))?.id2label ?? [:]
    let names = (0..<labels.count).compactMap { labels[String($0)] }
    return names.count == labels.count ? names : []
  }

  // MARK: - Scheduler

  /// Supported values of a scheduler's configuration; others would change the samples.
  ///
  /// The processes are those of the training of DiT and PixArt, the spacings those of the samplers.
  private static let knownScheduler: [(key: String, values: [String])] = [
    (
      "_class_name",
      [
        "DDIM", "DDPM", "DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep",
        "UniPCMultistep", "PNDM",
        "EulerDiscrete", "EulerAncestralDiscrete", "HeunDiscrete", "KDPM2Discrete", "LMSDiscrete",
      ].map { "\($0)Scheduler" }
    ),
    ("prediction_type", ["epsilon"]), ("num_train_timesteps", ["1000"]),
    ("beta_start", ["0.0001"]), ("beta_end", ["0.02"]), ("beta_schedule", ["linear"]),
    ("trained_betas", []), ("rescale_betas_zero_snr", ["false"]), ("thresholding", ["false"]),
    ("clip_sample", ["false"]), ("timestep_spacing", ["leading", "linspace"]),
    ("steps_offset", ["0"]), ("set_alpha_to_one", ["true"]), ("use_karras_sigmas", ["false"]),
    ("use_exponential_sigmas", ["false"]), ("use_beta_sigmas", ["false"]),
    ("use_lu_lambdas", ["false"]), ("use_flow_sigmas", ["false"]), ("euler_at_final", ["false"]),
    ("algorithm_type", ["dpmsolver++"]), ("solver_type", ["midpoint"]), ("solver_order", ["2"]),
    ("lower_order_final", ["true"]), ("final_sigmas_type", ["zero"]),
  ]

  /// Throws if the scheduler of a pipeline has an unsupported process or sampler.
  ///
  /// - Throws: `FileError` that names the key at fault.
  func requireKnownScheduler() throws(FileError) {
    guard access(scheduler, F_OK) == 0 else { return }
    let path = AtomicFile.resolved(scheduler)
    // diffusers writes infinity, which is not valid JSON.
    let text = String(decoding: try AtomicFile.readJSON(path, limit: Self.sizeLimit), as: UTF8.self)
      .replacing(#/-?Infinity|NaN/#, with: "null")
    guard var table = try? JSONDecoder().decode([String: Entry].self, from: Data(text.utf8)) else {
      throw FileError("\(path): is no JSON object; fetch it again")
    }
    // These two clip predictions to [-1, 1] by default.
    let clips = ["DDIMScheduler", "DDPMScheduler"].contains(table["_class_name"]?.text)
    if clips, table["clip_sample"] == nil { table["clip_sample"] = Entry(text: "true") }
    for (key, values) in Self.knownScheduler {
      guard let found = table[key]?.text, !values.contains(found) else { continue }
      throw FileError(
        "\(path): \"\(key)\" is \(found.prefix(60)), expected"
          + " \(values.isEmpty ? "null" : values.prefix(2).joined(separator: " or ")), which the samplers here"
          + " do; use a model of that process, or correct the key if the weights are of one")
    }
  }

  /// Value of a scheduler's configuration as text: integers without a fraction, nil for null.
  private struct Entry: Decodable {
    var text: String?

    init(text: String) { self.text = text }

    init(from decoder: any Decoder) throws {
      let value = try decoder.singleValueContainer()
      if let truth = try? value.decode(Bool.self) {
        text = String(truth)
      } else if let number = try? value.decode(Double.self) {
        text = numberText(number)
      } else if !value.decodeNil() {
        text = (try? value.decode(String.self)) ?? "a list or object"
      }
    }
  }

  // MARK: - Configuration

  /// Names of `config.json` for the entries of an architecture.
  static let configNames = [
    "depth": "num_layers", "hidden_size": "num_attention_heads * attention_head_dim",
    "num_heads": "num_attention_heads", "input_size": "sample_size",
    "num_classes": "num_embeds_ada_norm", "mlp_norm_epsilon": "norm_eps",
  ]

  /// Reads architecture and conventions of a `DiTTransformer2DModel` from its `config.json`.
  ///
  /// The result includes the conventions that differ from the official model: timestep sinusoids
  /// and the layer norm before the MLP (diffusers `embeddings.py`, `attention.py`).
  /// - Returns: A valid configuration.
  /// - Throws: `FileError` that names the key at fault.
  package static func config(_ path: String) throws(FileError) -> ModelShape {
    let text = try AtomicFile.read(path, limit: sizeLimit)
    let source = ConfigFile(path: path, model: "DiTTransformer2DModel")
    let stored: StoredConfig = try source.decode(text)
    try stored.check(source)
    let config = stored.config
    try config.validate(file: path, names: configNames)
    return config
  }

  /// Keys of `config.json` that affect the model.
  private struct StoredConfig: Decodable {
    let _className: String?
    let numAttentionHeads, attentionHeadDim, inChannels: Int
    let outChannels: Int?
    let numLayers, patchSize, sampleSize, numEmbedsAdaNorm: Int
    let normType, activationFn: String?
    let normEps: Double?
    let attentionBias, normElementwiseAffine: Bool?

    func check(_ source: ConfigFile) throws(FileError) {
      let known = ["DiTTransformer2DModel", "Transformer2DModel", nil]
      try source.require(
        known.contains(_className), "_class_name", _className ?? "", "DiTTransformer2DModel")
      try source.require(
        normType ?? "ada_norm_zero" == "ada_norm_zero", "norm_type", normType ?? "", "ada_norm_zero"
      )
      try source.require(
        activationFn ?? "gelu-approximate" == "gelu-approximate", "activation_fn",
        activationFn ?? "",
        "gelu-approximate")
      try source.require(attentionBias ?? true, "attention_bias", false, "true")
      try source.require(
        !(normElementwiseAffine ?? false), "norm_elementwise_affine", true, "false")
      let range = 1...65536
      try source.require(
        range.contains(numAttentionHeads), "num_attention_heads", numAttentionHeads,
        "a positive number")
      try source.require(
        range.contains(attentionHeadDim), "attention_head_dim", attentionHeadDim,
        "a positive number")
      try source.require(range.contains(inChannels), "in_channels", inChannels, "a positive number")
      let outputs = outChannels ?? inChannels
      try source.require(
        outputs == inChannels || outputs == 2 * inChannels, "out_channels", outputs,
        "\(inChannels) or \(2 * inChannels)")
    }

    var config: ModelShape {
      var config = ModelShape(
        depth: numLayers, hiddenSize: numAttentionHeads * attentionHeadDim,
        numHeads: numAttentionHeads, patchSize: patchSize,
        inputSize: sampleSize, inChannels: inChannels, numClasses: numEmbedsAdaNorm,
        learnSigma: outChannels == 2 * inChannels)
      config.frequencyShift = 1
      config.mlpNormEpsilon = normEps ?? 1e-5
      return config
    }
  }
}
