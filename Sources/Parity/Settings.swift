import Files
import Plans

/// Configuration of a fixture, or a table inside it, read by key with checked types.
struct Settings {
  private let values: [String: JSONNode]
  /// Location for errors: the file and the key path of the table.
  private let place: String
  private let path: String

  /// Reads the JSON text in a fixture's metadata.
  ///
  /// - Throws: `FileError` if it is not a JSON object.
  init(json: String, file: String) throws {
    guard let node = try? JSONNode(parsing: Array(json.utf8)), let members = node.members else {
      throw FileError(
        "\(file): metadata key 'config' is no JSON object; the file is damaged, copy it again")
    }
    values = members
    place = file
    path = ""
  }

  private init(_ values: [String: JSONNode], place: String, path: String) {
    self.values = values
    self.place = place
    self.path = path
  }

  /// All keys, sorted.
  var keys: [String] { values.keys.sorted() }

  /// Whether the key has a value.
  func has(_ key: String) -> Bool {
    switch values[key]?.value {
    case nil, .null: false
    default: true
    }
  }

  private func refusal(_ key: String, _ expected: String) -> FileError {
    let state = has(key) ? "not \(expected)" : "missing, expected \(expected)"
    return FileError(
      "\(place): config key '\(path)\(key)' is \(state);"
        + " the file is damaged or of another format, copy it again")
  }

  /// A number.
  func number(_ key: String) throws -> Double {
    guard let value = values[key]?.number else { throw refusal(key, "a number") }
    return value
  }

  /// A number; the default if the key is absent.
  func number(_ key: String, default other: Double) throws -> Double {
    has(key) ? try number(key) : other
  }

  /// An integer in a range.
  func integer(_ key: String, in range: ClosedRange<Int> = 0...1_000_000) throws -> Int {
    let expected = "a whole number from \(range.lowerBound) to \(range.upperBound)"
    guard let whole = values[key]?.number.flatMap({ Int(exactly: $0) }), range.contains(whole)
    else { throw refusal(key, expected) }
    return whole
  }

  /// A Boolean.
  func flag(_ key: String) throws -> Bool {
    guard case .boolean(let value) = values[key]?.value else { throw refusal(key, "true or false") }
    return value
  }

  /// A string.
  func text(_ key: String) throws -> String {
    guard case .text(let value) = values[key]?.value else { throw refusal(key, "a text") }
    return value
  }

  /// A list of strings; a single string counts as a list of one, an absent key as none.
  func texts(_ key: String) throws -> [String] {
    guard has(key) else { return [] }
    if case .text(let value) = values[key]?.value { return [value] }
    guard case .list(let list) = values[key]?.value else { throw refusal(key, "a list of texts") }
    return try list.map { item in
      guard case .text(let value) = item.value else { throw refusal(key, "a list of texts") }
      return value
    }
  }

  /// A list of numbers.
  func numbers(_ key: String) throws -> [Double] {
    guard case .list(let list) = values[key]?.value else { throw refusal(key, "a list of numbers") }
    return try list.map { item in
      guard let value = item.number else { throw refusal(key, "a list of numbers") }
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
    guard let table = values[key]?.members else { throw refusal(key, "an object") }
    return Settings(table, place: place, path: "\(path)\(key).")
  }
}
