/// The columns that text takes in a terminal, and text cut, padded and wrapped to columns.
///
/// Everything that lines text up uses this: the cells of the explorer, tables of commands and of reports. Text is
/// measured as it is printed, with `printable`'s escapes.
package enum TextWidth {
  /// The columns of a text.
  package static func columns(of text: String) -> Int {
    text.isPlainASCII ? text.utf8.count : pieces(of: text).reduce(0) { $0 + $1.columns }
  }

  /// The text cut to at most some columns, the cut shown by an ellipsis.
  package static func clip(_ text: String, _ columns: Int) -> String {
    guard columns > 0 else { return "" }
    let pieces = pieces(of: text)
    guard pieces.reduce(0, { $0 + $1.columns }) > columns else { return joined(pieces) }
    return joined(pieces[..<fitting(pieces[...], columns - 1)]) + "…"
  }

  /// The text cut and filled up with spaces to exactly some columns.
  package static func pad(_ text: String, _ columns: Int) -> String {
    let clipped = clip(text, columns)
    return clipped + spaces(columns - self.columns(of: clipped))
  }

  /// The text cut and moved to the right edge of some columns.
  package static func padLeft(_ text: String, _ columns: Int) -> String {
    let clipped = clip(text, columns)
    return spaces(columns - self.columns(of: clipped)) + clipped
  }

  /// The words of a text in lines of at most some columns, long words broken; line breaks of the text are kept.
  package static func wrap(_ text: String, _ columns: Int) -> [String] {
    let columns = max(1, columns)
    var lines: [String] = []
    for paragraph in text.split(whereSeparator: \.isNewline) {
      var (line, used) = ("", 0)
      for word in paragraph.split(separator: " ") {
        var pieces = pieces(of: String(word))[...]
        var width = pieces.reduce(0) { $0 + $1.columns }
        if used > 0, used + 1 + width <= columns {
          (line, used) = (line + " ", used + 1)
        } else if used > 0 {
          lines.append(line)
          (line, used) = ("", 0)
        }
        while used + width > columns, pieces.count > 1 {
          let end = max(pieces.startIndex + 1, fitting(pieces, columns))
          lines.append(joined(pieces[..<end]))
          pieces = pieces[end...]
          width = pieces.reduce(0) { $0 + $1.columns }
        }
        (line, used) = (line + joined(pieces), used + width)
      }
      if used > 0 { lines.append(line) }
    }
    return lines
  }

  /// Rows of as many texts each, as lines whose columns line up.
  ///
  /// - Parameters:
  ///   - rows: The texts.
  ///   - numeric: Columns that are moved to the right edge.
  ///   - widest: The most columns of a text that is not in the last column; longer ones are cut.
  /// - Returns: A line for each row, without spaces at its end.
  package static func table(
    _ rows: [[String]], numeric: Set<Int> = [], widest: Int = .max
  ) -> [String] {
    let last = (rows.first?.count ?? 0) - 1
    let widths = (0...max(0, last)).map { column in
      let width = rows.map { columns(of: $0[column]) }.max() ?? 0
      return column == last ? width : min(width, widest)
    }
    return rows.map { row in
      let cells = row.indices.map {
        numeric.contains($0) ? padLeft(row[$0], widths[$0]) : pad(row[$0], widths[$0])
      }
      let line = cells.joined(separator: "  ")
      return String(
        line.prefix(upTo: line.lastIndex { $0 != " " }.map(line.index(after:)) ?? line.startIndex))
    }
  }

  /// One cell's worth of text: a character that `columns` (1 or 2) cells hold.
  package struct Piece: Equatable, Sendable {
    /// A spacing scalar with at most four marks.
    package var character: Character
    /// The cells that it takes.
    package var columns: Int
  }

  /// The characters of a text cell by cell; invisible scalars are left out, since terminals disagree on them.
  package static func pieces(of text: String) -> [Piece] {
    if text.isPlainASCII {
      return text.utf8.map { Piece(character: Character(Unicode.Scalar($0)), columns: 1) }
    }
    var result: [Piece] = []
    result.reserveCapacity(text.utf8.count)
    TextPart.scan(text.unicodeScalars) { part in
      switch part {
      case .base(let scalar, let columns):
        result.append(Piece(character: Character(scalar), columns: columns))
      case .mark(let scalar):
        let joined = String(result[result.count - 1].character) + String(Character(scalar))
        if joined.count == 1 { result[result.count - 1].character = Character(joined) }
      case .invisible: break
      case .escaped(let scalar):
        for character in scalar.escape { result.append(Piece(character: character, columns: 1)) }
      }
    }
    return result
  }

  private static func joined(_ pieces: some Sequence<Piece>) -> String {
    String(pieces.map(\.character))
  }

  /// The end of the longest beginning that fits into some columns.
  private static func fitting(_ pieces: ArraySlice<Piece>, _ columns: Int) -> Int {
    var used = 0
    return pieces.firstIndex {
      used += $0.columns
      return used > columns
    } ?? pieces.endIndex
  }

  private static func spaces(_ count: Int) -> String {
    String(repeating: " ", count: max(0, count))
  }
}
