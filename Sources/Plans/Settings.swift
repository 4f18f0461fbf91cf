import Files

/// Untyped storage of settings by key.
struct SettingValues: Equatable, Sendable {
  private var values: [String: any SettingValue] = [:]

  subscript(key: String) -> (any SettingValue)? {
    get { values[key] }
    set { values[key] = newValue }
  }

  /// Compares the encoded values.
  static func == (one: SettingValues, other: SettingValues) -> Bool {
    one.values.mapValues(\.json) == other.values.mapValues(\.json)
  }

  /// Reads the members of an object; throws for keys other than those of the rows and `others`.
  @discardableResult
  mutating func read(
    _ node: JSONNode, rows: [any SettingRow], beside others: [String] = [], at key: String,
    by reader: inout SettingsReader
  ) throws(PlanError) -> JSONSection {
    let section = try reader.section(node, key: key, known: others + rows.map(\.key))
    for row in rows {
      guard let member = section.members[row.key] else {
        if row.traits.contains(.required) { _ = try reader.required(row.key, in: section) }
        continue
      }
      values[row.key] = try row.read(member, at: section.path(row.key), by: &reader)
    }
    return section
  }

  /// Sets a value from command-line text.
  ///
  /// - Throws: `PlanError` for an unknown key or an invalid value.
  mutating func set(
    _ name: String, typed text: String, rows: [any SettingRow], at key: String
  ) throws(PlanError) {
    guard let row = rows.first(where: { $0.key == name }) else {
      throw PlanError(key: key, SettingsReader.unknown(rows.map(\.key)))
    }
    var reader = SettingsReader()
    let value = try row.read(row.node(typed: text), at: key, by: &reader)
    try row.check(value, at: key)
    values[name] = value
  }

  func check(rows: [any SettingRow], at key: String) throws(PlanError) {
    for row in rows {
      guard let value = values[row.key] else { continue }
      try row.check(value, at: key.isEmpty ? row.key : "\(key).\(row.key)")
    }
    if let other = values.keys.sorted().first(where: { key in !rows.contains { $0.key == key } }) {
      throw PlanError(key: "\(key).\(other)", SettingsReader.unknown(rows.map(\.key)))
    }
  }

  /// Keys in order of the rows with JSON values, without null and default conventions.
  func members(rows: [any SettingRow]) -> [(key: String, json: String)] {
    rows.compactMap { row in
      guard let json = values[row.key]?.json, json != "null",
        !row.traits.contains(.convention) || json != row.initial.json
      else { return nil }
      return (row.key, json)
    }
  }

  /// Encodes an object on one line.
  func json(rows: [any SettingRow]) -> String {
    "{\(members(rows: rows).map { "\($0.key.jsonQuoted): \($0.json)" }.joined(separator: ", "))}"
  }

  /// Overrides values by those of `others`.
  mutating func merge(_ others: SettingValues, rows: [any SettingRow]) {
    for row in rows { values[row.key] = others[row.key] ?? values[row.key] }
  }

  var isEmpty: Bool { values.isEmpty }
}

/// Values of all settings of a schema; `settings.steps` is the value of the setting `steps`.
@dynamicMemberLookup
package struct Settings<Schema: SettingsSchema>: Equatable, Sendable {
  var values = SettingValues()

  /// Makes default settings.
  package init() {
    for row in Schema.table.rows { values[row.key] = row.initial }
  }

  package subscript<Value>(dynamicMember path: KeyPath<Schema, Setting<Value>>) -> Value {
    get {
      let row = Schema.table.schema[keyPath: path]
      return values[row.key] as? Value ?? row.defaultValue
    }
    set { values[Schema.table.schema[keyPath: path].key] = newValue }
  }

  /// Reads the members of an object and leaves other values unchanged.
  ///
  /// - Throws: `PlanError` for an unknown key, a missing one that is required, or a wrong type.
  package mutating func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) {
    try values.read(node, rows: Schema.table.rows, at: key, by: &reader)
  }

  /// Sets the setting `name` from command-line text.
  ///
  /// - Throws: `PlanError` about `key` for an unknown name or an invalid value.
  package mutating func set(
    _ name: String, typed text: String, at key: String
  ) throws(PlanError) {
    try values.set(name, typed: text, rows: Schema.table.rows, at: key)
  }

  /// Validates all values and their combinations.
  ///
  /// - Throws: `PlanError` that names a key below `key`.
  package func validate(at key: String) throws(PlanError) {
    try values.check(rows: Schema.table.rows, at: key)
    try Schema.check(self, at: key)
  }

  /// Keys in order of the table with JSON values; null values are omitted.
  package var members: [(key: String, json: String)] { values.members(rows: Schema.table.rows) }

  /// Settings that are not at their defaults and have no effect, with what they belong to.
  var unused: [(key: String, missing: String)] {
    Schema.table.rows.compactMap { row in
      guard values[row.key]?.json != row.initial.json else { return nil }
      return Schema.missing(for: row, beside: self).map { (row.key, $0) }
    }
  }

  /// Common settings of forms with their values.
  package var formFields: [(row: any SettingRow, json: String)] { fields(common: true) }

  /// All other settings with their values, except objects.
  package var otherFields: [(row: any SettingRow, json: String)] {
    fields(common: false).filter { !$0.row.kind.contains("object") }
  }

  private func fields(common: Bool) -> [(row: any SettingRow, json: String)] {
    Schema.table.rows.filter {
      ($0.traits.contains(.form) && Schema.missing(for: $0, beside: self) == nil) == common
    }.compactMap { row in values[row.key].map { (row, $0.json) } }
  }
}

extension Settings: SettingValue {
  package static var kind: String { "an object" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Settings {
    var settings = Settings()
    try settings.read(node, at: key, by: &reader)
    return settings
  }

  package var json: String { values.json(rows: Schema.table.rows) }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    try validate(at: key)
  }
}
