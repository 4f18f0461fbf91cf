import Files

/// A JSON value that remembers where it stands in its text.
struct JSONNode {
  indirect enum Value {
    case object([(name: String, node: JSONNode)])
    case list([JSONNode])
    case text(String)
    case number(String)
    case boolean(Bool)
    case null
  }

  var value: Value
  /// Offset in bytes of the value's first character.
  var position: Int

  /// What kind of value this is, for messages.
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

  /// Plans are flat; deeper nesting is not worth a stack.
  private static let depthLimit = 16

  /// Parses the next value.
  ///
  /// - Throws: `JSONFault` for anything that is not strict JSON, and for deep nesting.
  init(_ scanner: inout JSONScanner, depth: Int = 0) throws(JSONFault) {
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

/// An object of a plan file with its known members, each at most once.
struct PlanSection {
  /// The key that leads here, empty for the whole file.
  let key: String
  /// The object itself.
  let node: JSONNode
  /// Its members by name.
  let members: [String: JSONNode]

  /// The key of a member.
  func path(_ name: String) -> String { key.isEmpty ? name : "\(key).\(name)" }
}

/// Turns the JSON of one plan file into values, refusing what is unknown or of the wrong type.
struct PlanReader {
  let file: String
  private let text: [UInt8]
  /// Where each key that was read stands, for errors that are found later.
  private var positions: [String: Int] = [:]

  init(file: String, text: [UInt8]) {
    self.file = file
    self.text = text
  }

  /// The root value of the text.
  func root() throws(PlanError) -> JSONNode {
    let parsed = text.withUnsafeBytes { bytes in
      Result { () throws(JSONFault) in
        var scanner = JSONScanner(bytes)
        let node = try JSONNode(&scanner)
        try scanner.finish()
        return node
      }
    }
    switch parsed {
    case .success(let node): return node
    case .failure(let fault):
      throw error(
        at: fault.position, key: nil, "not valid JSON, \(fault.message); correct the line")
    }
  }

  /// An error that names the file and the line of `position`.
  func error(at position: Int, key: String?, _ message: String) -> PlanError {
    var error = PlanError(key: key, message)
    error.file = file
    error.line = 1 + text.prefix(position).count { $0 == UInt8(ascii: "\n") }
    return error
  }

  /// Adds file and line to an error about a key that was read, or about one above it.
  func located(_ error: PlanError) -> PlanError {
    var key = error.key ?? ""
    while positions[key] == nil, let dot = key.lastIndex(of: ".") { key = String(key[..<dot]) }
    return self.error(at: positions[key] ?? 0, key: error.key, error.message)
  }

  /// Opens an object whose members must be among `known`.
  mutating func section(
    _ node: JSONNode, key: String, known: [String]?
  ) throws(PlanError) -> PlanSection {
    guard case .object(let list) = node.value else {
      throw error(at: node.position, key: key, "expected an object, found \(node.kind); correct it")
    }
    var members: [String: JSONNode] = [:]
    for (name, member) in list {
      let path = key.isEmpty ? name : "\(key).\(name)"
      if let known, !known.contains(name) {
        throw error(
          at: member.position, key: path,
          "unknown key, expected one of \(known.joined(separator: ", ")); remove or correct it")
      }
      guard members.updateValue(member, forKey: name) == nil else {
        throw error(at: member.position, key: path, "the key appears twice; remove one")
      }
      positions[path] = member.position
    }
    positions[key] = node.position
    return PlanSection(key: key, node: node, members: members)
  }

  /// A member that must be there.
  func required(_ name: String, in section: PlanSection) throws(PlanError) -> JSONNode {
    if let node = section.members[name] { return node }
    throw error(
      at: section.node.position, key: section.path(name), "the key is missing; add it")
  }

  /// A text; `fallback` stands for an absent key.
  func text(
    _ name: String, in section: PlanSection, or fallback: String? = nil
  ) throws(PlanError) -> String {
    if section.members[name] == nil, let fallback { return fallback }
    let node = try required(name, in: section)
    guard case .text(let text) = node.value else {
      throw wrongType(node, section.path(name), "a text")
    }
    return text
  }

  /// A truth value; `fallback` stands for an absent key.
  func boolean(
    _ name: String, in section: PlanSection, or fallback: Bool? = nil
  ) throws(PlanError) -> Bool {
    if section.members[name] == nil, let fallback { return fallback }
    let node = try required(name, in: section)
    guard case .boolean(let flag) = node.value else {
      throw wrongType(node, section.path(name), "true or false")
    }
    return flag
  }

  /// A whole number; `fallback` stands for an absent key.
  func integer<Number: FixedWidthInteger>(
    _ name: String, in section: PlanSection, or fallback: Number? = nil
  ) throws(PlanError) -> Number {
    if section.members[name] == nil, let fallback { return fallback }
    let node = try required(name, in: section)
    guard case .number(let text) = node.value, let value = Number(text) else {
      let sign = Number.isSigned ? "a whole number" : "a whole number from 0 up"
      throw wrongType(node, section.path(name), sign)
    }
    return value
  }

  /// A number; `fallback` stands for an absent key.
  func number(
    _ name: String, in section: PlanSection, or fallback: Double? = nil
  ) throws(PlanError) -> Double {
    if section.members[name] == nil, let fallback { return fallback }
    return try number(required(name, in: section), key: section.path(name))
  }

  /// A list of numbers; `fallback` stands for an absent key.
  func numbers(
    _ name: String, in section: PlanSection, or fallback: [Double]
  ) throws(PlanError) -> [Double] {
    guard let node = section.members[name] else { return fallback }
    guard case .list(let elements) = node.value else {
      throw wrongType(node, section.path(name), "a list of numbers")
    }
    var values: [Double] = []
    for element in elements { values.append(try number(element, key: section.path(name))) }
    return values
  }

  /// One of a few words; `fallback` stands for an absent key.
  func choice<Choice: RawRepresentable<String> & CaseIterable>(
    _ name: String, in section: PlanSection, or fallback: Choice? = nil
  ) throws(PlanError) -> Choice {
    if section.members[name] == nil, let fallback { return fallback }
    return try choice(required(name, in: section), key: section.path(name))
  }

  /// A list of words, each of a few; `fallback` stands for an absent key.
  func choices<Choice: RawRepresentable<String> & CaseIterable>(
    _ name: String, in section: PlanSection, or fallback: [Choice]
  ) throws(PlanError) -> [Choice] {
    guard let node = section.members[name] else { return fallback }
    guard case .list(let elements) = node.value else {
      throw wrongType(node, section.path(name), "a list of texts")
    }
    var found: [Choice] = []
    for element in elements { found.append(try choice(element, key: section.path(name))) }
    return found
  }

  private func choice<Choice: RawRepresentable<String> & CaseIterable>(
    _ node: JSONNode, key: String
  ) throws(PlanError) -> Choice {
    guard case .text(let text) = node.value, let choice = Choice(rawValue: text) else {
      let words = Choice.allCases.map { "\"\($0.rawValue)\"" }
      let last = words.last ?? ""
      throw wrongType(node, key, "\(words.dropLast().joined(separator: ", ")) or \(last)")
    }
    return choice
  }

  /// A finite number.
  func number(_ node: JSONNode, key: String) throws(PlanError) -> Double {
    guard case .number(let text) = node.value, let value = Double(text), value.isFinite else {
      throw wrongType(node, key, "a number")
    }
    return value
  }

  func wrongType(_ node: JSONNode, _ key: String, _ expected: String) -> PlanError {
    error(at: node.position, key: key, "expected \(expected), found \(node.kind); correct it")
  }
}
