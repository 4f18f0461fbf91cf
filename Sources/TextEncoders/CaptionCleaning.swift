import Foundation

/// Cleaning of captions before tokenization, as in PixArt's pipeline (diffusers `PixArtSigmaPipeline`).
package enum CaptionCleaning {
  /// Returns a caption in lower case without surrounding white space: the pipeline with `clean_caption` off.
  package static func lowered(_ caption: String) -> String {
    trimmed(pythonLowercased(caption))
  }

  /// Returns a caption as the pipeline passes it to the tokenizer by default: cleaned twice.
  ///
  /// Of ftfy's repairs all are done but that of text decoded in a wrong encoding.
  package static func cleaned(_ caption: String, times: Int = 2) -> String {
    (0..<times).reduce(caption) { text, _ in cleanedOnce(text) }
  }

  // MARK: - Rules

  /// Replacement of a regular expression's matches, in which `W`, `w`, `S`, `s` and so on stand for Python's
  /// classes of Unicode characters.
  private struct Rule: @unchecked Sendable {
    let expression: NSRegularExpression?
    let replacement: String

    init(_ pattern: String, _ replacement: String = "") {
      expression = try? NSRegularExpression(pattern: Rule.translated(pattern))
      self.replacement = replacement
    }

    private static let word = #"\p{L}\p{N}_"#
    private static let space =
      #"\u0009-\u000D\u001C-\u0020\u0085\u00A0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000"#

    /// ICU's classes and word boundaries take combining marks for letters and know fewer spaces; Python's
    /// `$` also matches before a last line feed, but before no other separator.
    private static func translated(_ pattern: String) -> String {
      let boundary = "(?:(?<=[\(word)])(?![\(word)])|(?<![\(word)])(?=[\(word)]))"
      let places = [
        (#"\w"#, "[\(word)]"), (#"\b"#, boundary), (#"\s"#, "[\(space)]"), (#"\S"#, "[^\(space)]"),
        (#"\d"#, #"\p{Nd}"#), (#"\D"#, #"\P{Nd}"#), ("$$", #"(?=\n?\z)"#), ("^^", #"\A"#),
      ]
      return places.reduce(pattern) { $0.replacingOccurrences(of: $1.0, with: $1.1) }
    }

    func applied(to text: String) -> String {
      expression?.stringByReplacingMatches(
        in: text, range: NSRange(text.startIndex..., in: text), withTemplate: replacement) ?? text
    }

    func count(in text: String) -> Int {
      expression?.numberOfMatches(in: text, range: NSRange(text.startIndex..., in: text)) ?? 0
    }
  }

  private static let addresses = ["https?", "www"].map { scheme in
    Rule(
      #"\b(?:\#(scheme):(?:/{1,3}|[a-zA-Z0-9%])|[a-zA-Z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)(?:\w|[/-])*\b/?(?!@))"#
    )
  }

  /// Rules between the text of HTML and the repair of characters.
  private static let marks = [
    Rule(#"@\w+\b"#),
    // Strokes, compatibility forms and ideographs; kana and Hangul stay.
    Rule(#"[\u31C0-\u4DFF\u4E00-\u9FFF]+"#),
    Rule(
      #"[\u002D\u058A\u05BE\u1400\u1806\u2010-\u2015\u2E17\u2E1A\u2E3A\u2E3B\u2E40\u301C\u3030\u30A0\uFE31\uFE32\uFE58\uFE63\uFF0D]+"#,
      "-"),
    Rule(#"[`´«»“”¨]"#, "\""), Rule("[‘’]", "'"), Rule("&quot;?"), Rule("&amp"),
    Rule(#"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}"#, " "), Rule(#"\d:\d\d\s+$$"#), Rule(#"\\n"#, " "),
    Rule(#"#\d{1,3}\b"#), Rule(#"#\d{5,}\b"#), Rule(#"\b\d{6,}\b"#),
    Rule(#"\S+\.(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)"#), Rule(#"["']{2,}"#, "\""),
    Rule(#"\.{2,}"#, " "), Rule(#"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+"#, " "), Rule(#"\s+\.\s+"#, " "),
  ]
  private static let joint = Rule("[-_]", " ")

  /// Rules after the repair of characters.
  private static let words = [
    Rule(#"\b[a-zA-Z]{1,3}\d{3,15}\b"#), Rule(#"\b[a-zA-Z]+\d+[a-zA-Z]+\b"#),
    Rule(#"\b\d+[a-zA-Z]+\d+\b"#), Rule(#"(worldwide\s+)?(free\s+)?shipping"#),
    Rule(#"(free\s)?download(\sfree)?"#), Rule(#"\bclick\b\s(?:for|on)\s\w+"#),
    Rule(#"\b(?:png|jpg|jpeg|bmp|webp|eps|pdf|apk|mp4)(\simages?)?"#), Rule(#"\bpage\s+\d+\b"#),
    Rule(#"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z0-9]*\b"#, " "),
    Rule(#"\b\d+\.?\d*[xх×]\d+\.?\d*\b"#), Rule(#"\b\s+:\s+"#, ": "), Rule(#"(\D[,./])\b"#, "$1 "),
    Rule(#"\s+"#, " "), Rule(#"^^["']([\S\s]+)["']$$"#, "$1"), Rule(#"^^['_,\-:;]"#),
    Rule(#"['_,\-:+]$$"#), Rule(#"^^\.\S+$$"#),
  ]

  private static func cleanedOnce(_ caption: String) -> String {
    var text = trimmed(pythonLowercased(unquoted(caption)))
    text = text.replacingOccurrences(of: "<person>", with: "person")
    text = addresses.reduce(text) { $1.applied(to: $0) }
    text = marks.reduce(HTMLText.content(of: text)) { $1.applied(to: $0) }
    if joint.count(in: text) > 3 { text = joint.applied(to: text) }
    text = unescaped(unescaped(TextRepair.repaired(text)))
    return trimmed(words.reduce(text) { $1.applied(to: $0) })
  }

  // MARK: - Python's string functions

  private static func trimmed(_ text: String) -> String {
    var scalars = Substring(text).unicodeScalars.drop(while: \.isPythonSpace)
    while let last = scalars.last, last.isPythonSpace { scalars.removeLast() }
    return String(scalars)
  }

  /// Lower case; a sigma that ends a word becomes a final one.
  private static func pythonLowercased(_ text: String) -> String {
    guard text.unicodeScalars.contains("\u{3A3}") else { return text.lowercased() }
    let scalars = Array(text.unicodeScalars)
    func cased(_ places: some Sequence<Int>) -> Bool {
      for place in places {
        let properties = scalars[place].properties
        if properties.isCaseIgnorable { continue }
        return properties.isCased
      }
      return false
    }
    var result = ""
    for (place, scalar) in scalars.enumerated() {
      if scalar == "\u{3A3}" {
        let isFinal =
          cased((0..<place).reversed()) && !cased((place + 1)..<scalars.count)
        result += isFinal ? "\u{3C2}" : "\u{3C3}"
      } else {
        result += scalar.properties.lowercaseMapping
      }
    }
    return result
  }

  /// Decodes `+` and percent-encoded UTF-8 (`urllib.parse.unquote_plus`).
  private static func unquoted(_ text: String) -> String {
    var bytes: [UInt8] = []
    let source = Array(text.utf8.map { $0 == UInt8(ascii: "+") ? UInt8(ascii: " ") : $0 })
    var at = 0
    func digit(_ place: Int) -> UInt8? {
      guard place < source.count else { return nil }
      return Character(Unicode.Scalar(source[place])).hexDigitValue.map(UInt8.init)
    }
    while at < source.count {
      if source[at] == UInt8(ascii: "%"), let high = digit(at + 1), let low = digit(at + 2) {
        bytes.append(high << 4 | low)
        at += 3
      } else {
        bytes.append(source[at])
        at += 1
      }
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  private static let reference = try? NSRegularExpression(
    pattern: #"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)"#)

  /// Replaces character references as in Python's `html.unescape`.
  static func unescaped(_ text: String) -> String {
    guard text.contains("&"), let reference else { return text }
    var result = ""
    var end = text.startIndex
    for match in reference.matches(in: text, range: NSRange(text.startIndex..., in: text)) {
      guard let range = Range(match.range, in: text) else { continue }
      result += text[end..<range.lowerBound] + character(text[range].dropFirst())
      end = range.upperBound
    }
    return result + text[end...]
  }

  private static func character(_ name: Substring) -> String {
    let bare = name.hasSuffix(";") ? name.dropLast() : name
    if bare.hasPrefix("#") {
      let digits = bare.dropFirst()
      let isHex = digits.hasPrefix("x") || digits.hasPrefix("X")
      let number = UInt32(isHex ? digits.dropFirst() : digits, radix: isHex ? 16 : 10)
      return HTMLEntities.character(number).map(String.init) ?? ""
    }
    let isComplete = name.hasSuffix(";")
    if let character = HTMLEntities.character(bare, needsNoSemicolon: !isComplete) {
      return String(character)
    }
    // The longest name that needs no semicolon.
    for length in stride(from: name.count - 1, through: 2, by: -1) {
      if let character = HTMLEntities.character(name.prefix(length), needsNoSemicolon: true) {
        return String(character) + name.dropFirst(length)
      }
    }
    return "&" + name
  }
}
