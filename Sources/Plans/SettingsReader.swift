import Files

/// JSON value with its position in the text.
package struct JSONNode: Sendable {
  /// A value by its type.
  package indirect enum Value: Sendable {
    case object([(name: String, node: JSONNode)])
    case list([JSONNode])
    case text(String)
    case number(String)
    case boolean(Bool)
    case null
  }

  package var value: Value
  /// Byte offset of the value.
  var position = 0

  /// Description of the type for messages.
  var kind: String {
    switch value {
    case .object: "an object"
    case .list: "a list"
    case .text(let text): "the text \(text.prefix(40).debugDescription)"
    case .number(let text): "the number \(text.prefix(40))"
    case .boolean(let flag): "\(flag)"
    case .null: "null"
    }
  }

  /// The value of a number; nil for another type.
  package var number: Double? {
    if case .number(let text) = value { Double(text) } else { nil }
  }

  /// The members of an object without repeated names; nil for another type.
  package var members: [String: JSONNode]? {
    guard case .object(let list) = value else { return nil }
    let members = Dictionary(list.map { ($0.name, $0.node) }) { first, _ in first }
    return members.count == list.count ? members : nil
  }

  /// Maximum nesting depth, which bounds recursion.
  private static let depthLimit = 16

  /// Makes a value without position.
  init(_ value: Value) { self.value = value }

  /// Parses a whole text.
  ///
  /// - Throws: `JSONFault` for anything that is not strict JSON.
  package init(parsing text: [UInt8]) throws(JSONFault) {
    self = try text.withUnsafeBytes { bytes in
      Result { () throws(JSONFault) in
        var scanner = JSONScanner(bytes)
        let node = try JSONNode(&scanner)
        try scanner.finish()
        return node
      }
    }.get()
  }

  /// Parses the next value.
  ///
  /// - Throws: `JSONFault` for anything that is not strict JSON, and for deep nesting.
  private init(_ scanner: inout JSONScanner, depth: Int = 0) throws(JSONFault) {
    guard depth < Self.depthLimit else { throw scanner.fault("nested too deeply") }
    guard let first = scanner.next() else { throw scanner.fault("the text ends too early") }
    position = scanner.position
    switch first {
    case UInt8(ascii: "{"):
      var members: [(name: String, node: JSONNode)] = []
      try scanner.members { (scanner, name) throws(JSONFault) in
        members.append((name, try JSONNode(&scanner, depth: depth + 1)))
      }
      value = .object(members)
    case UInt8(ascii: "["):
      var elements: [JSONNode] = []
      try scanner.elements { (scanner) throws(JSONFault) in
        elements.append(try JSONNode(&scanner, depth: depth + 1))
      }
      value = .list(elements)
    case UInt8(ascii: "\""): value = .text(try scanner.string("a text"))
    case UInt8(ascii: "t") where scanner.take(word: "true"): value = .boolean(true)
    case UInt8(ascii: "f") where scanner.take(word: "false"): value = .boolean(false)
    case UInt8(ascii: "n") where scanner.take(word: "null"): value = .null
    default: value = .number(try scanner.number("a value"))
    }
  }
}

/// Object with its known members.
struct JSONSection {
  /// Key path of the object, empty for the whole file.
  let key: String
  /// The object itself.
  let node: JSONNode
  /// Its members by name.
  let members: [String: JSONNode]

  /// Key path of a member.
  func path(_ name: String) -> String { key.isEmpty ? name : "\(key).\(name)" }
}

/// Reader of the JSON of plans, recipes and settings, whose errors name file, line and key.
package struct SettingsReader {
  private let file: String?
  private let text: [UInt8]
  /// Byte offsets of the keys read, for later errors.
  private var positions: [String: Int] = [:]

  /// Makes a reader of a text; without a file, errors name neither file nor line.
  package init(file: String? = nil, text: [UInt8] = []) {
    self.file = file
    self.text = text
  }

  /// Reads a file.
  ///
  /// - Throws: `PlanError` when it cannot be read or is too large.
  package init(path: String) throws(PlanError) {
    do throws(FileError) {
      self.init(file: path, text: try AtomicFile.read(path, limit: 4 << 20))
    } catch {
      throw PlanError(key: nil, error.message)
    }
  }

  /// Parses the text.
  ///
  /// - Throws: `PlanError` for text that is not JSON.
  package func root() throws(PlanError) -> JSONNode {
    do throws(JSONFault) {
      return try JSONNode(parsing: text)
    } catch {
      throw self.error(
        at: error.position, key: nil, "not valid JSON, \(error.message); correct the line")
    }
  }

  /// Makes an error with the file and the line of `position`.
  func error(at position: Int, key: String?, _ message: String) -> PlanError {
    var error = PlanError(key: key, message)
    guard let file else { return error }
    error.file = file
    error.line = 1 + text.prefix(position).count { $0 == UInt8(ascii: "\n") }
    return error
  }

  /// Runs a check of the values read, and adds file and line to an error about a key or its parent.
  ///
  /// - Throws: `PlanError` of `body`.
  package func locating(_ body: () throws(PlanError) -> Void) throws(PlanError) {
    do throws(PlanError) {
      try body()
    } catch {
      var key = error.key ?? ""
      while positions[key] == nil, let end = key.lastIndex(where: { ".[".contains($0) }) {
        key = String(key[..<end])
      }
      throw self.error(at: positions[key] ?? 0, key: error.key, error.message)
    }
  }

  /// Reads an object whose members must be among `known`.
  mutating func section(
    _ node: JSONNode, key: String, known: [String]?
  ) throws(PlanError) -> JSONSection {
    guard case .object(let list) = node.value else { throw wrongType(node, key, "an object") }
    var members: [String: JSONNode] = [:]
    for (name, member) in list {
      let path = key.isEmpty ? name : "\(key).\(name)"
      if let known, !known.contains(name) {
        throw error(at: member.position, key: path, Self.unknown(known))
      }
      guard members.updateValue(member, forKey: name) == nil else {
        throw error(at: member.position, key: path, "the key appears twice; remove one")
      }
      positions[path] = member.position
    }
    positions[key] = node.position
    return JSONSection(key: key, node: node, members: members)
  }

  /// Reads the elements of a list.
  mutating func elements(
    _ node: JSONNode, key: String, kind: String
  ) throws(PlanError) -> [JSONNode] {
    guard case .list(let elements) = node.value else { throw wrongType(node, key, kind) }
    for (index, element) in elements.enumerated() {
      positions["\(key)[\(index)]"] = element.position
    }
    return elements
  }

  /// Returns a required member.
  func required(_ name: String, in section: JSONSection) throws(PlanError) -> JSONNode {
    if let node = section.members[name] { return node }
    throw error(
      at: section.node.position, key: section.path(name), "the key is missing; add it")
  }

  /// Reads the value of a required member.
  mutating func value<Value: SettingValue>(
    _ name: String, in section: JSONSection
  ) throws(PlanError) -> Value {
    try Value.read(required(name, in: section), at: section.path(name), by: &self)
  }

  func wrongType(_ node: JSONNode, _ key: String, _ expected: String) -> PlanError {
    error(at: node.position, key: key, "expected \(expected), found \(node.kind); correct it")
  }

  /// Message for a key that is not among `known`.
  static func unknown(_ known: [String]) -> String {
    "unknown key, expected one of \(known.joined(separator: ", ")); remove or correct it"
  }
}
