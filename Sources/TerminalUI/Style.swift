/// A colour of text or background, independent of what the terminal can show.
///
/// A theme gives the named colours their values; the terminal maps each value to the nearest that it has: 24-bit, 256,
/// 16, 8 or none at all.
package enum Color: Hashable, Sendable {
  case `default`
  case red, green, yellow, blue, magenta, cyan, white, gray
  /// The background of bars, and text on it.
  case surface, surfaceText, surfaceStrong, surfaceQuiet, surfaceKey, surfaceWarning, surfaceFailure
  /// The background of what is selected, and text on it.
  case selection, selectionText
  /// One of eight colours that tell curves apart.
  case series(UInt8)
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
