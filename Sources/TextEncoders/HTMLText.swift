/// Text content of an HTML fragment, as BeautifulSoup's `.text` gives it with Python's `html.parser`.
struct HTMLText {
  private let source: [Unicode.Scalar]
  private var text = String.UnicodeScalarView()
  /// Number of open elements whose text is not shown.
  private var hidden: [String] = []

  /// Elements whose content is no text of the page.
  private static let unshown: Set<String> = ["script", "style", "template"]
  /// Elements whose content is not parsed.
  private static let raw: Set<String> = ["script", "style"]

  /// Returns the text of a fragment without tags, comments, scripts and declarations.
  static func content(of fragment: String) -> String {
    var parser = HTMLText(source: Array(fragment.unicodeScalars))
    parser.parse()
    return String(parser.text)
  }

  private init(source: [Unicode.Scalar]) { self.source = source }

  private mutating func emit(_ scalars: some Sequence<Unicode.Scalar>) {
    if hidden.isEmpty { text.append(contentsOf: scalars) }
  }

  private mutating func parse() {
    var at = 0
    while at < source.count {
      if let element = hidden.last, Self.raw.contains(element) {
        at = skipRaw(at, element)
      } else if source[at] == "<" {
        // A tag that is not closed is text up to the next one.
        at = markup(at) ?? unclosed(at)
      } else if source[at] == "&" {
        at = reference(at)
      } else {
        emit([source[at]])
        at += 1
      }
    }
  }

  private func has(_ marker: String, at place: Int) -> Bool {
    source[place...].starts(with: marker.unicodeScalars)
  }

  private func find(_ marker: String, from place: Int) -> Int? {
    guard let first = marker.unicodeScalars.first, place < source.count else { return nil }
    return (place..<source.count).first { source[$0] == first && has(marker, at: $0) }
  }

  /// Reads a tag, comment or declaration; returns the place behind it, nil if it is not closed.
  private mutating func markup(_ at: Int) -> Int? {
    guard at + 1 < source.count else { return nil }
    let next = source[at + 1]
    if next.isASCIILetter { return startTag(at) }
    if has("<!--", at: at) { return find("-->", from: at + 4).map { $0 + 3 } }
    if next == "!" || next == "?" { return find(">", from: at + 2).map { $0 + 1 } }
    guard next == "/" else {
      emit(["<"])
      return at + 1
    }
    guard let end = find(">", from: at + 2) else { return nil }
    let name = Self.name(source[(at + 2)..<end])
    if let place = hidden.lastIndex(of: name) { hidden.removeSubrange(place...) }
    return end + 1
  }

  private mutating func unclosed(_ at: Int) -> Int {
    let end = find(">", from: at + 1).map { $0 + 1 } ?? find("<", from: at + 1) ?? at + 1
    emit(source[at..<end])
    return end
  }

  /// Reads a start tag with quoted attribute values, which may hold `>`.
  private mutating func startTag(_ at: Int) -> Int? {
    var place = at + 1
    var quote: Unicode.Scalar?
    var afterEquals = false
    while place < source.count {
      let scalar = source[place]
      if let open = quote {
        if scalar == open { quote = nil }
      } else if afterEquals, scalar == "\"" || scalar == "'" {
        quote = scalar
      } else if scalar == ">" {
        let name = Self.name(source[(at + 1)..<place])
        let isEmpty = source[place - 1] == "/"
        if Self.unshown.contains(name), !isEmpty { hidden.append(name) }
        return place + 1
      }
      if quote == nil { afterEquals = scalar == "=" || afterEquals && scalar.isPythonSpace }
      place += 1
    }
    return nil
  }

  private static func name(_ scalars: ArraySlice<Unicode.Scalar>) -> String {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars.prefix { !$0.isPythonSpace && $0 != "/" && $0 != ">" })
    return String(view).lowercased()
  }

  private mutating func skipRaw(_ at: Int, _ element: String) -> Int {
    guard let end = find("</\(element)", from: at), let close = find(">", from: end) else {
      return source.count
    }
    hidden.removeLast()
    return close + 1
  }

  /// Reads a character reference; an unknown name stays, without its semicolon, and the text's last
  /// two characters lose an ampersand.
  private mutating func reference(_ at: Int) -> Int {
    func run(_ start: Int, _ holds: (Unicode.Scalar) -> Bool) -> Int {
      source[start...].firstIndex { !holds($0) } ?? source.count
    }
    func string(_ range: Range<Int>) -> String { String(String.UnicodeScalarView(source[range])) }
    let start = at + 1
    guard start < source.count, source[start] == "#" || source[start].isASCIILetter else {
      emit(["&"])
      return start
    }
    if source[start].isASCIILetter {
      let end = run(start) {
        $0.isASCIILetter || ("0"..."9").contains($0) || $0 == "-" || $0 == "."
      }
      guard end < source.count else {
        emit(source[(source.count - at == 2 ? start : at)...])
        return end
      }
      emit(
        HTMLEntities.character(string(start..<end)).map { Array($0.unicodeScalars) }
          ?? Array(source[at..<end]))
      return source[end] == ";" ? end + 1 : end
    }
    let isHex = start + 1 < source.count && source[start + 1] == "x"
    let digits = start + (isHex ? 2 : 1)
    let end = run(digits) { isHex ? $0.properties.isASCIIHexDigit : ("0"..."9").contains($0) }
    if end == source.count {
      emit(source[(source.count - at == 2 ? start : at)...])
      return end
    }
    // Digits that run into a letter of a hexadecimal number are no reference.
    guard end > digits, !source[end].properties.isASCIIHexDigit else {
      let isLast = find(";", from: at) == nil
      emit(isLast ? source[at...] : source[at...start])
      return isLast ? source.count : start + 1
    }
    let number = UInt32(string(digits..<end), radix: isHex ? 16 : 10)
    emit(HTMLEntities.character(number).map { Array($0.unicodeScalars) } ?? [])
    return source[end] == ";" ? end + 1 : end
  }
}

extension Unicode.Scalar {
  var isASCIILetter: Bool { ("a"..."z").contains(self) || ("A"..."Z").contains(self) }
}
