import Plans

/// Descriptor, makers and weight transfer of one operator.
package struct OperatorEntry: Sendable {
  /// Name, settings, cost and label.
  package let descriptor: OperatorDescriptor
  /// Transfer of the original operator's weights; nil if none apply.
  fileprivate let transfer: TransferMaker?
  private let settings: SettingsOfShapes?
  private let sequenceMixer: SequenceMixerMaker?
  private let channelMixer: ChannelMixerMaker?

  /// Builds an attention-slot operator from a plan entry accepted by its descriptor.
  package typealias SequenceMixerMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any SequenceMixer
  /// Builds an MLP-slot operator from a plan entry accepted by its descriptor.
  package typealias ChannelMixerMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any ChannelMixer

  /// Makes the transfer of the original operator's weights for a plan entry.
  package typealias TransferMaker = @Sendable (OperatorSpec) -> WeightTransfer

  /// Infers settings from parameter shapes; nil for the shapes of another operator.
  package typealias SettingsOfShapes = @Sendable (OperatorShapes) -> [String: Double]?

  /// Makes an entry with a maker for each slot that the descriptor names.
  ///
  /// - Parameters:
  ///   - descriptor: Name, settings, cost and label.
  ///   - sequenceMixer: Builds it for the attention slot.
  ///   - channelMixer: Builds it for the MLP slot.
  ///   - transfer: Transfer of the original operator's weights.
  ///   - settings: Infers its settings from parameter shapes; nil if these are those of another
  ///     operator.
  package init(
    _ descriptor: OperatorDescriptor, sequenceMixer: SequenceMixerMaker? = nil,
    channelMixer: ChannelMixerMaker? = nil, transfer: TransferMaker? = nil,
    settings: SettingsOfShapes? = nil
  ) {
    var descriptor = descriptor
    descriptor.isTransferable = transfer != nil
    self.descriptor = descriptor
    self.transfer = transfer
    self.settings = settings
    self.sequenceMixer = sequenceMixer
    self.channelMixer = channelMixer
    precondition(
      descriptor.slots.contains(.attention) == (sequenceMixer != nil)
        && descriptor.slots.contains(.mlp) == (channelMixer != nil),
      "operator \(descriptor.name): slots and makers differ")
  }

  /// Returns the operator with the settings inferred from the shapes; nil for another operator.
  fileprivate func recognized(_ shapes: OperatorShapes) -> OperatorSpec? {
    settings?(shapes).map { OperatorSpec(descriptor.name, $0) }
  }

  /// Builds it for the attention slot; nil if it belongs in the MLP slot.
  package func makeSequenceMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> (any SequenceMixer)?
  {
    try sequenceMixer?(spec, context)
  }

  fileprivate func makeChannelMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> (any ChannelMixer)?
  {
    try channelMixer?(spec, context)
  }
}

/// Builds operators from their plan entries.
package enum OperatorRegistry {
  /// All operators in the order of the picker; a new operator is added here only.
  package static let entries: [OperatorEntry] = [
    MultiHeadAttention.entry,
    SlidingWindowAttention.entry,
    LinearAttentionMixer.entry,
    HyenaSE.entry,
    HyenaX.entry,
    HyenaY.entry,
    Mamba2.entry,
    SlidingWindow2D.entry,
    HybridAttention.entry,
    MLP.entry,
    GatedMLP.entry,
    MLPHyenaX.entry,
    LinearMixer.entry,
    Skip.entry,
  ]

  /// Fills `OperatorCatalog`; called once at program start.
  package static func fillCatalog() { OperatorCatalog.fill(entries.map(\.descriptor)) }

  /// Builds a sequence mixer.
  ///
  /// - Throws: `PlanError` if the operator is unknown or belongs in the MLP slot, and errors of the
  ///   weight source.
  package static func sequenceMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> any SequenceMixer
  {
    let made = try entry(spec)?.makeSequenceMixer(spec, context)
    guard let made else { throw unknown(spec, slot: .attention) }
    return made
  }

  /// Builds a channel mixer.
  ///
  /// - Throws: `PlanError` if the operator is unknown or belongs in the attention slot, and errors of
  ///   the weight source.
  package static func channelMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> any ChannelMixer
  {
    let made = try entry(spec)?.makeChannelMixer(spec, context)
    guard let made else { throw unknown(spec, slot: .mlp) }
    return made
  }

  /// Builds an operator for a slot of either kind.
  ///
  /// - Throws: as `sequenceMixer` and `channelMixer`.
  package static func make(_ spec: OperatorSpec, for slot: Slot, _ context: OperatorContext) throws
    -> any GraftOperator
  {
    switch slot {
    case .attention: try sequenceMixer(spec, context)
    case .mlp: try channelMixer(spec, context)
    }
  }

  /// Returns the transfer of the original operator's weights; nil if none apply.
  package static func transfer(_ spec: OperatorSpec) -> WeightTransfer? {
    entry(spec)?.transfer?(spec)
  }

  /// Finds the operator whose parameters have these shapes, and infers its settings.
  ///
  /// - Returns: The operator without settings that do not affect shapes; nil if none matches.
  package static func recognize(_ shapes: OperatorShapes, in slot: Slot) -> OperatorSpec? {
    entries.lazy.filter { $0.descriptor.slots.contains(slot) }
      .compactMap { $0.recognized(shapes) }.first
  }

  private static func entry(_ spec: OperatorSpec) -> OperatorEntry? {
    entries.first { $0.descriptor.name == spec.name }
  }

  private static func unknown(_ spec: OperatorSpec, slot: Slot) -> PlanError {
    let known = entries.map(\.descriptor).filter { $0.slots.contains(slot) }.map(\.name)
    return PlanError(
      key: "operator",
      "'\(spec.name)' is no operator of the \(slot.rawValue) slot; choose one of"
        + " \(known.joined(separator: ", "))")
  }
}
