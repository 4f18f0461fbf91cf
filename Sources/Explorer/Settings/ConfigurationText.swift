/// The text of a configuration file: the part of YAML that has `key: value` lines, sections of such lines that are
/// indented, and comments.
struct ConfigurationText {
  /// What a line says.
  enum Line: Equatable {
    /// Blank, or a comment.
    case nothing
    /// `name:`, which begins a section.
    case section(String)
    /// `key: value`, in a section if it is indented.
    case value(section: String?, key: String, text: String)
    /// Anything else.
    case unreadable(String)
  }

  private var raw: [String]

  init(_ text: String) {
    raw = text.split(separator: "\n", omittingEmptySubsequences: false)
      .map { $0.hasSuffix("\r") ? String($0.dropLast()) : String($0) }
    if raw.last == "" { raw.removeLast() }
  }

  /// The whole text.
  var text: String { raw.map { $0 + "\n" }.joined() }

  /// What every line says.
  var lines: [Line] {
    var section: String?
    return raw.map { text in
      let line = Self.withoutComment(text)
      let isIndented = line.first == " " || line.first == "\t"
      let content = line.trimmingSpaces
      if content.isEmpty || content == "---" { return .nothing }
      guard let colon = Self.colon(in: content) else { return .unreadable(content) }
      let key = Self.unquoted(String(content[..<colon]).trimmingSpaces)
      let value = String(content[content.index(after: colon)...]).trimmingSpaces
      if !isIndented { section = nil }
      if value.isEmpty, !isIndented {
        section = key
        return .section(key)
      }
      return .value(section: isIndented ? section ?? "" : nil, key: key, text: Self.unquoted(value))
    }
  }

  /// Gives a top-level key a value: in its line if it has one, else in a new line before the first section.
  mutating func set(_ key: String, to value: String, comment: String) {
    let lines = lines
    let line = "\(key): \(value)"
    for (index, known) in lines.enumerated() {
      if case .value(nil, key, _) = known {
        let rest = raw[index].dropFirst(Self.withoutComment(raw[index]).count)
        raw[index] = line + (rest.isEmpty ? "" : " \(rest)")
        return
      }
    }
    let section = lines.firstIndex { if case .section = $0 { true } else { false } }
    // The comments above a section belong to it.
    var place = section ?? lines.count
    while section != nil, place > 0, lines[place - 1] == .nothing { place -= 1 }
    raw.insert(contentsOf: [comment, line].filter { !$0.isEmpty }, at: place)
  }

  /// The first colon that a space or nothing follows.
  private static func colon(in text: String) -> String.Index? {
    text.indices.dropFirst().first { index in
      let next = text.index(after: index)
      return text[index] == ":" && (next == text.endIndex || text[next] == " ")
    }
  }

  private static func withoutComment(_ text: String) -> String {
    var quote: Character?
    var before: Character = " "
    for index in text.indices {
      let character = text[index]
      if let open = quote {
        if character == open { quote = nil }
      } else if character == "#" && (before == " " || before == "\t") {
        return String(text[..<index])
      } else if (character == "\"" || character == "'") && before == " " {
        quote = character
      }
      before = character
    }
    return text
  }

  private static func unquoted(_ text: String) -> String {
    guard text.count >= 2, let first = text.first, first == text.last, first == "\"" || first == "'"
    else { return text }
    return String(text.dropFirst().dropLast())
  }
}
