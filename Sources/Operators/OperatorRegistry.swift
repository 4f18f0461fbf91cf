import Plans

/// Builds operators from their plan entries; the one list that a new operator is added to.
package enum OperatorRegistry {
  private typealias MixerMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any SequenceMixer
  private typealias ChannelMaker =
    @Sendable (OperatorSpec, OperatorContext) throws -> any ChannelMixer

  private static let sequenceMixers: [String: MixerMaker] = [
    "mha": { _, context in try MultiHeadAttention(context, heads: context.numHeads) },
    "swa": { spec, context in
      try SlidingWindowAttention(
        context, heads: context.numHeads, left: Int(spec.value("window_left")),
        right: Int(spec.value("window_right")))
    },
    "hyena_x": { spec, context in
      try HyenaX(context, shortFilterOrder: Int(spec.value("short_filter_order")))
    },
  ]

  private static let channelMixers: [String: ChannelMaker] = [
    "mlp": { spec, context in
      try MLP(
        context,
        hidden: OperatorDescriptor.mlpWidth(
          expansionRatio: spec.value("expansion_ratio"), hiddenSize: context.hiddenSize))
    }
  ]

  /// Names of all operators that can be built.
  package static var names: Set<String> { Set(sequenceMixers.keys).union(channelMixers.keys) }

  /// Builds a sequence mixer.
  ///
  /// - Throws: `PlanError` if the operator is unknown or belongs in the MLP slot, and errors of the
  ///   weight source.
  package static func sequenceMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> any SequenceMixer
  {
    guard let make = sequenceMixers[spec.name] else { throw unknown(spec, slot: .attention) }
    return try make(spec, context)
  }

  /// Builds a channel mixer.
  ///
  /// - Throws: `PlanError` if the operator is unknown or belongs in the attention slot, and errors of
  ///   the weight source.
  package static func channelMixer(_ spec: OperatorSpec, _ context: OperatorContext) throws
    -> any ChannelMixer
  {
    guard let make = channelMixers[spec.name] else { throw unknown(spec, slot: .mlp) }
    return try make(spec, context)
  }

  private static func unknown(_ spec: OperatorSpec, slot: Slot) -> PlanError {
    let known = OperatorCatalog.fitting(slot).map(\.name).joined(separator: ", ")
    return PlanError(
      key: "operator",
      "'\(spec.name)' is no operator of the \(slot.rawValue) slot; choose one of \(known)")
  }
}
