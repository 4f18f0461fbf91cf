/// Operator and its configuration in a plan.
package struct OperatorSpec: Codable, Equatable, Hashable, Sendable {
  /// The official name, for example `hyena_x`.
  package var name: String
  /// Settings by key; absent ones have the default of the field.
  package var config: [String: Double]

  /// Makes a plan entry.
  package init(_ name: String, _ config: [String: Double] = [:]) {
    self.name = name
    self.config = config
  }

  /// Value of a setting, or its default.
  ///
  /// - Precondition: the operator is in the catalog and has the field.
  package func value(_ key: String) -> Double {
    if let value = config[key] { return value }
    let fields = OperatorCatalog.descriptor(named: name)?.fields ?? []
    guard let field = fields.first(where: { $0.key == key }) else {
      preconditionFailure("operator \(name) has no field \(key)")
    }
    return field.defaultNumber
  }

  /// Value of an integer setting, or its default.
  ///
  /// - Precondition: as `value`, and the operator's descriptor does not refuse the configuration.
  package func count(_ key: String) -> Int { Int(value(key)) }

  /// Returns the entry in normal form with all settings filled in, so that equal operators in a
  /// model have equal entries.
  ///
  /// Settings implied by others or the model are omitted. An invalid entry is unchanged.
  package func normalized(for shape: ModelShape) -> OperatorSpec {
    guard let descriptor = OperatorCatalog.descriptor(named: name),
      descriptor.refusal(of: self, shape: shape) == nil
    else { return self }
    var spec = self
    for field in descriptor.fields {
      let own = config[field.key]
      let isModelValue = field.traits.contains(.modelHeads) && own == Double(shape.numHeads)
      let isDefault = own == nil || isModelValue
      spec.config[field.key] = isDefault ? field.defaultNumber : own
      guard field.isImplied else { continue }
      // An implied setting is kept if its default would be valid too.
      var other = self
      other.config[field.key] = field.defaultNumber
      let isChosen =
        own != field.defaultNumber && descriptor.refusal(of: other, shape: shape) == nil
      if isDefault || !isChosen { spec.config[field.key] = nil }
    }
    return spec
  }
}

extension SettingRow {
  /// Default of a setting of an operator, all of which are numbers.
  package var defaultNumber: Double { initial as? Double ?? Double(initial as? Int ?? 0) }

  /// Whether other settings or the model determine the value: a plan may state it, forms omit it.
  package var isImplied: Bool { traits.contains(.implied) }

  /// The value of a choice's name; nil for anything else.
  package func value(named name: some StringProtocol) -> Double? {
    names.firstIndex(of: String(name)).map(Double.init)
  }

  /// A value as people state it: the name of a choice, or the number.
  package func text(of value: Double) -> String {
    guard let place = Int(exactly: value), names.indices.contains(place) else {
      return numberText(value)
    }
    return names[place]
  }

  /// The value that a text states, a number or a choice's name; nil if it is neither.
  package func value(of text: some StringProtocol) -> Double? {
    value(named: text) ?? Double(text)
  }
}

/// Cost of an operator per image and forward pass.
///
/// FLOPs are counted as in the paper's Table 4: a multiply-add is two.
package struct OperatorCost: Equatable, Sendable {
  /// Number of weights and biases.
  package var parameters: Int
  /// FLOPs of the core: attention scores, gates, scan, layers of an MLP.
  package var coreFlops: Double
  /// FLOPs of projections and featurizers.
  package var projectionFlops: Double
  /// Size in bytes of the float32 parameters and output activations.
  package var bytes: Double

  /// Total FLOPs.
  package var flops: Double { coreFlops + projectionFlops }

  /// Named parts of the FLOPs, as in Table 4.
  package static let parts: [(name: String, flops: @Sendable (OperatorCost) -> Double)] = [
    ("core FLOPs", \.coreFlops), ("projection and featurizer FLOPs", \.projectionFlops),
  ]

  /// Makes a cost from numbers of parameters, FLOPs and output elements.
  package init(
    parameters: Int = 0, core: Double = 0, projections: Double = 0, activations: Double = 0
  ) {
    self.parameters = parameters
    coreFlops = core
    projectionFlops = projections
    bytes = 4 * (Double(parameters) + activations)
  }

  /// Sum of two costs.
  package static func + (first: OperatorCost, second: OperatorCost) -> OperatorCost {
    var sum = first
    sum.parameters += second.parameters
    sum.coreFlops += second.coreFlops
    sum.projectionFlops += second.projectionFlops
    sum.bytes += second.bytes
    return sum
  }
}

/// Description of a replacement operator.
package struct OperatorDescriptor: Sendable {
  /// The official name in plan files, for example `hyena_x`.
  package let name: String
  /// Display name, for example `Hyena-X`.
  package let title: String
  /// One-line description.
  package let summary: String
  /// The slots it fits.
  package let slots: Set<Slot>
  /// Its settings.
  package let fields: [any SettingRow]
  /// Whether it can be initialised from weights of the original operator.
  package var isTransferable = false

  /// Reason why weights of the original operator do not fit a configuration; nil if they do.
  package let transferRefusal: @Sendable (OperatorSpec, ModelShape) -> String?
  /// Whether it ends in a layer that can be fitted in closed form.
  package let hasOutputLayer: @Sendable (OperatorSpec) -> Bool

  private let costRule: @Sendable (OperatorSpec, ModelShape) -> OperatorCost
  private let labelRule: @Sendable (OperatorSpec) -> String
  private let fitRule: @Sendable (OperatorSpec, ModelShape) -> String?

  /// Makes a descriptor; `fit` is the reason why a configuration within the ranges is invalid in a
  /// model, `transferRefusal` why weights of the original operator do not fit one.
  package init(
    name: String, title: String, summary: String, slots: Set<Slot>, fields: [any SettingRow],
    cost: @escaping @Sendable (OperatorSpec, ModelShape) -> OperatorCost,
    label: @escaping @Sendable (OperatorSpec) -> String,
    transferRefusal: @escaping @Sendable (OperatorSpec, ModelShape) -> String? = { _, _ in nil },
    hasOutputLayer: @escaping @Sendable (OperatorSpec) -> Bool = { _ in true },
    fit: @escaping @Sendable (OperatorSpec, ModelShape) -> String? = { _, _ in nil }
  ) {
    self.name = name
    self.title = title
    self.summary = summary
    self.slots = slots
    self.fields = fields
    self.transferRefusal = transferRefusal
    self.hasOutputLayer = hasOutputLayer
    self.costRule = cost
    self.labelRule = label
    self.fitRule = fit
  }

  /// Settings that are not implied.
  package var openFields: [any SettingRow] { fields.filter { !$0.isImplied } }

  /// The operator with every setting at its default.
  package var defaultSpec: OperatorSpec {
    OperatorSpec(
      name, Dictionary(uniqueKeysWithValues: openFields.map { ($0.key, $0.defaultNumber) }))
  }

  /// Cost of the operator in one slot of a model, per image.
  ///
  /// - Precondition: `spec` has passed `refusal(of:shape:)`.
  package func cost(_ spec: OperatorSpec, shape: ModelShape) -> OperatorCost {
    costRule(spec, shape)
  }

  /// Short label for a cell of the grid, for example `swa w4`.
  package func label(_ spec: OperatorSpec) -> String {
    labelRule(spec)
  }

  /// Key and reason why the configuration is invalid in the model; nil if it is valid.
  package func refusal(
    of spec: OperatorSpec, shape: ModelShape
  ) -> (key: String, message: String)? {
    refusal(ofValues: spec) ?? fitRule(spec, shape).map { ("config", $0) }
  }

  /// Key and reason why a setting is unknown or out of its range; nil if all can be used.
  package func refusal(ofValues spec: OperatorSpec) -> (key: String, message: String)? {
    for (key, value) in spec.config.sorted(by: { $0.key < $1.key }) {
      guard let field = fields.first(where: { $0.key == key }) else {
        let known = fields.isEmpty ? "none" : fields.map(\.key).joined(separator: ", ")
        return (
          "config.\(key)", "\(name) has no such setting, expected \(known); remove the setting"
        )
      }
      if let message = Plans.refusal(of: value, in: field.bounds, isWhole: field.isWholeNumber) {
        return ("config.\(key)", message)
      }
    }
    return nil
  }
}

/// Formats a number without `.0` for integers.
package func numberText(_ value: Double) -> String {
  if let whole = Int(exactly: value) { return String(whole) }
  return String(value)
}
