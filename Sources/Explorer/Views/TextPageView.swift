import TerminalUI

/// A page of text over the screen.
struct TextPageView {
  let state: AppState
  let page: TextPage

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 4, rows: frame.rows - 4, title: page.title)
    let lines = LogPage.rows(page.lines, inside.columns)
    let shown = lines.indices.dropFirst(page.first).prefix(inside.rows)
    for (offset, index) in shown.enumerated() {
      frame.put(
        lines[index], column: inside.column, row: inside.row + offset, maxColumns: inside.columns)
    }
    guard lines.count > inside.rows else { return }
    frame.putPosition(of: shown.startIndex..<shown.endIndex, count: lines.count, in: inside)
  }
}
