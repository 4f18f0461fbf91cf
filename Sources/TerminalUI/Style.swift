/// A colour of text or background, independent of what the terminal can show.
///
/// The terminal maps each colour to the nearest it has: 24-bit, 256, 16, 8 or none at all.
package enum Color: Hashable, Sendable {
  case `default`
  case red, green, yellow, blue, magenta, cyan, white, gray
  /// An entry of the 256-colour palette.
  case index(UInt8)
  /// Red, green and blue, 0 to 255 each.
  case rgb(UInt8, UInt8, UInt8)
}

/// How one cell is drawn: two colours and four attributes.
package struct Style: Hashable, Sendable {
  /// The colour of the character.
  package var foreground: Color
  /// The colour behind the character.
  package var background: Color
  /// Heavier strokes.
  package var bold: Bool
  /// Fainter strokes.
  package var dim: Bool
  /// A line under the character.
  package var underline: Bool
  /// Foreground and background exchanged.
  package var reverse: Bool

  /// Makes a style; everything left out is the terminal's default.
  package init(
    foreground: Color = .default, background: Color = .default, bold: Bool = false,
    dim: Bool = false, underline: Bool = false, reverse: Bool = false
  ) {
    self.foreground = foreground
    self.background = background
    self.bold = bold
    self.dim = dim
    self.underline = underline
    self.reverse = reverse
  }
}

/// One character position of the screen.
package struct Cell: Hashable, Sendable {
  /// The character; a wide one is followed by a cell that holds `Cell.continuation`.
  package var character: Character
  /// How it is drawn.
  package var style: Style

  /// Makes a cell; without arguments a blank one.
  package init(character: Character = " ", style: Style = Style()) {
    self.character = character
    self.style = style
  }

  /// The character that marks the right half of a wide character; never drawn itself.
  package static let continuation: Character = "\0"
}

/// The size of the terminal in cells and, where it says so, of one cell in pixels.
package struct Size: Equatable, Sendable {
  /// Cells in a row.
  package var columns: Int
  /// Rows.
  package var rows: Int
  /// Pixels across one cell; nil when unknown.
  package var cellWidth: Int?
  /// Pixels down one cell; nil when unknown.
  package var cellHeight: Int?

  /// Makes a size.
  package init(columns: Int, rows: Int, cellWidth: Int? = nil, cellHeight: Int? = nil) {
    self.columns = columns
    self.rows = rows
    self.cellWidth = cellWidth
    self.cellHeight = cellHeight
  }

  /// Makes the size that a terminal states, cut to what a screen can have.
  ///
  /// - Parameters:
  ///   - columns: Cells in a row, at least 1.
  ///   - rows: Rows, at least 1.
  ///   - pixelWidth: Pixels across the window, 0 when unknown; they may include a border.
  ///   - pixelHeight: Pixels down the window, 0 when unknown.
  package init(columns: Int, rows: Int, pixelWidth: Int, pixelHeight: Int) {
    self.init(columns: min(columns, 1000), rows: min(rows, 500))
    // Rounding down leaves a border out.
    let (width, height) = (pixelWidth / columns, pixelHeight / rows)
    if Self.isCell(width: width, height: height) { (cellWidth, cellHeight) = (width, height) }
  }

  /// Whether one cell can have so many pixels; sizes come from outside.
  static func isCell(width: Int, height: Int) -> Bool {
    (1...256).contains(width) && (1...256).contains(height)
  }
}
