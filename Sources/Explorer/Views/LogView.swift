import TerminalUI
import Text

/// The end of a run's log over the screen.
struct LogView {
  let state: AppState
  let page: LogPage

  /// The room for text on a screen.
  static func room(_ size: Size) -> (columns: Int, rows: Int) {
    (size.columns - 8, max(1, size.rows - 6))
  }

  func draw(on frame: inout Frame) {
    let name = state.runs.title(of: page.id)
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 4, rows: frame.rows - 4, title: "log of \(name)")
    let lines = LogPage.rows(page.lines ?? ["reading …"], inside.columns)
    let last = max(min(lines.count, inside.rows), lines.count - page.below)
    let first = max(0, last - inside.rows)
    for (index, line) in lines[first..<last].enumerated() {
      frame.put(line, column: inside.column, row: inside.row + index, maxColumns: inside.columns)
    }
    guard lines.count > inside.rows else { return }
    frame.putPosition(of: first..<last, count: lines.count, in: inside)
  }
}
