import Runs
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
    let chain = record?.chain.flatMap { RunChain($0.id, among: state.runs.records) }
    let remarks = [record?.remark ?? record.flatMap(state.weightsText(of:)), chain?.text]
      .compactMap(\.self)
    let width = min(90, frame.columns - 2)
    let foot = (remarks.isEmpty ? ["⏎ opens its plan and losses\(others)"] : remarks)
      .flatMap { TextWidth.wrap($0, width - 6) }.prefix(5)
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

extension RunChain {
  /// Where the chain stands, with the time left for the whole.
  var text: String {
    let place = "\(doneCount) of \(runs.count) of the chain done"
    if let reason { return "\(place); stopped, \(reason); R on that run goes on" }
    guard let secondsLeft else { return place }
    let rest = unknown.map(\.rawValue).joined(separator: ", ")
    return
      "\(place), ~\(Format.clock(secondsLeft))\(rest.isEmpty ? "" : " and \(rest)") left of all"
  }
}
