/// The architecture of a model, as far as plans and costs need it.
package struct ModelShape: Codable, Equatable, Sendable {
  /// The architecture's family; `dit` is the only one known.
  package var family: String
  /// Number of blocks.
  package var depth: Int
  /// Width of the residual stream (D).
  package var hiddenSize: Int
  /// Attention heads (H); divides `hiddenSize`.
  package var numHeads: Int
  /// Edge of a square patch in latent pixels.
  package var patchSize: Int
  /// Edge of the square latent; a multiple of `patchSize`.
  package var inputSize: Int
  /// Channels of the latent.
  package var inChannels: Int
  /// Classes, without the extra one for "no class".
  package var numClasses: Int
  /// Whether the model also predicts the variance, doubling its output channels.
  package var learnSigma: Bool
  /// Width of the MLP relative to `hiddenSize`.
  package var mlpRatio: Double

  /// Describes an architecture.
  package init(
    family: String = "dit", depth: Int, hiddenSize: Int, numHeads: Int, patchSize: Int,
    inputSize: Int, inChannels: Int, numClasses: Int, learnSigma: Bool = true,
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

  /// Length of the token sequence (N): patches of the latent in raster order.
  package var tokens: Int { (inputSize / patchSize) * (inputSize / patchSize) }

  /// Channels of the output.
  package var outChannels: Int { learnSigma ? 2 * inChannels : inChannels }

  /// Every slot of the model, block by block.
  package var slots: [SlotID] {
    (0..<depth).flatMap { block in Slot.allCases.map { SlotID(block: block, slot: $0) } }
  }

  /// The operator that the pretrained model has in a slot.
  package func original(_ slot: Slot) -> OperatorSpec {
    switch slot {
    case .attention: OperatorSpec("mha").normalized(for: self)
    case .mlp: OperatorSpec("mlp", ["expansion_ratio": mlpRatio])
    }
  }
}

/// Which model a plan was made for.
package struct ModelReference: Codable, Equatable, Sendable {
  /// The weights' file, or `demo` for the shipped model.
  package var path: String
  /// The model's architecture.
  package var shape: ModelShape
  /// The SHA-256 digest of the weights' file in hexadecimal; it decides, not the path.
  package var contentHash: String

  /// Refers to a model.
  package init(path: String, shape: ModelShape, contentHash: String) {
    self.path = path
    self.shape = shape
    self.contentHash = contentHash
  }
}

extension ModelShape {
  /// Checks that such a model can exist.
  ///
  /// - Throws: `PlanError` that names the key under `model`.
  package func validate() throws(PlanError) {
    guard family == "dit" else {
      throw PlanError(
        key: "model.family",
        "unknown family \(family.prefix(60).debugDescription), expected \"dit\"; correct it")
    }
    let limits: [(String, Int, ClosedRange<Double>)] = [
      ("depth", depth, 1...1024), ("hidden_size", hiddenSize, 1...65536),
      ("num_heads", numHeads, 1...1024), ("patch_size", patchSize, 1...64),
      ("input_size", inputSize, 1...4096), ("in_channels", inChannels, 1...1024),
      ("num_classes", numClasses, 1...1_000_000),
    ]
    for (key, value, range) in limits {
      try value.check(in: range, at: "model.\(key)")
    }
    try mlpRatio.check(in: 0.25...16, at: "model.mlp_ratio")
    guard hiddenSize % numHeads == 0 else {
      throw PlanError(
        key: "model.num_heads",
        "\(numHeads) heads do not divide the hidden size \(hiddenSize); correct one of them")
    }
    guard inputSize % patchSize == 0 else {
      throw PlanError(
        key: "model.patch_size",
        "patches of \(patchSize) do not divide the input size \(inputSize); correct one of them")
    }
  }

  /// The shape's entries in a plan file, as text.
  fileprivate var described: [(key: String, value: String)] {
    [
      ("family", family), ("depth", "\(depth)"), ("hidden_size", "\(hiddenSize)"),
      ("num_heads", "\(numHeads)"), ("patch_size", "\(patchSize)"), ("input_size", "\(inputSize)"),
      ("in_channels", "\(inChannels)"), ("num_classes", "\(numClasses)"),
      ("learn_sigma", "\(learnSigma)"), ("mlp_ratio", numberText(mlpRatio)),
    ]
  }
}

extension GraftPlan {
  /// Checks that the plan was made for a model.
  ///
  /// - Throws: `PlanError` when shape or content differ; the path may.
  package func check(against actual: ModelReference) throws(PlanError) {
    let mine = model.shape.described
    let theirs = actual.shape.described
    for (own, other) in zip(mine, theirs) where own.value != other.value {
      throw PlanError(
        key: "model.\(own.key)",
        "the plan was made for another model, it says \(own.value) and \(actual.path) has"
          + " \(other.value); open the plan with its own model or make a new one")
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
