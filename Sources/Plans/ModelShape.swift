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
    case .attention: OperatorSpec("mha")
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
