/// Where a setting is used besides its own section of a file.
package struct SettingTraits: OptionSet, Sendable {
  package let rawValue: Int

  package init(rawValue: Int) { self.rawValue = rawValue }

  /// It can be overridden at single slots and pairs.
  package static let site = SettingTraits(rawValue: 1)
  /// It exists at single slots and pairs alone.
  package static let siteOnly = SettingTraits(rawValue: 2)
  /// It may change between a checkpoint and the run that goes on from it.
  package static let resume = SettingTraits(rawValue: 4)
  /// The explorer's forms have a field for it.
  package static let form = SettingTraits(rawValue: 8)
  /// A file must state it; the value in the table is an example.
  package static let required = SettingTraits(rawValue: 16)
  /// It is a path, and a relative one counts from the file's folder.
  package static let path = SettingTraits(rawValue: 32)
}

/// A row of a table of settings.
///
/// Files, `espalier plan set`, overrides of single slots, forms and generated documents take all that
/// they know of a setting from here.
package struct Setting<Value: SettingValue>: Sendable {
  /// The key in files.
  package let key: String
  /// The value where a file does not state any.
  package let defaultValue: Value
  /// What every number of the value is limited to.
  package let range: ClosedRange<Double>?
  /// Where it is used.
  package let traits: SettingTraits
  /// What it does, in one line.
  package let summary: String
  private let refusal: @Sendable (Value) -> String?

  /// Describes a setting.
  ///
  /// - Parameters:
  ///   - key: The key in files.
  ///   - defaultValue: The value where a file does not state any.
  ///   - range: What every number of the value is limited to.
  ///   - summary: What it does, in one line.
  ///   - traits: Where it is used.
  ///   - refusal: Why a value within the range is not allowed; nil if it is.
  package init(
    _ key: String, _ defaultValue: Value, in range: ClosedRange<Double>? = nil, _ summary: String,
    _ traits: SettingTraits...,
    refusing refusal: @escaping @Sendable (Value) -> String? = { _ in nil }
  ) {
    self.key = key
    self.defaultValue = defaultValue
    self.range = range
    self.traits = SettingTraits(traits)
    self.summary = summary
    self.refusal = refusal
  }
}

/// A setting, whatever the type of its values.
package protocol SettingRow: Sendable {
  /// The key in files.
  var key: String { get }
  /// What every number of the value is limited to.
  var range: ClosedRange<Double>? { get }
  /// Where it is used.
  var traits: SettingTraits { get }
  /// What it does, in one line.
  var summary: String { get }
  /// What a value is, for example `a whole number`.
  var kind: String { get }
  /// Whether values are single whole numbers.
  var isWholeNumber: Bool { get }
  /// The value where a file does not state any.
  var initial: any SettingValue { get }

  /// Reads a value of a file.
  ///
  /// - Throws: `PlanError` for a value of another type.
  func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> any SettingValue

  /// The JSON value that a text on the command line stands for.
  func node(typed text: String) -> JSONNode

  /// Checks a value of this setting.
  ///
  /// - Throws: `PlanError` that names the key, what was expected and what was found.
  func check(_ value: any SettingValue, at key: String) throws(PlanError)
}

extension Setting: SettingRow {
  package var kind: String { Value.kind }
  package var isWholeNumber: Bool { Value.self is any WholeNumber.Type }
  package var initial: any SettingValue { defaultValue }

  package func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> any SettingValue {
    try Value.read(node, at: key, by: &reader)
  }

  package func node(typed text: String) -> JSONNode { Value.node(typed: text) }

  package func check(_ value: any SettingValue, at key: String) throws(PlanError) {
    guard let value = value as? Value else {
      preconditionFailure("\(key): \(value) is no \(Value.self)")
    }
    try value.check(in: range, at: key)
    if let message = refusal(value) { throw PlanError(key: key, message) }
  }
}

/// The rows of a section, as the stored properties of a type whose declarations are the table.
package protocol SettingsSchema: Sendable {
  /// The table.
  static var table: SettingsTable<Self> { get }

  /// Checks what no single row can.
  ///
  /// - Throws: `PlanError` that names a key below `key`.
  static func check(_ settings: Settings<Self>, at key: String) throws(PlanError)

  /// Whether a setting matters beside the others.
  static func uses(_ row: any SettingRow, beside settings: Settings<Self>) -> Bool
}

extension SettingsSchema {
  package static func check(_ settings: Settings<Self>, at key: String) throws(PlanError) {}

  package static func uses(_ row: any SettingRow, beside settings: Settings<Self>) -> Bool { true }
}

/// A schema and the list of its rows.
package struct SettingsTable<Schema: Sendable>: Sendable {
  /// The rows by name.
  package let schema: Schema
  /// All rows in the order of their declarations.
  package let all: [any SettingRow]

  /// Lists the rows of a schema.
  ///
  /// - Precondition: every stored property is a setting, and no two have one key.
  package init(_ schema: Schema) {
    self.schema = schema
    all = Mirror(reflecting: schema).children.map { child in
      guard let row = child.value as? any SettingRow else {
        preconditionFailure("\(Schema.self).\(child.label ?? "") is no setting")
      }
      return row
    }
    precondition(Set(all.map(\.key)).count == all.count, "\(Schema.self): a key twice")
  }

  /// The rows of the section itself.
  package var rows: [any SettingRow] { all.filter { !$0.traits.contains(.siteOnly) } }
  /// The rows that single slots and pairs can have.
  package var siteRows: [any SettingRow] {
    all.filter { !$0.traits.isDisjoint(with: [.site, .siteOnly]) }
  }
}
