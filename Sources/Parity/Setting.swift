import Foundation

/// An unusable fixture or folder of fixtures; the text is one sentence for the user.
package struct ParityError: Error, CustomStringConvertible, Equatable {
  /// The file, what was expected, what was found, and the next step.
  package let description: String

  init(_ description: String) { self.description = description }
}

/// One value of a fixture's configuration.
private enum Setting: Decodable {
  case flag(Bool)
  case number(Double)
  case text(String)
  case list([Setting])
  case table([String: Setting])
  case null

  init(from decoder: any Decoder) throws {
    let container = try decoder.singleValueContainer()
    if container.decodeNil() {
      self = .null
    } else if let value = try? container.decode(Bool.self) {
      self = .flag(value)
    } else if let value = try? container.decode(Double.self) {
      self = .number(value)
    } else if let value = try? container.decode(String.self) {
      self = .text(value)
    } else if let value = try? container.decode([Setting].self) {
      self = .list(value)
    } else {
      self = .table(try container.decode([String: Setting].self))
    }
  }
}

/// Configuration of a fixture, or a table inside it, read by key with checked types.
struct Settings {
  private let values: [String: Setting]
  /// Location for errors: the file and the key path of the table.
  private let place: String
  private let path: String

  /// Reads the JSON text in a fixture's metadata.
  ///
  /// - Throws: `ParityError` if it is not a JSON object.
  init(json: String, file: String) throws {
    do {
      values = try JSONDecoder().decode([String: Setting].self, from: Data(json.utf8))
    } catch {
      throw ParityError(
        "\(file): metadata key 'config' is no JSON object; the file is damaged, copy it again")
    }
    place = file
    path = ""
  }

  private init(_ values: [String: Setting], place: String, path: String) {
    self.values = values
    self.place = place
    self.path = path
  }

  /// All keys, sorted.
  var keys: [String] { values.keys.sorted() }

  /// Whether the key has a value.
  func has(_ key: String) -> Bool {
    switch values[key] {
    case nil, .null: false
    default: true
    }
  }

  private func refusal(_ key: String, _ expected: String) -> ParityError {
    let state = has(key) ? "not \(expected)" : "missing, expected \(expected)"
    return ParityError(
      "\(place): config key '\(path)\(key)' is \(state);"
        + " the file is damaged or of another format, copy it again")
  }

  /// A number.
  func number(_ key: String) throws -> Double {
    guard case .number(let value) = values[key] else { throw refusal(key, "a number") }
    return value
  }

  /// A number; the default if the key is absent.
  func number(_ key: String, default other: Double) throws -> Double {
    has(key) ? try number(key) : other
  }

  /// An integer in a range.
  func integer(_ key: String, in range: ClosedRange<Int> = 0...1_000_000) throws -> Int {
    let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
    guard case .number(let value) = values[key], let whole = Int(exactly: value),
      range.contains(whole)
    else { throw refusal(key, expected) }
    return whole
  }

  /// A Boolean.
  func flag(_ key: String) throws -> Bool {
    guard case .flag(let value) = values[key] else { throw refusal(key, "true or false") }
    return value
  }

  /// A string.
  func text(_ key: String) throws -> String {
    guard case .text(let value) = values[key] else { throw refusal(key, "a text") }
    return value
  }

  /// A list of strings; a single string counts as a list of one, an absent key as none.
  func texts(_ key: String) throws -> [String] {
    guard has(key) else { return [] }
    if case .text(let value) = values[key] { return [value] }
    guard case .list(let list) = values[key] else { throw refusal(key, "a list of texts") }
    return try list.map { item in
      guard case .text(let value) = item else { throw refusal(key, "a list of texts") }
      return value
    }
  }

  /// A list of numbers.
  func numbers(_ key: String) throws -> [Double] {
    guard case .list(let list) = values[key] else { throw refusal(key, "a list of numbers") }
    return try list.map { item in
      guard case .number(let value) = item else { throw refusal(key, "a list of numbers") }
      return value
    }
  }

  /// A list of integers.
  func integers(_ key: String) throws -> [Int] {
    try numbers(key).map { value in
      guard let whole = Int(exactly: value) else { throw refusal(key, "a list of whole numbers") }
      return whole
    }
  }

  /// A table inside this one.
  func table(_ key: String) throws -> Settings {
    guard case .table(let table) = values[key] else { throw refusal(key, "an object") }
    return Settings(table, place: place, path: "\(path)\(key).")
  }
}
