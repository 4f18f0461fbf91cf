import Files

/// Architecture of a diffusion transformer.
package struct ModelShape: Codable, Equatable, Sendable {
  /// The architecture's family.
  package var family: ModelFamily
  /// Number of blocks.
  package var depth: Int
  /// Width of the residual stream (D).
  package var hiddenSize: Int
  /// Attention heads (H); divides `hiddenSize`.
  package var numHeads: Int
  /// Side of a square patch in latent positions.
  package var patchSize: Int
  /// Side of the square latent; a multiple of `patchSize`.
  package var inputSize: Int
  /// Number of latent channels.
  package var inChannels: Int
  /// Number of classes without the null class; 0 without class labels.
  package var numClasses: Int
  /// Whether the model also predicts the variance, which doubles its output channels.
  package var learnSigma: Bool
  /// Width of the MLP relative to `hiddenSize`.
  package var mlpRatio: Double
  /// Whether the label table has a row for the null class, required by guidance and label dropout.
  package var hasNullClass = true
  /// Subtracted from the divisor 128 of the exponents of the timestep sinusoids: 0 in the official
  /// model, 1 in diffusers (`downscale_freq_shift`).
  package var frequencyShift = 0
  /// Epsilon of the layer norm before the MLP: 1e-6 in the official model, `norm_eps` in diffusers.
  package var mlpNormEpsilon = officialEpsilon

  /// Epsilon of all layer norms of the official model.
  package static let officialEpsilon = 1e-6

  /// Makes an architecture.
  package init(
    family: ModelFamily = .dit, depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int,
    inputSize: Int, inChannels: Int = 4, numClasses: Int, learnSigma: Bool = true,
    mlpRatio: Double = 4
  ) {
    self.family = family
    self.depth = depth
    self.hiddenSize = hiddenSize
    self.numHeads = numHeads
    self.patchSize = patchSize
    self.inputSize = inputSize
    self.inChannels = inChannels
    self.numClasses = numClasses
    self.learnSigma = learnSigma
    self.mlpRatio = mlpRatio
  }

  /// Decodes an architecture; absent values except the sizes default to the official DiT.
  package init(from decoder: any Decoder) throws {
    let keys = try decoder.container(keyedBy: CodingKeys.self)
    func stated<Value: Decodable>(_ key: CodingKeys, or other: Value) throws -> Value {
      try keys.decodeIfPresent(Value.self, forKey: key) ?? other
    }
    self.init(
      family: try stated(.family, or: .dit), depth: try keys.decode(Int.self, forKey: .depth),
      hiddenSize: try keys.decode(Int.self, forKey: .hiddenSize),
      numHeads: try keys.decode(Int.self, forKey: .numHeads),
      patchSize: try keys.decode(Int.self, forKey: .patchSize),
      inputSize: try keys.decode(Int.self, forKey: .inputSize),
      inChannels: try stated(.inChannels, or: 4),
      numClasses: try keys.decode(Int.self, forKey: .numClasses),
      learnSigma: try stated(.learnSigma, or: true), mlpRatio: try stated(.mlpRatio, or: 4))
    hasNullClass = try stated(.hasNullClass, or: true)
    frequencyShift = try stated(.frequencyShift, or: 0)
    mlpNormEpsilon = try stated(.mlpNormEpsilon, or: Self.officialEpsilon)
  }

  /// Tokens along one side.
  package var grid: Int { inputSize / patchSize }
  /// Length of the token sequence (N): patches of the latent in raster order.
  package var tokens: Int { grid * grid }

  /// Channels of the output.
  package var outChannels: Int { learnSigma ? 2 * inChannels : inChannels }

  /// Label of the null class; nil without one.
  package var nullClass: Int? { hasNullClass ? numClasses : nil }
  /// Rows of the label table.
  package var labelRows: Int { numClasses + (hasNullClass ? 1 : 0) }

  /// All slots of the model by block.
  package var slots: [SlotID] {
    (0..<depth).flatMap { block in Slot.allCases.map { SlotID(block: block, slot: $0) } }
  }

  /// Operator of the pretrained model in a slot.
  package func original(_ slot: Slot) -> OperatorSpec {
    switch slot {
    case .attention: OperatorSpec("mha").normalized(for: self)
    case .mlp: OperatorSpec("mlp", ["expansion_ratio": mlpRatio])
    }
  }
}

extension ModelShape {
  /// Invalid value of an architecture.
  package struct Fault: Error {
    /// The entry, such as `hidden_size`.
    package let key: String
    /// What was expected and found.
    package let message: String
  }

  /// Validates the architecture.
  ///
  /// - Throws: `Fault` for the first invalid entry.
  package func validate() throws(Fault) {
    func require(_ holds: Bool, _ key: String, _ found: Any, _ expected: String) throws(Fault) {
      if !holds { throw Fault(key: key, message: "expected \(expected), found \(found)") }
    }
    let counts: [(String, Int, ClosedRange<Int>)] = [
      ("depth", depth, 1...1024), ("hidden_size", hiddenSize, 4...65536),
      ("num_heads", numHeads, 1...1024), ("patch_size", patchSize, 1...64),
      ("input_size", inputSize, 1...4096), ("in_channels", inChannels, 1...4096),
      ("num_classes", numClasses, family.condition == .classes ? 1...1_000_000 : 0...0),
    ]
    for (key, value, range) in counts {
      try require(
        range.contains(value), key, value, "\(range.lowerBound) to \(range.upperBound)")
    }
    try require(hiddenSize % 4 == 0, "hidden_size", hiddenSize, "a multiple of 4")
    guard hiddenSize % numHeads == 0 else {
      throw Fault(
        key: "num_heads", message: "\(numHeads) heads do not divide the hidden size \(hiddenSize)")
    }
    guard inputSize % patchSize == 0 else {
      throw Fault(
        key: "patch_size",
        message: "patches of \(patchSize) do not divide the input size \(inputSize)")
    }
    try require((0.25...16).contains(mlpRatio), "mlp_ratio", mlpRatio, "0.25 to 16")
    try require((0...1).contains(frequencyShift), "frequency_shift", frequencyShift, "0 or 1")
    try require(
      mlpNormEpsilon > 0 && mlpNormEpsilon < 1, "mlp_norm_epsilon", mlpNormEpsilon,
      "greater than 0 and less than 1")
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
    do throws(Fault) {
      try validate()
    } catch {
      throw FileError(
        "\(file): config key '\(names[error.key] ?? error.key)': \(error.message); use the"
          + " configuration that belongs to the weights")
    }
  }

  /// Entries of a plan file as keys in order and JSON values; conventions of other programs are
  /// omitted where they equal the official model.
  package var members: [(key: String, value: String)] {
    var members = [
      ("family", "\"\(family.rawValue)\""), ("depth", "\(depth)"),
      ("hidden_size", "\(hiddenSize)"), ("num_heads", "\(numHeads)"),
      ("patch_size", "\(patchSize)"), ("input_size", "\(inputSize)"),
      ("in_channels", "\(inChannels)"), ("num_classes", "\(numClasses)"),
      ("learn_sigma", "\(learnSigma)"), ("mlp_ratio", numberText(mlpRatio)),
    ]
    if !hasNullClass { members.append(("has_null_class", "false")) }
    if frequencyShift != 0 { members.append(("frequency_shift", "\(frequencyShift)")) }
    if mlpNormEpsilon != Self.officialEpsilon {
      members.append(("mlp_norm_epsilon", numberText(mlpNormEpsilon)))
    }
    return members
  }
}

/// Reference to the model of a plan.
package struct ModelReference: Codable, Equatable, Sendable {
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
    do throws(ModelShape.Fault) {
      try shape.validate()
    } catch {
      throw PlanError(key: "model.\(error.key)", "\(error.message); correct it")
    }
  }
}

extension GraftPlan {
  /// Checks that the plan was made for `actual`.
  ///
  /// - Throws: `PlanError` when architecture or digest differ; the path may differ.
  package func check(against actual: ModelReference) throws(PlanError) {
    let mine = Dictionary(uniqueKeysWithValues: model.shape.members.map { ($0.key, $0.value) })
    let theirs = Dictionary(uniqueKeysWithValues: actual.shape.members.map { ($0.key, $0.value) })
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
