import TerminalUI
import Text

/// The list of runs over the screen.
struct RunsView {
  let state: AppState
  let pane: RunsPane

  func draw(on frame: inout Frame) {
    let hidden = state.runs.records.count - state.runs.listed.count
    let others = hidden == 0 ? "" : "; \(hidden) ended previews and analyses are not listed"
    let record = pane.selection.flatMap(state.runs.record)
    let remark = record?.remark ?? record.flatMap(state.weightsText(of:))
    let width = min(90, frame.columns - 2)
    let foot = TextWidth.wrap(remark ?? "⏎ opens its plan and losses\(others)", width - 6).prefix(4)
    let rows = min(max(state.runs.listed.count, 1) + 5 + foot.count, frame.rows - 4)
    let inside = Popup.open(on: &frame, columns: width, rows: rows, title: "runs")
    RunTable(
      state: state,
      rect: Rect(
        column: inside.column, row: inside.row, columns: inside.columns,
        rows: inside.rows - 1 - foot.count),
      selection: pane.selection, marked: pane.marked
    ).draw(on: &frame)
    for (index, line) in foot.enumerated() {
      frame.put(
        TextWidth.clip(line, inside.columns), column: inside.column,
        row: inside.bottom - foot.count + index, style: Theme.quiet)
    }
  }
}
