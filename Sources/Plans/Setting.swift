/// Uses of a setting besides its section of a file.
package struct SettingTraits: OptionSet, Sendable {
  package let rawValue: Int

  package init(rawValue: Int) { self.rawValue = rawValue }

  /// May be overridden at single slots and pairs.
  package static let site = SettingTraits(rawValue: 1)
  /// Exists only at single slots and pairs.
  package static let siteOnly = SettingTraits(rawValue: 2)
  /// May change when a run resumes from a checkpoint.
  package static let resume = SettingTraits(rawValue: 4)
  /// Has a field in the forms of the explorer.
  package static let form = SettingTraits(rawValue: 8)
  /// Required in files; the value in the table is an example.
  package static let required = SettingTraits(rawValue: 16)
  /// A path, relative to the folder of the file if not absolute.
  package static let path = SettingTraits(rawValue: 32)
  /// Omitted in files where it has the default.
  package static let convention = SettingTraits(rawValue: 256)
  /// Determined by other settings or the model; omitted in forms.
  package static let implied = SettingTraits(rawValue: 64)
  /// A number of attention heads, where the default 0 stands for that of the model.
  package static let modelHeads = SettingTraits(rawValue: 128)
}

/// Definition of a setting, used by files, `espalier plan set`, overrides of single slots, forms
/// and generated documents.
package struct Setting<Value: SettingValue>: Sendable {
  /// The key in files.
  package let key: String
  /// Default value.
  package let defaultValue: Value
  /// Allowed range of every number of the value.
  package let range: ClosedRange<Double>?
  /// Uses of the setting.
  package let traits: SettingTraits
  /// One-line description.
  package let summary: String
  /// Names of the values 0, 1, 2 …, which may be stated instead; empty for a quantity.
  package let names: [String]
  private let refusal: @Sendable (Value) -> String?

  /// Makes a setting; `refusal` is the reason why a value within the range is invalid.
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
    names = []
  }
}

extension Setting where Value == Int {
  /// Makes a choice between named values, the first of which, 0, is the default.
  package init(_ key: String, names: [String], _ summary: String) {
    let list = names.enumerated().map { "\($0.offset) \($0.element)" }.joined(separator: ", ")
    (self.key, defaultValue, self.names) = (key, 0, names)
    (range, traits) = (0...Double(names.count - 1), [])
    self.summary = "\(summary): \(list)"
    refusal = { _ in nil }
  }
}

/// Setting with a type-erased value.
package protocol SettingRow: Sendable {
  /// The key in files.
  var key: String { get }
  /// Allowed range of every number of the value.
  var range: ClosedRange<Double>? { get }
  /// Uses of the setting.
  var traits: SettingTraits { get }
  /// One-line description.
  var summary: String { get }
  /// Names of the values 0, 1, 2 …, which may be stated instead; empty for a quantity.
  var names: [String] { get }
  /// Description of the value type, for example `a whole number`.
  var kind: String { get }
  /// Whether values are single integers.
  var isWholeNumber: Bool { get }
  /// All values as typed on the command line, if they are few words; otherwise empty.
  var choices: [String] { get }
  /// Default value.
  var initial: any SettingValue { get }

  /// Reads a value from a file.
  ///
  /// - Throws: `PlanError` for a value of another type.
  func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> any SettingValue

  /// Converts command-line text to a JSON value.
  func node(typed text: String) -> JSONNode

  /// Checks a value of this setting.
  ///
  /// - Throws: `PlanError` with the key, the expectation and the value found.
  func check(_ value: any SettingValue, at key: String) throws(PlanError)
}

extension SettingRow {
  /// The range, or that of all finite numbers.
  package var bounds: ClosedRange<Double> {
    range ?? -Double.greatestFiniteMagnitude...Double.greatestFiniteMagnitude
  }
}

extension Setting: SettingRow {
  package var kind: String { Value.kind }
  package var isWholeNumber: Bool { Value.self is any WholeNumber.Type }
  package var choices: [String] { Value.choices }
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

/// Settings of a section, declared as stored properties.
package protocol SettingsSchema: Sendable {
  /// The table.
  static var table: SettingsTable<Self> { get }

  /// Validates combinations of settings.
  ///
  /// - Throws: `PlanError` that names a key below `key`.
  static func check(_ settings: Settings<Self>, at key: String) throws(PlanError)

  /// What a setting belongs to that the values of the others leave out; nil if it has an effect.
  static func missing(for row: any SettingRow, beside settings: Settings<Self>) -> String?
}

extension SettingsSchema {
  package static func check(_ settings: Settings<Self>, at key: String) throws(PlanError) {}

  package static func missing(for row: any SettingRow, beside settings: Settings<Self>) -> String? {
    nil
  }
}

/// Schema with the list of its settings; a reference, since every access to a value goes through it.
package final class SettingsTable<Schema: Sendable>: Sendable {
  /// Settings by name.
  package let schema: Schema
  /// All settings in order of declaration.
  package let all: [any SettingRow]
  /// Settings of the section itself.
  package let rows: [any SettingRow]
  /// Settings of single slots and pairs.
  package let siteRows: [any SettingRow]

  /// Lists the settings of a schema.
  ///
  /// - Precondition: All stored properties are settings with unique keys.
  package init(_ schema: Schema) {
    self.schema = schema
    all = Mirror(reflecting: schema).children.map { child in
      guard let row = child.value as? any SettingRow else {
        preconditionFailure("\(Schema.self).\(child.label ?? "") is no setting")
      }
      return row
    }
    precondition(Set(all.map(\.key)).count == all.count, "\(Schema.self): a key twice")
    rows = all.filter { !$0.traits.contains(.siteOnly) }
    siteRows = all.filter { !$0.traits.isDisjoint(with: [.site, .siteOnly]) }
  }
}
