/// Modifier keys, as they are numbered in control sequences.
package struct Modifiers: OptionSet, Hashable, Sendable {
  package let rawValue: UInt8

  package init(rawValue: UInt8) { self.rawValue = rawValue }

  package static let shift = Modifiers(rawValue: 1)
  package static let alt = Modifiers(rawValue: 2)
  package static let control = Modifiers(rawValue: 4)
  /// Also called Windows or Command.
  package static let `super` = Modifiers(rawValue: 8)
}

/// A key press, however the terminal spelled it.
package indirect enum Key: Hashable, Sendable {
  /// A printable character, space included.
  case character(Character)
  case enter, escape, tab, backTab, backspace, delete
  case up, down, left, right, home, end, pageUp, pageDown
  /// F1 is `function(1)`.
  case function(Int)
  /// Ctrl with a letter in lower case, or with one of `@ \ ] ^ _`.
  case control(Character)
  /// A turn of the mouse wheel.
  case wheelUp, wheelDown
  /// Another key with modifiers that are not part of it, for example Alt-x or Ctrl-←.
  case modified(Modifiers, Key)

  /// The key with modifiers, if there are any.
  static func with(_ modifiers: Modifiers, _ key: Key) -> Key {
    modifiers.isEmpty ? key : .modified(modifiers, key)
  }
}

/// A character key can be written as the character itself in the table.
extension Key: ExpressibleByUnicodeScalarLiteral {
  /// Makes a character key.
  package init(unicodeScalarLiteral value: Character) {
    self = .character(value)
  }
}

/// Something that was done with the mouse, at a cell.
///
/// Buttons that are held with Shift are the terminal's own: it selects text.
package struct MouseEvent: Equatable, Sendable {
  /// A button of the mouse.
  package enum Button: Equatable, Sendable { case left, middle, right }
  /// Where the wheel turns to.
  package enum Direction: Equatable, Sendable { case up, down, left, right }

  /// What was done.
  package enum Kind: Equatable, Sendable {
    case press(Button)
    /// The mouse moved to another cell while the button was held.
    case drag(Button)
    case release(Button)
    case wheel(Direction)
  }

  /// What was done.
  package let kind: Kind
  /// The column of the cell, from 0 on.
  package let column: Int
  /// The row of the cell, from 0 on.
  package let row: Int
  /// The modifier keys that were held.
  package let modifiers: Modifiers

  /// Makes an event.
  package init(_ kind: Kind, column: Int, row: Int, modifiers: Modifiers = []) {
    (self.kind, self.column, self.row, self.modifiers) = (kind, column, row, modifiers)
  }
}

/// A rectangle of a frame that can be clicked.
package struct MouseTarget: Equatable, Sendable {
  /// What a click means.
  package enum Meaning: Equatable, Sendable {
    /// The same as a key.
    case key(Key)
    /// An item of the list that has the keyboard, counted from 0.
    case item(Int)
    /// A place of two numbers.
    case place(Int, Int)
    /// Nothing, although something lies below.
    case nothing
  }

  /// The leftmost column, the uppermost row, and the size in cells.
  package let column, row, columns, rows: Int
  /// What a click there means.
  package let meaning: Meaning

  /// Makes a target.
  package init(_ meaning: Meaning, column: Int, row: Int, columns: Int, rows: Int = 1) {
    (self.meaning, self.column, self.row) = (meaning, column, row)
    (self.columns, self.rows) = (columns, rows)
  }

  func contains(column: Int, row: Int) -> Bool {
    (self.column..<(self.column + max(0, columns))).contains(column)
      && (self.row..<(self.row + max(0, rows))).contains(row)
  }
}

/// What the terminal has to tell the explorer's loop.
package enum TerminalEvent: Equatable, Sendable {
  /// A key was pressed.
  case key(Key)
  /// The mouse was pressed, dragged, released or turned.
  case mouse(MouseEvent)
  /// Text was pasted; control characters are already replaced by spaces.
  case paste(String)
  /// The window has a new size, or the screen came back after a suspension: draw again.
  case resize(Size)
  /// The terminal has told more of itself, or something else than before.
  case found(TerminalCapabilities)
  /// The time given to `Terminal.nextEvent` is over.
  case tick
  /// SIGINT (Ctrl-C) or SIGTERM asks the program to end; the value is the signal's number.
  case signal(Int32)
  /// The terminal is gone: end without drawing.
  case hangup
}

/// How images are drawn, as asked for and as chosen.
package enum GraphicsMode: String, CaseIterable, Sendable {
  /// The best that the terminal reports: kitty, sixel, blocks or ascii.
  case auto
  /// Pixels, through the kitty graphics protocol.
  case kitty
  /// Pixels, through the terminal's sixel graphics.
  case sixel
  /// Two pixels a cell with the upper half block.
  case blocks
  /// One shaded character a cell.
  case ascii
  /// No images.
  case none
}

/// Which characters are drawn, as asked for and as chosen.
package enum SymbolSet: String, CaseIterable, Sendable {
  /// What the terminal's encoding and font have.
  case auto
  /// All.
  case unicode
  /// Those of a console's font: lines, blocks, arrows.
  case console
  /// Letters, digits and signs of ASCII.
  case ascii
}
