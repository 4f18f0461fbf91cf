import CText

extension String {
  /// The text with every scalar that could control or mislead a terminal written as an escape such as `\u{1b}`.
  ///
  /// Escaped are control characters (C0, DEL, C1, line breaks), line and paragraph separators, bidirectional
  /// controls and everything else that is invisible, combining marks without a base or beyond the fourth on one,
  /// and scalars that the C library has no width for. Joiners and variation selectors stay where scripts and emoji
  /// need them. Escaping twice gives the same text.
  package var printable: String {
    if isPlainASCII { return self }
    var result = String.UnicodeScalarView()
    TextPart.scan(unicodeScalars) { part in
      switch part {
      case .base(let scalar, _), .mark(let scalar), .invisible(let scalar): result.append(scalar)
      case .escaped(let scalar): result.append(contentsOf: scalar.escape.unicodeScalars)
      }
    }
    return String(result)
  }

  /// The printable text, of a long one only its beginning and its end around an ellipsis.
  ///
  /// - Parameter limit: The most characters of the result; at least 3.
  /// - Returns: At most `limit` characters.
  package func printable(limit: Int) -> String {
    // No more than `limit` scalars at either end can be part of the result.
    let isLong = unicodeScalars.count > 2 * limit
    let head = isLong ? String(unicodeScalars.prefix(limit)).printable : printable
    guard isLong || head.count > limit else { return head }
    let tail = isLong ? String(unicodeScalars.suffix(limit)).printable : head
    let tailCount = (limit - 1) * 2 / 5
    return head.prefix(limit - 1 - tailCount) + "…" + tail.suffix(tailCount)
  }

  /// A sentence for the person at the terminal in one line: printable, long words and a long whole shortened.
  ///
  /// A refusal repeats what was typed or read, which may be thousands of characters.
  package var printableSentence: String {
    split(omittingEmptySubsequences: false) { $0.isNewline || $0 == " " }
      .map { String($0).printable(limit: 240) }.joined(separator: " ").printable(limit: 1200)
  }

  /// JSON in which every scalar that `printable` would escape is a `\u` escape; the value stays the same.
  ///
  /// - Precondition: The text is JSON, whose only line breaks are those between its tokens.
  package var printableJSON: String {
    if utf8.allSatisfy({ $0 < 0x7f }) { return self }
    var result = ""
    TextPart.scan(unicodeScalars) { part in
      switch part {
      case .base(let scalar, _), .mark(let scalar), .invisible(let scalar):
        result.unicodeScalars.append(scalar)
      case .escaped("\n"): result += "\n"
      case .escaped(let scalar):
        for unit in String(scalar).utf16 {
          let hex = String(unit, radix: 16)
          result += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
        }
      }
    }
    return result
  }

  /// Whether it has ASCII characters from space to tilde alone.
  var isPlainASCII: Bool { utf8.allSatisfy { $0 >= 0x20 && $0 < 0x7f } }
}

extension Unicode.Scalar {
  /// The visible escape of the scalar.
  var escape: String {
    switch self {
    case "\n": "\\n"
    case "\r": "\\r"
    case "\t": "\\t"
    default: "\\u{\(String(value, radix: 16))}"
    }
  }

  /// Columns as the C library's `wcwidth` has them in a UTF-8 locale; -1 for what cannot be drawn.
  var columns: Int {
    if value >= 0x20 && value < 0x7f { return 1 }
    if value < 0x20000 { return Int(Self.widths[Int(value)]) }
    if value <= 0x3fffd { return 2 }
    return value >= 0xe0100 && value <= 0xe01ef ? 0 : -1
  }

  private static let widths: [Int8] = {
    var widths = [Int8](repeating: -1, count: 0x20000)
    widths.withUnsafeMutableBufferPointer { tx_fill_widths($0.baseAddress, Int32($0.count)) }
    return widths
  }()
}

/// What becomes of one scalar of a text that is printed or drawn.
enum TextPart {
  /// It is drawn in one or two columns.
  case base(Unicode.Scalar, columns: Int)
  /// It is drawn on the base before it.
  case mark(Unicode.Scalar)
  /// A joiner or variation selector that belongs where it stands; it has no width of its own.
  case invisible(Unicode.Scalar)
  /// It is shown by its escape.
  case escaped(Unicode.Scalar)

  /// The most marks on one base: what a cell of curses holds.
  private static let mostMarks = 4

  /// Classifies the scalars of a text in order.
  static func scan(_ scalars: String.UnicodeScalarView, _ body: (TextPart) -> Void) {
    // The base that a mark would join; nil after an escape and at the start.
    var base: Unicode.Scalar?
    var marks = 0
    var index = scalars.startIndex
    while index < scalars.endIndex {
      let scalar = scalars[index]
      scalars.formIndex(after: &index)
      let next = index < scalars.endIndex ? scalars[index] : nil
      switch kind(of: scalar) {
      case .base(let columns):
        body(.base(scalar, columns: columns))
        (base, marks) = (scalar == " " ? nil : scalar, 0)
      case .mark where base != nil && marks < mostMarks,
        .jamo where base.map(isHangul) ?? false && marks < mostMarks:
        body(.mark(scalar))
        marks += 1
      case .joiner where (base?.value ?? 0) >= 0x300 && (next?.value ?? 0) >= 0x300:
        body(.invisible(scalar))
      case .selector where (base?.value ?? 0) >= 0x80 || base != nil && next == "\u{20e3}":
        body(.invisible(scalar))
      default:
        body(.escaped(scalar))
        base = nil
      }
    }
  }

  private enum Kind { case base(Int), mark, jamo, joiner, selector, hidden }

  private static func kind(of scalar: Unicode.Scalar) -> Kind {
    let value = scalar.value
    // ASCII, and the arrows, lines, blocks and braille dots that screens are made of.
    if value >= 0x20 && value < 0x7f { return .base(1) }
    if value >= 0x2190 && value < 0x2900, scalar.columns > 0 { return .base(scalar.columns) }
    switch value {
    case 0x200c, 0x200d: return .joiner
    case 0xfe00...0xfe0f, 0xe0100...0xe01ef, 0x180b...0x180d, 0x180f: return .selector
    default: break
    }
    let properties = scalar.properties
    if properties.isDefaultIgnorableCodePoint { return .hidden }
    switch properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator, .surrogate: return .hidden
    case .nonspacingMark, .enclosingMark: return .mark
    default:
      let columns = scalar.columns
      if (0x1160...0x11ff).contains(value) || (0xd7b0...0xd7fb).contains(value) { return .jamo }
      return columns > 0 ? .base(columns) : .hidden
    }
  }

  /// Whether vowels and finals of decomposed Hangul join the scalar.
  private static func isHangul(_ scalar: Unicode.Scalar) -> Bool {
    [0x1100...0x115f, 0xa960...0xa97c, 0xac00...0xd7a3].contains { $0.contains(scalar.value) }
  }
}
