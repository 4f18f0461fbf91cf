import Plans

/// An operator in one value: what plans and the terminal know of it, and how it is built.
package struct OperatorEntry: Sendable {
  /// Name, settings, cost and label.
  package let descriptor: OperatorDescriptor
  /// How it takes over weights of the original, if it has a place for them.
  fileprivate let transfer: WeightTransfer?
  private let settings: SettingsOfShapes?
  private let sequenceMixer: SequenceMixerMaker?
  private let channelMixer: ChannelMixerMaker?

  /// Builds an operator for the attention slot from a plan entry that its descriptor accepts.
  typealias SequenceMixerMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any SequenceMixer
  /// Builds an operator for the MLP slot from a plan entry that its descriptor accepts.
  typealias ChannelMixerMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any ChannelMixer

  /// The settings that the shapes of an operator's parameters show; nil for those of another operator.
  typealias SettingsOfShapes = @Sendable (OperatorShapes) -> [String: Double]?

  /// Describes an operator and gives a maker for each slot that the descriptor names.
  ///
  /// - Parameters:
  ///   - descriptor: What plans and the terminal know of it.
  ///   - sequenceMixer: Builds it for the attention slot.
  ///   - channelMixer: Builds it for the MLP slot.
  ///   - transfer: How it takes over weights of the original.
  ///   - settings: Recognises it in a checkpoint; nil if its parameters look like another operator's.
  init(
    _ descriptor: OperatorDescriptor, sequenceMixer: SequenceMixerMaker? = nil,
    channelMixer: ChannelMixerMaker? = nil, transfer: WeightTransfer? = nil,
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

  /// The operator with the settings that shapes show, if they are its parameters'.
  fileprivate func recognized(_ shapes: OperatorShapes) -> OperatorSpec? {
    settings?(shapes).map { OperatorSpec(descriptor.name, $0) }
  }

  fileprivate func makeSequenceMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
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
  /// Every operator, in the order of the picker: the one list that a new operator is added to.
  package static let entries: [OperatorEntry] = [
    MultiHeadAttention.entry,
    SlidingWindowAttention.entry,
    LinearAttentionMixer.entry,
    HyenaSE.entry,
    HyenaX.entry,
    HyenaY.entry,
    Mamba2.entry,
    MLP.entry,
    MLPHyenaX.entry,
    Skip.entry,
  ]

  /// Tells plans and the terminal which operators there are; the program does so when it starts.
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

  /// How an operator takes over weights of the original; nil if it has no place for them.
  package static func transfer(_ spec: OperatorSpec) -> WeightTransfer? { entry(spec)?.transfer }

  /// The operator that has parameters of these shapes, with the settings that they show.
  ///
  /// - Parameters:
  ///   - shapes: The parameters below the slot's prefix.
  ///   - slot: The slot that they belong to.
  /// - Returns: The operator without the settings that no shape shows; nil if none has such parameters.
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
