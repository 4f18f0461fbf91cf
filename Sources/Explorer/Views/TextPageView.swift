import TerminalUI

/// A page of text over the screen.
struct TextPageView {
  let state: AppState
  let page: TextPage

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 4, rows: frame.rows - 4, title: page.title)
    let lines = LogPage.rows(page.lines, inside.columns)
    if let picture = page.picture { return draw(picture, under: lines, in: inside, on: &frame) }
    let shown = lines.indices.dropFirst(page.first).prefix(inside.rows)
    for (offset, index) in shown.enumerated() {
      frame.put(
        lines[index], column: inside.column, row: inside.row + offset, maxColumns: inside.columns)
    }
    guard lines.count > inside.rows else { return }
    frame.putPosition(of: shown.startIndex..<shown.endIndex, count: lines.count, in: inside)
  }

  /// Draws the picture in the lower part, under as many lines as fit into the upper third.
  private func draw(
    _ picture: Picture, under lines: [String], in inside: Rect, on frame: inout Frame
  ) {
    let shown = lines.dropFirst(page.first).prefix(max(2, inside.rows / 3))
    for (offset, line) in shown.enumerated() {
      frame.put(
        line, column: inside.column, row: inside.row + offset, maxColumns: inside.columns)
    }
    frame.place(
      ImagePlacement(
        id: "sheet", column: inside.column, row: inside.row + shown.count,
        columns: inside.columns, rows: inside.rows - shown.count, picture: picture.image,
        contentHash: picture.contentHash))
  }
}
