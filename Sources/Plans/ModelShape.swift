import Files

/// Settings table of the architecture of a diffusion transformer: section `model` of plans and
/// recipes.
package struct ModelSchema: SettingsSchema {
  package static let table = SettingsTable(ModelSchema())

  package let family = Setting(
    "family", ModelFamily.dit,
    "`dit`, `sit` (DiT's network for velocities), `lightningdit` (blocks of LightningDiT, for velocities) or"
      + " `pixart` (text-conditional)")
  package let depth = Setting("depth", 28, in: 1...1024, "blocks", .required)
  package let hiddenSize = Setting(
    "hidden_size", 1152, in: 4...65536,
    "width of the residual stream (D), divisible by 4 and by `num_heads`", .required)
  package let numHeads = Setting("num_heads", 16, in: 1...1024, "attention heads (H)", .required)
  package let patchSize = Setting(
    "patch_size", 2, in: 1...64, "edge of a patch in latent pixels", .required)
  package let inputSize = Setting(
    "input_size", 32, in: 1...4096, "edge of the latents, a multiple of `patch_size`", .required)
  package let inChannels = Setting(
    "in_channels", 4, in: 1...4096, "channels of the latents", .required)
  package let numClasses = Setting(
    "num_classes", 1000, in: 0...1_000_000, "classes without the null class", .required)
  package let learnSigma = Setting(
    "learn_sigma", true,
    "whether the model also predicts the variance, which doubles its output channels")
  package let mlpRatio = Setting(
    "mlp_ratio", 4.0, in: 0.25...16, "width of the MLP relative to `hidden_size`")
  package let hasNullClass = Setting(
    "has_null_class", true,
    "whether the label table has a row for the null class, required by guidance and label dropout",
    .convention)
  package let captionChannels = Setting(
    "caption_channels", 0, in: 0...65536,
    "width of the text embeddings of a text-conditional model", .convention)
  package let frequencyShift = Setting(
    "frequency_shift", 0, in: 0...1,
    "subtracted from the divisor 128 of the exponents of the timestep sinusoids: 0 in the official"
      + " model, 1 in diffusers (`downscale_freq_shift`)", .convention)
  package let mlpNormEpsilon = Setting(
    "mlp_norm_epsilon", ModelShape.officialEpsilon,
    "epsilon of the layer norm before the MLP: 1e-6 in the official model, `norm_eps` in diffusers",
    .convention,
    refusing: {
      $0 > 0 && $0 < 1 ? nil : "expected more than 0 and less than 1, found \($0); correct it"
    })

  package let rmsNorm = Setting(
    "rms_norm", false,
    "whether norms are root mean square norms with weights instead of layer norms without",
    .convention)
  package let queryKeyNorm = Setting(
    "qk_norm", false,
    "whether attention normalises queries and keys of every head, by the kind of norm of the blocks",
    .convention)
  package let rotary = Setting(
    "rotary", false, "whether attention rotates queries and keys by 2-D positions", .convention)
  package let swiglu = Setting(
    "swiglu", false, "whether MLPs are gated by SiLU and two thirds as wide (`w12`, `w3`)",
    .convention)
  package let mlpBias = Setting(
    "mlp_bias", true, "whether the layers of MLPs gated by SiLU have biases", .convention)
  package let blockShift = Setting(
    "block_shift", true, "whether the modulation of blocks has shifts beside scales and gates",
    .convention)
  package let reversedTime = Setting(
    "reversed_time", false,
    "whether a velocity model was trained with data at time 0 and noise at time 1, as REPA",
    .convention)

  /// Checks that heads and patches divide the sizes, that only class-conditional models have classes and the
  /// blocks of LightningDiT, and that rotary positions fit the heads.
  package static func check(_ shape: ModelShape, at key: String) throws(PlanError) {
    func require(_ holds: Bool, _ name: String, _ message: String) throws(PlanError) {
      if !holds { throw PlanError(key: key.isEmpty ? name : "\(key).\(name)", message) }
    }
    try require(
      (shape.numClasses > 0) == (shape.family.condition == .classes), "num_classes",
      "expected \(shape.family.condition == .classes ? "at least 1" : "0"), found"
        + " \(shape.numClasses); correct it")
    let own = [
      ("rms_norm", shape.rmsNorm), ("qk_norm", shape.queryKeyNorm), ("rotary", shape.rotary),
      ("swiglu", shape.swiglu), ("mlp_bias", !shape.mlpBias), ("block_shift", !shape.blockShift),
    ]
    for (name, isSet) in own where isSet {
      try require(
        shape.family.condition == .classes, name,
        "no \(shape.family.title) has such blocks; remove the setting")
    }
    try require(
      !shape.reversedTime || shape.family.prediction == .velocity, "reversed_time",
      "a \(shape.family.title) predicts no velocity; remove the setting")
    try require(
      !shape.rotary || shape.hiddenSize / max(1, shape.numHeads) % 4 == 0, "num_heads",
      "rotary positions need heads of a multiple of 4 channels, found \(shape.hiddenSize) channels in"
        + " \(shape.numHeads) heads; correct it")
    try require(
      shape.hiddenSize % 4 == 0, "hidden_size",
      "expected a multiple of 4, found \(shape.hiddenSize); correct it")
    try require(
      shape.hiddenSize % shape.numHeads == 0, "num_heads",
      "\(shape.numHeads) heads do not divide the hidden size \(shape.hiddenSize); correct it")
    try require(
      shape.inputSize % shape.patchSize == 0, "patch_size",
      "patches of \(shape.patchSize) do not divide the input size \(shape.inputSize); correct it")
  }
}

/// Architecture of a diffusion transformer.
package typealias ModelShape = Settings<ModelSchema>

extension Settings where Schema == ModelSchema {
  /// Epsilon of all layer norms of the official model.
  package static var officialEpsilon: Double { 1e-6 }

  /// Makes an architecture with the conventions of the official model.
  package init(
    family: ModelFamily = .dit, depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int,
    inputSize: Int, inChannels: Int = 4, numClasses: Int, learnSigma: Bool = true,
    mlpRatio: Double = 4
  ) {
    self.init()
    (self.family, self.learnSigma, self.mlpRatio) = (family, learnSigma, mlpRatio)
    (self.depth, self.hiddenSize, self.numHeads) = (depth, hiddenSize, numHeads)
    (self.patchSize, self.inputSize, self.inChannels) = (patchSize, inputSize, inChannels)
    self.numClasses = numClasses
  }

  /// Tokens along one side.
  package var grid: Int { self.inputSize / self.patchSize }
  /// Length of the token sequence (N): patches of the latent in raster order.
  package var tokens: Int { grid * grid }

  /// Channels of the output.
  package var outChannels: Int { self.learnSigma ? 2 * self.inChannels : self.inChannels }

  /// Label of the null class; nil without one.
  package var nullClass: Int? { self.hasNullClass ? self.numClasses : nil }
  /// Rows of the label table.
  package var labelRows: Int { self.numClasses + (self.hasNullClass ? 1 : 0) }

  /// All slots of the model by block.
  package var slots: [SlotID] {
    (0..<self.depth).flatMap { block in Slot.allCases.map { SlotID(block: block, slot: $0) } }
  }

  /// Operator of the pretrained model in a slot.
  package func original(_ slot: Slot) -> OperatorSpec {
    switch slot {
    case .attention: OperatorSpec("mha").normalized(for: self)
    case .mlp:
      self.swiglu
        ? OperatorSpec(
          "swiglu", ["expansion_ratio": gatedRatio, "bias": self.mlpBias ? 1 : 0]
        ).normalized(for: self)
        : OperatorSpec("mlp", ["expansion_ratio": self.mlpRatio])
    }
  }

  /// Inner width of the pretrained MLPs; two thirds of the stated one where they are gated.
  package var mlpWidth: Int {
    let width = Int(Double(self.hiddenSize) * self.mlpRatio)
    return self.swiglu ? Int(2.0 / 3.0 * Double(width)) : width
  }

  /// The gated MLP's width relative to the hidden size, such that its product with that truncates to the width.
  private var gatedRatio: Double {
    let ratio = Double(mlpWidth) / Double(self.hiddenSize)
    return Int(ratio * Double(self.hiddenSize)) == mlpWidth ? ratio : ratio.nextUp
  }

  /// Whether the blocks are those of LightningDiT, by any of its parts.
  package var hasModernBlocks: Bool {
    self.rmsNorm || self.queryKeyNorm || self.rotary || self.swiglu || !self.blockShift
  }

  /// Validates an architecture read from a file.
  ///
  /// - Parameters:
  ///   - file: The file.
  ///   - names: Names of entries in the file, where they differ.
  /// - Throws: `FileError` that names file and entry.
  package func validate(
    file: String, names: [String: String] = [:]
  ) throws(FileError) {
    do throws(PlanError) {
      try validate(at: "")
    } catch {
      let key = error.key ?? ""
      throw FileError(
        "\(file): config key '\(names[key] ?? key)': \(error.message), or use the configuration that"
          + " belongs to the weights")
    }
  }
}

extension Settings: Encodable where Schema == ModelSchema {
  /// Encodes all entries under their keys in files.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: FieldKey.self)
    for row in ModelSchema.table.rows {
      guard let value = values[row.key] as? any Encodable else { continue }
      try container.encode(value, forKey: FieldKey(row.key))
    }
  }
}

/// Key of a field in a JSON object.
package struct FieldKey: CodingKey {
  package let stringValue: String
  package var intValue: Int? { nil }

  /// Makes a key of a name.
  package init(_ name: String) { stringValue = name }
  package init?(stringValue: String) { self.init(stringValue) }
  package init?(intValue: Int) { nil }
}

/// Reference to the model of a plan.
package struct ModelReference: Equatable, Sendable {
  /// Path of the weights, or `demo` for the shipped model.
  package var path: String
  /// The model's architecture.
  package var shape: ModelShape
  /// SHA-256 digest of the weights in hexadecimal, which identifies the model instead of the path.
  package var contentHash: String

  /// Makes a reference to a model.
  package init(path: String, shape: ModelShape, contentHash: String) {
    self.path = path
    self.shape = shape
    self.contentHash = contentHash
  }

  /// Validates the architecture for grafting.
  ///
  /// - Throws: `PlanError` that names the key under `model`.
  package func validate() throws(PlanError) {
    try shape.validate(at: "model")
  }
}

extension GraftPlan {
  /// Checks that the plan was made for `actual`.
  ///
  /// - Throws: `PlanError` when architecture or digest differ; the path may differ.
  package func check(against actual: ModelReference) throws(PlanError) {
    let mine = Dictionary(uniqueKeysWithValues: model.shape.members.map { ($0.key, $0.json) })
    let theirs = Dictionary(uniqueKeysWithValues: actual.shape.members.map { ($0.key, $0.json) })
    for key in Set(mine.keys).union(theirs.keys).sorted() where mine[key] != theirs[key] {
      throw PlanError(
        key: "model.\(key)",
        "the plan was made for another model, it says \(mine[key] ?? "nothing") and \(actual.path)"
          + " has \(theirs[key] ?? "none"); open the plan with its own model or make a new one")
    }
    guard model.contentHash == actual.contentHash else {
      throw PlanError(
        key: "model.content_hash",
        "the plan was made for other weights, it says \(model.contentHash.prefix(12)) and"
          + " \(actual.path) has \(actual.contentHash.prefix(12));"
          + " open the plan with its own model or make a new one")
    }
  }
}
