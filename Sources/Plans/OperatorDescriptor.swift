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
}

/// One setting of an operator: drives the form in the terminal and the checks of a plan.
package struct ConfigField: Sendable, Equatable {
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

  /// Describes a setting.
  package init(
    key: String, summary: String, defaultValue: Double, range: ClosedRange<Double>,
    isInteger: Bool, isImplied: Bool = false
  ) {
    self.key = key
    self.summary = summary
    self.defaultValue = defaultValue
    self.range = range
    self.isInteger = isInteger
    self.isImplied = isImplied
  }

  /// Why a value cannot be used, or `nil` when it can.
  package func refusal(of value: Double) -> String? {
    guard range.contains(value) else {
      if range.lowerBound == range.upperBound {
        return "expected \(numberText(range.lowerBound)), the only value that the operator has,"
          + " found \(numberText(value)); correct or remove the setting"
      }
      return "expected \(numberText(range.lowerBound)) to \(numberText(range.upperBound)),"
        + " found \(numberText(value)); choose a value in that range"
    }
    guard !isInteger || value == value.rounded() else {
      return "expected a whole number, found \(numberText(value)); round it"
    }
    return nil
  }
}

/// What an operator costs, per image and forward pass.
package struct OperatorCost: Equatable, Sendable {
  /// Weights and biases.
  package var parameters: Int
  /// Floating-point operations by the paper's accounting: a multiply-add is 2, core and featurizer.
  package var flops: Double
  /// Float32 bytes of the parameters and of the activations that the operator produces.
  package var bytes: Double

  /// States a cost.
  package init(parameters: Int = 0, flops: Double = 0, bytes: Double = 0) {
    self.parameters = parameters
    self.flops = flops
    self.bytes = bytes
  }

  /// States a cost from counts of parameters and of produced activation elements.
  package init(parameters: Int, flops: Double, activations: Double) {
    self.init(
      parameters: parameters, flops: flops, bytes: 4 * (Double(parameters) + activations))
  }

  /// The cost of both.
  package static func + (first: OperatorCost, second: OperatorCost) -> OperatorCost {
    OperatorCost(
      parameters: first.parameters + second.parameters, flops: first.flops + second.flops,
      bytes: first.bytes + second.bytes)
  }

  /// What the first costs more than the second.
  package static func - (first: OperatorCost, second: OperatorCost) -> OperatorCost {
    OperatorCost(
      parameters: first.parameters - second.parameters, flops: first.flops - second.flops,
      bytes: first.bytes - second.bytes)
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
