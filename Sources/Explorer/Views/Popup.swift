import TerminalUI

/// A box in the middle of the screen.
enum Popup {
  /// Draws a box and returns its inside, one cell away from the border at the sides.
  static func open(
    on frame: inout Frame, columns: Int, rows: Int, title: String
  ) -> Rect {
    let width = min(columns, frame.columns - 2)
    let height = min(rows, frame.rows - 2)
    let column = (frame.columns - width) / 2
    let row = max(1, (frame.rows - height) / 2)
    frame.fill(column: column - 1, row: row, columns: width + 2, rows: height)
    frame.box(
      column: column, row: row, columns: width, rows: height, style: Theme.plain, title: title,
      titleStyle: Theme.heading)
    return Rect(column: column + 2, row: row + 1, columns: width - 4, rows: height - 2)
  }
}
