import Foundation

/// Position and reason of a JSON syntax or type error.
package struct JSONFault: Error, Equatable {
  /// Offset in bytes from the start of the text.
  package let position: Int
  /// Reason.
  package let message: String
}

/// Strict pull parser for JSON text (RFC 8259) that reports positions.
///
/// It does not recurse and allocates only its results. Trailing commas, comments, raw control
/// characters, malformed UTF-8 and unpaired surrogates are refused.
package struct JSONScanner {
  private let text: UnsafeRawBufferPointer
  /// Offset in bytes of the next unread byte.
  package private(set) var position = 0

  /// Starts at the beginning of `text`, which must outlive the scanner.
  package init(_ text: UnsafeRawBufferPointer) {
    self.text = text
  }

  /// Makes a fault at the current position.
  package func fault(_ message: String) -> JSONFault {
    JSONFault(position: position, message: message)
  }

  /// Skips white space and returns the next byte without consuming it; nil at the end.
  package mutating func next() -> UInt8? {
    skipSpace()
    return position < text.count ? text[position] : nil
  }

  /// Calls `body` for each member of an object, with the cursor on the member's value.
  ///
  /// - Throws: `JSONFault`, also from `body`.
  package mutating func members(
    _ body: (inout JSONScanner, String) throws(JSONFault) -> Void
  ) throws(JSONFault) {
    try expect("{", "an object")
    if take("}") { return }
    repeat {
      let name = try string("a name")
      try expect(":", "`:` after the name \"\(name)\"")
      try body(&self, name)
    } while take(",")
    try expect("}", "`,` or `}`")
  }

  /// Calls `body` for each element of a list, with the cursor on the element.
  ///
  /// - Throws: `JSONFault`, also from `body`.
  package mutating func elements(
    _ body: (inout JSONScanner) throws(JSONFault) -> Void
  ) throws(JSONFault) {
    try expect("[", "a list")
    if take("]") { return }
    repeat { try body(&self) } while take(",")
    try expect("]", "`,` or `]`")
  }

  /// Throws for a key that an object of the text has twice, of which parsers take different values.
  package static func requireUniqueKeys(in text: Data, of path: String) throws(FileError) {
    guard let key = repeatedKey(in: text) else { return }
    throw FileError("\(path): has the key '\(key)' twice; remove the wrong one")
  }

  private static func repeatedKey(in text: Data) -> String? {
    text.withUnsafeBytes { bytes in
      var scanner = JSONScanner(bytes)
      var objects: [Set<String>] = []
      while let byte = scanner.next() {
        switch byte {
        case UInt8(ascii: "\""):
          guard let name = try? scanner.string("a text") else { return nil }
          if scanner.take(":"), let last = objects.indices.last,
            !objects[last].insert(name).inserted
          {
            return name
          }
          continue
        case UInt8(ascii: "{"): objects.append([])
        case UInt8(ascii: "}"): _ = objects.popLast()
        default: break
        }
        scanner.position += 1
      }
      return nil
    }
  }

  /// Reads an array of non-negative integers.
  ///
  /// - Throws: `JSONFault` for signs, fractions, exponents, overflow or more than `limit` numbers.
  package mutating func integers(_ what: String, limit: Int) throws(JSONFault) -> [Int] {
    var values: [Int] = []
    try elements { (scanner) throws(JSONFault) in
      guard values.count < limit else {
        throw scanner.fault("\(what) has more than \(limit) numbers")
      }
      let start = scanner
      let text = try scanner.number(what)
      guard !text.contains(where: { "-.eE".contains($0) }) else {
        throw start.fault("\(what) must hold whole numbers from 0 up")
      }
      guard let value = Int(text) else {
        throw start.fault("\(what) holds a number beyond 63 bits")
      }
      values.append(value)
    }
    return values
  }

  /// Reads the text of a number, checked against the JSON grammar.
  ///
  /// - Throws: `JSONFault` when there is no number.
  package mutating func number(_ what: String) throws(JSONFault) -> String {
    skipSpace()
    let start = position
    if position < text.count, text[position] == UInt8(ascii: "-") { position += 1 }
    let whole = position
    var isNumber = takeDigits()
    if position - whole > 1, text[whole] == UInt8(ascii: "0") { isNumber = false }
    if position < text.count, text[position] == UInt8(ascii: ".") {
      position += 1
      isNumber = takeDigits() && isNumber
    }
    if position < text.count, text[position] | 0x20 == UInt8(ascii: "e") {
      position += 1
      if position < text.count, text[position] == 0x2B || text[position] == 0x2D { position += 1 }
      isNumber = takeDigits() && isNumber
    }
    guard isNumber else { throw fault("expected \(what) as a number") }
    return String(decoding: text[start..<position], as: UTF8.self)
  }

  /// Consumes `word` if it comes next.
  package mutating func take(word: StaticString) -> Bool {
    skipSpace()
    guard text.count - position >= word.utf8CodeUnitCount else { return false }
    for offset in 0..<word.utf8CodeUnitCount
    where text[position + offset] != word.utf8Start[offset] {
      return false
    }
    position += word.utf8CodeUnitCount
    return true
  }

  /// Reads a string and resolves its escapes.
  ///
  /// - Throws: `JSONFault` when there is no string or it is malformed.
  package mutating func string(_ what: String) throws(JSONFault) -> String {
    try expect("\"", "\(what) as a string")
    var (bytes, start): ([UInt8], Int) = ([], position)
    while position < text.count {
      let byte = text[position]
      position += 1
      switch byte {
      case UInt8(ascii: "\""):
        bytes += text[start..<(position - 1)]
        guard let string = String(validating: bytes, as: UTF8.self) else {
          throw fault("\(what) is not UTF-8 text")
        }
        return string
      case UInt8(ascii: "\\"):
        bytes += text[start..<(position - 1)]
        bytes += try escape(what)
        start = position
      case 0..<0x20:
        throw fault("\(what) contains a bare control character")
      default: break
      }
    }
    throw fault("\(what) does not end")
  }

  /// Requires that only white space remains.
  ///
  /// - Throws: `JSONFault` when something follows.
  package mutating func finish() throws(JSONFault) {
    skipSpace()
    guard position == text.count else { throw fault("text follows the end of the object") }
  }

  private mutating func escape(_ what: String) throws(JSONFault) -> [UInt8] {
    guard position < text.count else { throw fault("\(what) does not end") }
    let byte = text[position]
    position += 1
    switch byte {
    case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): return [byte]
    case UInt8(ascii: "b"): return [8]
    case UInt8(ascii: "f"): return [12]
    case UInt8(ascii: "n"): return [10]
    case UInt8(ascii: "r"): return [13]
    case UInt8(ascii: "t"): return [9]
    case UInt8(ascii: "u"): return try escapedScalar(what)
    default: throw fault("\(what) has an unknown escape")
    }
  }

  private mutating func escapedScalar(_ what: String) throws(JSONFault) -> [UInt8] {
    var code = try hexQuad(what)
    if (0xD800..<0xDC00).contains(code), text.count - position > 2,
      text[position] == UInt8(ascii: "\\"), text[position + 1] == UInt8(ascii: "u")
    {
      position += 2
      let low = try hexQuad(what)
      guard (0xDC00..<0xE000).contains(low) else {
        throw fault("\(what) has half a surrogate pair")
      }
      code = 0x10000 + (code - 0xD800) << 10 + (low - 0xDC00)
    }
    guard let scalar = Unicode.Scalar(code) else {
      throw fault("\(what) has half a surrogate pair")
    }
    return Array(String(Character(scalar)).utf8)
  }

  private mutating func hexQuad(_ what: String) throws(JSONFault) -> UInt32 {
    var value: UInt32 = 0
    for _ in 0..<4 {
      guard position < text.count, text[position] < 128,
        let digit = Character(Unicode.Scalar(text[position])).hexDigitValue
      else { throw fault("\(what) has a broken \\u escape") }
      value = value << 4 | UInt32(digit)
      position += 1
    }
    return value
  }

  private mutating func takeDigits() -> Bool {
    let start = position
    while position < text.count, text[position] >= 0x30, text[position] <= 0x39 { position += 1 }
    return position > start
  }

  private mutating func skipSpace() {
    while position < text.count {
      switch text[position] {
      case 0x20, 0x09, 0x0A, 0x0D: position += 1
      default: return
      }
    }
  }

  private mutating func take(_ character: Unicode.Scalar) -> Bool {
    skipSpace()
    guard position < text.count, text[position] == UInt8(ascii: character) else { return false }
    position += 1
    return true
  }

  private mutating func expect(_ character: Unicode.Scalar, _ what: String) throws(JSONFault) {
    guard take(character) else { throw fault("expected \(what)") }
  }
}

extension String {
  /// JSON string literal, escaping only control characters, quotes and backslashes.
  package var jsonQuoted: String {
    var result = "\""
    for scalar in unicodeScalars {
      switch scalar {
      case "\"": result += "\\\""
      case "\\": result += "\\\\"
      case "\n": result += "\\n"
      case "\r": result += "\\r"
      case "\t": result += "\\t"
      case _ where scalar.value < 0x20:
        let hex = String(scalar.value, radix: 16)
        result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
      default: result.unicodeScalars.append(scalar)
      }
    }
    return result + "\""
  }
}
