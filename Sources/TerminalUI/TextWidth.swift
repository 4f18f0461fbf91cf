import CNcurses

/// How many columns text takes, as the C library's `wcwidth` has it, whatever the locale.
package enum TextWidth {
  /// Columns of one scalar, from a table made once in the C.UTF-8 locale; -1 for what cannot be drawn.
  private static let table: [Int8] = {
    var widths = [Int8](repeating: -1, count: 0x20000)
    widths.withUnsafeMutableBufferPointer { nc_fill_widths($0.baseAddress, Int32($0.count)) }
    return widths
  }()

  static func columns(of scalar: Unicode.Scalar) -> Int {
    let value = scalar.value
    if value >= 0x20 && value < 0x7f { return 1 }
    if value < 0x20000 { return Int(table[Int(value)]) }
    if value <= 0x3fffd { return 2 }
    return value >= 0xe0100 && value <= 0xe01ef ? 0 : -1
  }

  /// Columns of a character as a frame's cell holds it.
  static func columns(of character: Character) -> Int {
    character.isASCII ? 1 : (character.unicodeScalars.first.map { columns(of: $0) } ?? 0)
  }

  /// Columns that `text` takes when it is put into a frame.
  package static func columns(of text: String) -> Int {
    pieces(of: text).reduce(0) { $0 + $1.columns }
  }

  /// The text cut to at most `columns` columns, the cut shown by an ellipsis, and padded with spaces to exactly that.
  package static func fitted(_ text: String, columns limit: Int) -> String {
    guard limit > 0 else { return "" }
    let pieces = pieces(of: text)
    let total = pieces.reduce(0) { $0 + $1.columns }
    if total <= limit {
      return pieces.map { String($0.character) }.joined()
        + String(repeating: " ", count: limit - total)
    }
    var result = ""
    var used = 0
    for piece in pieces {
      guard used + piece.columns <= limit - 1 else { break }
      result.append(piece.character)
      used += piece.columns
    }
    return result + "…" + String(repeating: " ", count: limit - 1 - used)
  }

  /// One cell's worth of text: a character that `columns` (1 or 2) cells hold.
  struct Piece: Equatable {
    var character: Character
    var columns: Int
  }

  /// The cells' characters of `text`: one spacing scalar each with at most four combining marks.
  ///
  /// Control characters and what has no width become U+FFFD, tabs and separators spaces; invisible format
  /// characters (joiners, direction overrides) are dropped, since terminals disagree on them.
  static func pieces(of text: String) -> [Piece] {
    var result: [Piece] = []
    result.reserveCapacity(text.utf8.count)
    if text.utf8.allSatisfy({ $0 >= 0x20 && $0 < 0x7f }) {
      for character in text { result.append(Piece(character: character, columns: 1)) }
      return result
    }
    var marks = 0
    for scalar in text.unicodeScalars {
      switch scalar.properties.generalCategory {
      case .nonspacingMark, .enclosingMark:
        // Variation selectors change the width in some terminals and not in others.
        if (0xfe00...0xfe0f).contains(scalar.value) || scalar.value >= 0xe0100 { continue }
        guard marks < 4, let last = result.last, last.character != " " else { continue }
        let joined = String(last.character) + String(Character(scalar))
        guard joined.count == 1 else { continue }
        result[result.count - 1].character = Character(joined)
        marks += 1
        continue
      case .format:
        continue
      case .lineSeparator, .paragraphSeparator:
        result.append(Piece(character: " ", columns: 1))
      case .control:
        result.append(Piece(character: scalar == "\t" ? " " : "\u{fffd}", columns: 1))
      default:
        let width = columns(of: scalar)
        if width == 0 { continue }
        result.append(
          width > 0
            ? Piece(character: Character(scalar), columns: width)
            : Piece(character: "\u{fffd}", columns: 1))
      }
      marks = 0
    }
    return result
  }
}
