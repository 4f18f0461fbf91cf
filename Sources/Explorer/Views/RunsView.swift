import Runs
import TerminalUI
import Text

/// The list of runs over the screen.
struct RunsView {
  let state: AppState
  let pane: RunsPane

  /// Rows of runs that a screen shows.
  static func rows(_ state: AppState, _ pane: RunsPane) -> Int {
    max(1, state.size.rows - 6 - RunsView(state: state, pane: pane).foot.count)
  }

  func draw(on frame: inout Frame) {
    let listed = state.listed(in: pane)
    let foot = foot
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 2, rows: frame.rows - 2, title: title(listed.count))
    let table = RunTable(
      state: state,
      rect: Rect(
        column: inside.column, row: inside.row, columns: inside.columns,
        rows: inside.rows - 1 - foot.count),
      listed: listed, selection: pane.selection, marked: Set(pane.marked), order: pane.order)
    table.draw(on: &frame)
    if table.shownRange.count < listed.count {
      frame.putPosition(of: table.shownRange, count: listed.count, in: inside)
    }
    for (index, line) in foot.enumerated() {
      frame.put(
        TextWidth.clip(line, inside.columns), column: inside.column,
        row: inside.bottom - foot.count + index, style: Theme.quiet)
    }
  }

  private func title(_ count: Int) -> String {
    let unread = state.runs.unread == 0 ? "" : ", \(state.runs.unread) more are being read"
    let marked = (pane.marked.isEmpty ? "" : ", \(pane.marked.count) marked") + unread
    guard !pane.filter.isEmpty else { return "\(Format.count(count, "run"))\(marked)" }
    return
      "\(count) of \(Format.count(state.runs.records.count, "run")): \(pane.filter.text)\(marked)"
  }

  /// What there is to say of the highlighted run.
  private var foot: [String] {
    let hidden = state.runs.records.count - state.runs.listed.count
    let others = hidden == 0 ? "" : "; \(hidden) ended previews and analyses are listed by / only"
    let record = pane.selection.flatMap(state.runs.record)
    let chain = record?.chain.flatMap { RunChain($0.id, among: state.runs.records) }
    let note = record.flatMap { $0.annotation.note.isEmpty ? nil : "“\($0.annotation.note)”" }
    let remarks = [record?.remark ?? record.flatMap(state.weightsText(of:)), chain?.text, note]
      .compactMap(\.self)
    return Array(
      (remarks.isEmpty ? ["⏎ opens its plan and losses\(others)"] : remarks)
        .flatMap { TextWidth.wrap($0, state.size.columns - 8) }
        .prefix(min(5, max(1, state.size.rows / 4 - 1))))
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
