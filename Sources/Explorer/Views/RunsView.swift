import TerminalUI

/// The list of runs over the screen.
struct RunsView {
  let state: AppState
  let pane: RunsPane

  func draw(on frame: inout Frame) {
    let rows = min(max(state.runs.listed.count, 1) + 6, frame.rows - 4)
    let inside = Popup.open(on: &frame, columns: 90, rows: rows, title: "runs")
    RunTable(
      state: state,
      rect: Rect(
        column: inside.column, row: inside.row, columns: inside.columns, rows: inside.rows - 2),
      selection: pane.selection, marked: pane.marked
    ).draw(on: &frame)
    let hidden = state.runs.records.count - state.runs.listed.count
    let others = hidden == 0 ? "" : "   \(hidden) ended previews and analyses are not listed"
    let reason = pane.selection.flatMap(state.runs.record)?.waitReason.map { "waits: \($0)" }
    frame.put(
      Format.clip(reason ?? "⏎ opens its plan and losses\(others)", inside.columns),
      column: inside.column,
      row: inside.bottom - 1, style: Theme.quiet)
  }
}

/// What a run has told, its last lines as far as there is room.
struct LogView {
  let state: AppState
  let page: LogPage

  func draw(on frame: inout Frame) {
    let name = state.runs.record(page.id)?.name ?? page.id
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 4, rows: frame.rows - 4, title: "log of \(name)")
    let lines = page.lines ?? ["reading …"]
    let wrapped = lines.flatMap { Format.wrap($0, inside.columns) }
    for (index, line) in wrapped.suffix(inside.rows).enumerated() {
      frame.put(line, column: inside.column, row: inside.row + index, maxColumns: inside.columns)
    }
  }
}
