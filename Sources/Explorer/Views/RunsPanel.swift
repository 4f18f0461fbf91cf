import Plans
import Runs
import TerminalUI
import Text

/// The followed run's progress, and below it, where there is room, the list of runs.
struct RunsPanel {
  let state: AppState
  let rect: Rect

  func draw(on frame: inout Frame) {
    guard rect.rows > 1 else {
      drawProgress(on: &frame, row: rect.row)
      return
    }
    frame.titledRule(
      Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1), title: "runs")
    drawProgress(on: &frame, row: rect.row + 1)
    let list = Rect(
      column: rect.column, row: rect.row + 2, columns: rect.columns, rows: rect.rows - 2)
    RunTable(state: state, rect: list, listed: state.runs.listed, selection: nil).draw(on: &frame)
  }

  private func drawProgress(on frame: inout Frame, row: Int) {
    let width = rect.columns - 2
    guard let record = state.runs.focusRecord else {
      let text =
        state.runs.isLaunching
        ? "starting the worker …"
        : state.plan.isEmpty
          ? "no run: ⏎ puts another operator into a slot"
          : "no run: d distils what the plan changes"
      frame.put(
        TextWidth.clip(text, width), column: rect.column + 1, row: row, style: Theme.quiet)
      return
    }
    let style = RunTable.style(record)
    var pieces: [(String, Style)] = [
      ("\(RunTable.mark(record)) ", style), (TextWidth.clip(record.name, 16), Theme.strong),
      (" ", Theme.plain),
    ]
    let count = " \(record.label.map { "\($0) " } ?? "")\(record.step)/\(record.total)"
    var tail: [(String, Style)] = [(count, Theme.plain)]
    switch record.state {
    case .running:
      if let rate = record.rate { tail.append(("  \(Format.rate(rate))", Theme.quiet)) }
      if let left = record.secondsLeft {
        tail.append(("  ~\(Format.clock(left)) left", Theme.plain))
      }
      if record.chain != nil, let left = state.runs.chain?.secondsLeft {
        tail.append((", ~\(Format.clock(left)) of the chain", Theme.plain))
      }
      if let silence = silence(record) {
        tail = [("\(count)  silent for \(silence)", Theme.warning)]
      }
    case .lost, .cancelled, .failed, .done:
      tail.append(("  \(record.state.name)\(ago(record))", style))
    case .queued, .starting, .pending, .paused, .frozen, .unreachable, .detached:
      tail.append(("  \(record.stateLabel)", style))
      if let reason = record.waitReason { tail.append((" (\(reason))", Theme.quiet)) }
    }
    if let silent = record.resources?.silent, !silent.isEmpty, record.state == .running {
      tail.append(("  \(Format.count(silent.count, "silent rank"))", Theme.warning))
    }
    if let loss = record.loss { tail.append(("  loss \(Format.loss(loss))", Theme.plain)) }
    let used = (pieces + tail).reduce(0) { $0 + TextWidth.columns(of: $1.0) }
    let bar = min(40, width - used)
    if bar >= 6 {
      let share = record.total > 0 ? Double(record.step) / Double(record.total) : 0
      pieces.append((Plot.bar(share, columns: bar), style))
    }
    frame.write(pieces + tail, column: rect.column + 1, row: row, maxColumns: width)
  }

  /// How long a live worker has said nothing, when that is worth a warning.
  private func silence(_ record: RunSummary) -> String? {
    guard let last = record.lastEventTime, state.now - last > 5 else { return nil }
    return Format.age(state.now - last)
  }

  private func ago(_ record: RunSummary) -> String {
    record.lastEventTime.map { " \(Format.age(state.now - $0)) ago" } ?? ""
  }
}
