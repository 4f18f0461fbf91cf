import TerminalUI
import Text

/// The few styles of the screen; colour only repeats what a character already says.
///
/// Their colours are named; `ThemePalette` gives the names values.
enum Theme {
  static let plain = Style()
  static let quiet = Style(foreground: .gray)
  static let strong = Style(bold: true)
  static let heading = Style(foreground: .cyan)
  static let rule = Style(foreground: .gray, dim: true)
  static let bar = Style(foreground: .surfaceText, background: .surface)
  static let barStrong = Style(foreground: .surfaceStrong, background: .surface, bold: true)
  static let barQuiet = Style(foreground: .surfaceQuiet, background: .surface)
  static let barKey = Style(foreground: .surfaceKey, background: .surface, bold: true)
  static let barChanged = Style(foreground: .surfaceWarning, background: .surface, bold: true)
  static let barWarning = Style(foreground: .surfaceWarning, background: .surface)
  static let barFailure = Style(foreground: .surfaceFailure, background: .surface, bold: true)
  static let selected = Style(foreground: .selectionText, background: .selection)
  static let cursor = Style(bold: true, reverse: true)
  static let warning = Style(foreground: .yellow)
  static let failure = Style(foreground: .red)
  static let trainCurve = Style(foreground: .cyan)
  static let heldOutCurve = Style(foreground: .yellow)
  static let faintCurve = Style(foreground: .gray, dim: true)
  /// Curves of runs on one plot; each has a mark too.
  static let runStyles = [
    Color.cyan, .yellow, .green, .magenta, .blue, .red, .default, .gray,
  ].map { Style(foreground: $0) }
  static let field = Style(underline: true)

  /// The colour of a slot's phase.
  static func phase(_ phase: SlotPhase) -> Style {
    switch phase {
    case .pristine: quiet
    case .edited, .fitted: Style(foreground: .cyan)
    case .queued: Style(foreground: .blue)
    case .training: Style(foreground: .yellow)
    case .trained, .ready: Style(foreground: .green)
    case .stale: Style(foreground: .magenta)
    case .failed: Style(foreground: .red)
    }
  }
}

extension Frame {
  /// Writes pieces of text one after the other and returns the column after them.
  @discardableResult
  mutating func write(
    _ pieces: [(String, Style)], column: Int, row: Int, maxColumns: Int
  ) -> Int {
    var position = column
    for (text, style) in pieces {
      position += put(
        text, column: position, row: row, style: style,
        maxColumns: max(0, column + maxColumns - position))
    }
    return position
  }

  /// Draws a horizontal rule with a title in it and an optional remark at its right end.
  mutating func titledRule(_ rect: Rect, title: String, remark: String = "") {
    hline(column: rect.column, row: rect.row, columns: rect.columns, style: Theme.rule)
    let used = put(
      " \(title) ", column: rect.column + 1, row: rect.row, style: Theme.heading,
      maxColumns: rect.columns - 2)
    if !remark.isEmpty && rect.columns - used - 4 > TextWidth.columns(of: remark) {
      putRight(" \(remark) ", right: rect.right - 1, row: rect.row, style: Theme.quiet)
    }
  }

  /// Writes text that ends before a column.
  mutating func putRight(_ text: String, right: Int, row: Int, style: Style) {
    put(text, column: right - TextWidth.columns(of: text), row: row, style: style)
  }

  /// Writes text in the middle of some columns.
  mutating func putCentred(
    _ text: String, column: Int, columns: Int, row: Int, style: Style = Theme.plain
  ) {
    let clipped = TextWidth.clip(text, columns)
    put(
      clipped, column: column + (columns - TextWidth.columns(of: clipped)) / 2, row: row,
      style: style)
  }

  /// Says in the lower edge of a box which lines of a page are shown.
  mutating func putPosition(of lines: Range<Int>, count: Int, in inside: Rect) {
    putRight(
      " \(lines.lowerBound + 1)–\(lines.upperBound) of \(count) ", right: inside.right,
      row: inside.bottom, style: Theme.quiet)
  }
}
