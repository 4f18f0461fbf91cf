/// An operator and its configuration, as a plan names it.
package struct OperatorSpec: Codable, Equatable, Hashable, Sendable {
  /// The official name, for example `hyena_x`.
  package var name: String
  /// Settings by key; one that is absent has its field's default.
  package var config: [String: Double]

  /// Names an operator.
  package init(_ name: String, _ config: [String: Double] = [:]) {
    self.name = name
    self.config = config
  }

  /// A setting, or its default where the configuration leaves it out.
  ///
  /// - Precondition: the operator is in the catalog and has the field.
  package func value(_ key: String) -> Double {
    if let value = config[key] { return value }
    let fields = OperatorCatalog.descriptor(named: name)?.fields ?? []
    guard let field = fields.first(where: { $0.key == key }) else {
      preconditionFailure("operator \(name) has no field \(key)")
    }
    return field.defaultValue
  }

  /// A setting that is a whole number, or its default.
  ///
  /// - Precondition: as `value`, and the operator's descriptor does not refuse the configuration.
  package func count(_ key: String) -> Int { Int(value(key)) }

  /// The same operator with all that a plan may leave out filled in, so that equal entries are the
  /// same operator in a model and others are not.
  ///
  /// What other settings or the model decide is left out. An entry that cannot be built stays as it
  /// is.
  package func normalized(for shape: ModelShape) -> OperatorSpec {
    guard let descriptor = OperatorCatalog.descriptor(named: name),
      descriptor.refusal(of: self, shape: shape) == nil
    else { return self }
    var spec = self
    for field in descriptor.fields {
      let own = config[field.key]
      let isDefault = own == nil || own == field.modelValue?(shape)
      spec.config[field.key] = isDefault ? field.defaultValue : own
      guard field.isImplied else { continue }
      // What is not in forms stays where it is a choice: where the default were possible too.
      var other = self
      other.config[field.key] = field.defaultValue
      let isChosen = own != field.defaultValue && descriptor.refusal(of: other, shape: shape) == nil
      if isDefault || !isChosen { spec.config[field.key] = nil }
    }
    return spec
  }
}

/// One setting of an operator: drives the form in the terminal and the checks of a plan.
package struct ConfigField: Sendable {
  /// The key in plan files.
  package let key: String
  /// One line for the person who sets it.
  package let summary: String
  /// The paper's value.
  package let defaultValue: Double
  /// What can be built.
  package let range: ClosedRange<Double>
  /// Whether only whole numbers make sense.
  package let isInteger: Bool
  /// Whether the other settings or the model decide it: a plan may state it, forms leave it out.
  package let isImplied: Bool
  /// What the default stands for in a model, where that is a number of the model.
  package let modelValue: (@Sendable (ModelShape) -> Double)?

  /// Describes a setting.
  package init(
    key: String, summary: String, defaultValue: Double, range: ClosedRange<Double>,
    isInteger: Bool, isImplied: Bool = false,
    modelValue: (@Sendable (ModelShape) -> Double)? = nil
  ) {
    self.key = key
    self.summary = summary
    self.defaultValue = defaultValue
    self.range = range
    self.isInteger = isInteger
    self.isImplied = isImplied
    self.modelValue = modelValue
  }

  /// Why a value cannot be used, or `nil` when it can.
  package func refusal(of value: Double) -> String? {
    Plans.refusal(of: value, in: range, isWhole: isInteger)
  }
}

/// What an operator costs, per image and forward pass.
///
/// Floating-point operations are counted as in the paper's Table 4: a multiply-add is two.
package struct OperatorCost: Equatable, Sendable {
  /// Weights and biases.
  package var parameters: Int
  /// Operations of the operator's core: attention scores, gates, scan, the layers of an MLP.
  package var coreFlops: Double
  /// Operations of the projections and featurizers around the core.
  package var projectionFlops: Double
  /// Float32 bytes of the parameters and of the activations that the operator produces.
  package var bytes: Double

  /// All operations.
  package var flops: Double { coreFlops + projectionFlops }

  /// The two parts of all operations with their names, as Table 4 divides them.
  package static let parts: [(name: String, flops: @Sendable (OperatorCost) -> Double)] = [
    ("core FLOPs", \.coreFlops), ("projection and featurizer FLOPs", \.projectionFlops),
  ]

  /// States a cost from counts of parameters, of operations and of produced activation elements.
  package init(
    parameters: Int = 0, core: Double = 0, projections: Double = 0, activations: Double = 0
  ) {
    self.parameters = parameters
    coreFlops = core
    projectionFlops = projections
    bytes = 4 * (Double(parameters) + activations)
  }

  /// The cost of both.
  package static func + (first: OperatorCost, second: OperatorCost) -> OperatorCost {
    var sum = first
    sum.parameters += second.parameters
    sum.coreFlops += second.coreFlops
    sum.projectionFlops += second.projectionFlops
    sum.bytes += second.bytes
    return sum
  }
}

/// Everything about a replacement operator that needs no tensors.
package struct OperatorDescriptor: Sendable {
  /// The official name in plan files, for example `hyena_x`.
  package let name: String
  /// The name for people, for example `Hyena-X`.
  package let title: String
  /// One line: what it is.
  package let summary: String
  /// The slots it fits.
  package let slots: Set<Slot>
  /// Its settings.
  package let fields: [ConfigField]
  /// Whether it can start from weights of the original operator.
  package var isTransferable = false

  private let costRule: @Sendable (OperatorSpec, ModelShape) -> OperatorCost
  private let labelRule: @Sendable (OperatorSpec) -> String
  private let fitRule: @Sendable (OperatorSpec, ModelShape) -> String?

  /// Describes an operator.
  ///
  /// - Parameters:
  ///   - name: The official name.
  ///   - title: The name for people.
  ///   - summary: One line on what it is.
  ///   - slots: The slots it fits.
  ///   - fields: Its settings.
  ///   - cost: Its cost in a model, settings filled in.
  ///   - label: A few characters for a cell of the grid.
  ///   - fit: Why a configuration within the fields' ranges cannot be built in a model, if so.
  package init(
    name: String, title: String, summary: String, slots: Set<Slot>, fields: [ConfigField],
    cost: @escaping @Sendable (OperatorSpec, ModelShape) -> OperatorCost,
    label: @escaping @Sendable (OperatorSpec) -> String,
    fit: @escaping @Sendable (OperatorSpec, ModelShape) -> String? = { _, _ in nil }
  ) {
    self.name = name
    self.title = title
    self.summary = summary
    self.slots = slots
    self.fields = fields
    self.costRule = cost
    self.labelRule = label
    self.fitRule = fit
  }

  /// The settings that a person chooses.
  package var openFields: [ConfigField] { fields.filter { !$0.isImplied } }

  /// The operator with every setting at its default.
  package var defaultSpec: OperatorSpec {
    OperatorSpec(
      name, Dictionary(uniqueKeysWithValues: openFields.map { ($0.key, $0.defaultValue) }))
  }

  /// What the operator costs in one slot of a model, per image.
  ///
  /// - Precondition: `spec` has passed `refusal(of:shape:)`.
  package func cost(_ spec: OperatorSpec, shape: ModelShape) -> OperatorCost {
    costRule(spec, shape)
  }

  /// A few characters for a cell of the grid, for example `swa w4`.
  package func label(_ spec: OperatorSpec) -> String {
    labelRule(spec)
  }

  /// Why the configuration cannot be built in the model: the key and the sentence's rest.
  package func refusal(
    of spec: OperatorSpec, shape: ModelShape
  ) -> (key: String, message: String)? {
    for (key, value) in spec.config.sorted(by: { $0.key < $1.key }) {
      guard let field = fields.first(where: { $0.key == key }) else {
        let known = fields.isEmpty ? "none" : fields.map(\.key).joined(separator: ", ")
        return (
          "config.\(key)", "\(name) has no such setting, expected \(known); remove the setting"
        )
      }
      if let message = field.refusal(of: value) { return ("config.\(key)", message) }
    }
    return fitRule(spec, shape).map { ("config", $0) }
  }
}

/// A number as people and JSON write it: no `.0` behind a whole one.
package func numberText(_ value: Double) -> String {
  if let whole = Int(exactly: value) { return String(whole) }
  return String(value)
}
