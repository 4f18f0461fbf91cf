import Files
import Foundation

/// Value type of a setting, with parsing, encoding and validation.
package protocol SettingValue: Equatable, Sendable {
  /// Description of the type for errors and tables, for example `a whole number`.
  static var kind: String { get }

  /// All values as typed on the command line, if they are few words; otherwise empty.
  static var choices: [String] { get }

  /// Reads the value of a key.
  ///
  /// - Throws: `PlanError` for a value of another type.
  static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Self

  /// Converts command-line text to a JSON value.
  static func node(typed text: String) -> JSONNode

  /// The value as JSON.
  var json: String { get }

  /// Validates the value; a range applies to each of its numbers.
  ///
  /// - Throws: `PlanError` with the key, the expectation and the value found.
  func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError)
}

extension JSONNode {
  /// Parses a text that is a JSON value; nil otherwise.
  fileprivate init?(typed text: String) {
    guard let node = try? JSONNode(parsing: [UInt8](text.utf8)) else { return nil }
    self = node
  }

  /// Makes a string from text with or without quotation marks.
  fileprivate init(word text: String) {
    self = (text.hasPrefix("\"") ? JSONNode(typed: text) : nil) ?? JSONNode(.text(text))
  }
}

extension SettingValue {
  package static var choices: [String] { [] }

  package static func node(typed text: String) -> JSONNode {
    JSONNode(typed: text) ?? JSONNode(.text(text))
  }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {}
}

/// Reason why a number is invalid, as the rest of a sentence; nil if it is valid.
package func refusal(
  of value: Double, in range: ClosedRange<Double>, isWhole: Bool = false
) -> String? {
  let (low, high, found) = (
    numberText(range.lowerBound), numberText(range.upperBound), numberText(value)
  )
  if !range.contains(value) {
    return low == high
      ? "expected \(low), the only value that there is, found \(found); correct or remove the setting"
      : "expected \(low) to \(high), found \(found); choose a value in that range"
  }
  guard isWhole, value != value.rounded() else { return nil }
  return "expected a whole number from \(low) to \(high), found \(found); round it"
}

/// Checks a finite number.
private func check(
  _ value: Double, in range: ClosedRange<Double>?, at key: String
) throws(PlanError) {
  let largest = Double.greatestFiniteMagnitude
  if let message = refusal(of: value, in: range ?? -largest...largest) {
    throw PlanError(key: key, message)
  }
}

/// Integer value type.
package protocol WholeNumber: SettingValue, FixedWidthInteger {}

extension WholeNumber {
  package static var kind: String { isSigned ? "a whole number" : "a whole number from 0 up" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Self {
    guard case .number(let text) = node.value, let value = Self(text) else {
      throw reader.wrongType(node, key, kind)
    }
    return value
  }

  package var json: String { String(self) }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    try Plans.check(Double(self), in: range, at: key)
  }
}

extension Int: WholeNumber {}
extension UInt64: WholeNumber {}

extension Double: SettingValue {
  package static var kind: String { "a number" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Double {
    guard case .number(let text) = node.value, let value = Double(text), value.isFinite else {
      throw reader.wrongType(node, key, kind)
    }
    return value
  }

  package var json: String { numberText(self) }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    try Plans.check(self, in: range, at: key)
  }
}

extension Bool: SettingValue {
  package static var kind: String { "true or false" }
  package static var choices: [String] { ["true", "false"] }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Bool {
    guard case .boolean(let flag) = node.value else { throw reader.wrongType(node, key, kind) }
    return flag
  }

  package var json: String { "\(self)" }
}

extension String: SettingValue {
  package static var kind: String { "a text" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> String {
    guard case .text(let text) = node.value else { throw reader.wrongType(node, key, kind) }
    return text
  }

  package static func node(typed text: String) -> JSONNode { JSONNode(word: text) }

  package var json: String { jsonQuoted }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    let hasControl = unicodeScalars.contains { $0.properties.generalCategory == .control }
    guard !isEmpty, utf8.count <= 4096, !hasControl else {
      throw PlanError(
        key: key, "expected a text of 1 to 4096 bytes without control characters; correct it")
    }
  }
}

/// Enumeration value type, written as a string.
package protocol SettingChoice: SettingValue, RawRepresentable<String>, CaseIterable {}

extension SettingChoice {
  package static var kind: String {
    let words = allCases.map(\.json)
    guard let last = words.last, words.count > 1 else { return words.joined() }
    return "\(words.dropLast().joined(separator: ", ")) or \(last)"
  }

  package static var choices: [String] { allCases.map(\.rawValue) }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Self {
    guard case .text(let text) = node.value, let choice = Self(rawValue: text) else {
      throw reader.wrongType(node, key, kind)
    }
    return choice
  }

  package static func node(typed text: String) -> JSONNode { JSONNode(word: text) }

  package var json: String { rawValue.jsonQuoted }
}

extension Optional: SettingValue where Wrapped: SettingValue {
  package static var kind: String { "null or \(Wrapped.kind)" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> Wrapped? {
    if case .null = node.value { return nil }
    return try Wrapped.read(node, at: key, by: &reader)
  }

  package static func node(typed text: String) -> JSONNode {
    text == "null" ? JSONNode(.null) : Wrapped.node(typed: text)
  }

  package var json: String { map(\.json) ?? "null" }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    try self?.check(in: range, at: key)
  }
}

extension Array: SettingValue where Element: SettingValue {
  package static var kind: String { "a list, each element \(Element.kind)" }

  package static func read(
    _ node: JSONNode, at key: String, by reader: inout SettingsReader
  ) throws(PlanError) -> [Element] {
    var values: [Element] = []
    for (index, node) in try reader.elements(node, key: key, kind: kind).enumerated() {
      values.append(try Element.read(node, at: "\(key)[\(index)]", by: &reader))
    }
    return values
  }

  /// Converts a JSON list, or elements separated by commas.
  package static func node(typed text: String) -> JSONNode {
    if text.hasPrefix("["), let node = JSONNode(typed: text) { return node }
    let elements = text.split { "[,]".contains($0) }
    return JSONNode(
      .list(elements.map { Element.node(typed: $0.trimmingCharacters(in: .whitespaces)) }))
  }

  package var json: String { "[\(map(\.json).joined(separator: ", "))]" }

  package func check(in range: ClosedRange<Double>?, at key: String) throws(PlanError) {
    for (index, value) in enumerated() { try value.check(in: range, at: "\(key)[\(index)]") }
  }
}
