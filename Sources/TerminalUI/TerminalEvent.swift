/// A key press, however the terminal spelled it.
package enum Key: Hashable, Sendable {
  /// A printable character, space included.
  case character(Character)
  case enter, escape, tab, backTab, backspace, delete
  case up, down, left, right, home, end, pageUp, pageDown
  /// F1 is `function(1)`.
  case function(Int)
  /// Ctrl with a letter in lower case, or with one of `@ \ ] ^ _`.
  case control(Character)
}

/// A character key can be written as the character itself in the table.
extension Key: ExpressibleByUnicodeScalarLiteral {
  /// Makes a character key.
  package init(unicodeScalarLiteral value: Character) {
    self = .character(value)
  }
}

/// What the terminal has to tell the explorer's loop.
package enum TerminalEvent: Equatable, Sendable {
  /// A key was pressed.
  case key(Key)
  /// Text was pasted; control characters are already replaced by spaces.
  case paste(String)
  /// The window has a new size, or the screen came back after a suspension: draw again.
  case resize(Size)
  /// The time given to `Terminal.nextEvent` is over.
  case tick
  /// SIGINT (Ctrl-C) or SIGTERM asks the program to end; the value is the signal's number.
  case signal(Int32)
  /// The terminal is gone: end without drawing.
  case hangup
}

/// How images are drawn, as asked for and as chosen.
package enum GraphicsMode: String, CaseIterable, Sendable {
  /// Sixel where the terminal reports it, else half blocks.
  case auto
  /// Pixels, through the terminal's sixel graphics.
  case sixel
  /// Two pixels a cell with the upper half block, or shaded characters without colours.
  case blocks
  /// No images.
  case none
}
