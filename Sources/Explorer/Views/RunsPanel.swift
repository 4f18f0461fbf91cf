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
    RunTable(state: state, rect: list, selection: nil).draw(on: &frame)
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
    case .queued, .paused, .frozen:
      tail.append(("  \(record.stateLabel)", style))
      if let reason = record.waitReason { tail.append((" (\(reason))", Theme.quiet)) }
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

/// A table with one run a line under a line of headings.
struct RunTable {
  let state: AppState
  let rect: Rect
  /// The highlighted run.
  let selection: String?
  /// Runs marked for a comparison.
  var marked: [String] = []

  func draw(on frame: inout Frame) {
    let listed = state.runs.listed
    guard self.rect.rows > 1 else { return }
    drawColumns(
      [("   run", Theme.quiet), ("state", Theme.quiet), ("steps", Theme.quiet)]
        + [("loss", Theme.quiet), ("age", Theme.quiet)], on: &frame, row: self.rect.row)
    let rect = self.rect.dropping(top: 1)
    guard !listed.isEmpty else {
      frame.put(
        "no runs in the run directory", column: rect.column + 1, row: rect.row,
        style: Theme.quiet, maxColumns: rect.columns - 1)
      return
    }
    let index = listed.firstIndex { $0.id == selection } ?? 0
    let first = max(0, min(index - rect.rows / 2, listed.count - rect.rows))
    for (offset, record) in listed.dropFirst(first).prefix(rect.rows).enumerated() {
      let row = rect.row + offset
      drawLine(record, on: &frame, row: row)
      frame.targets.append(
        MouseTarget(
          selection == nil ? .key("r") : .item(first + offset), column: rect.column, row: row,
          columns: rect.columns))
      if record.id == selection {
        frame.restyle(column: rect.column, row: row, columns: rect.columns) { $0 = Theme.cursor }
      }
    }
    if first + rect.rows < listed.count {
      frame.putRight(
        "+\(listed.count - first - rect.rows) more ↓", right: rect.right - 1,
        row: rect.bottom - 1, style: Theme.quiet)
    }
  }

  private func drawLine(_ record: RunSummary, on frame: inout Frame, row: Int) {
    let style = Self.style(record)
    let isFollowed = state.runs.focus?.id == record.id
    // Where one can choose, the mark is the cursor, as in every list.
    let isMarked = selection.map { $0 == record.id } ?? isFollowed
    var steps = record.total > 0 ? "\(record.step)/\(record.total)" : ""
    if let label = record.label, record.total > 0 {
      steps = "\(label.prefix { $0 != " " }) \(100 * record.step / record.total)%"
    }
    let name =
      record.kind == .distill ? record.name : "\(record.kind?.rawValue ?? "?") \(record.name)"
    let distinction = state.runs.distinction(of: record)
    // The end of the title is what tells it from another, so a long name is cut before it.
    let what =
      TextWidth.clip(name, nameWidth - 4 - TextWidth.columns(of: distinction)) + distinction
    drawColumns(
      [
        ("   \(what)", isFollowed ? Theme.strong : Theme.plain), (record.stateLabel, style),
        (steps, Theme.plain), (record.loss.map(Format.loss) ?? "", Theme.plain),
        (record.createdAt.map { Format.age(state.now - $0) } ?? "", Theme.quiet),
      ], on: &frame, row: row)
    frame.write(
      [
        (isMarked ? "›" : " ", Theme.warning), (Self.mark(record), style),
        (marked.contains(record.id) ? "•" : " ", Theme.strong),
      ], column: rect.column, row: row, maxColumns: 3)
  }

  private var nameWidth: Int { min(32, max(10, rect.columns - 45)) }

  /// Writes name, state, steps, loss and age, the last three at the right edges of their columns.
  private func drawColumns(_ texts: [(String, Style)], on frame: inout Frame, row: Int) {
    let widths = [nameWidth, 10, 14, 8, 10]
    var column = rect.column
    for (index, (text, style)) in texts.enumerated() {
      let width = widths[index]
      let padded =
        index < 2 ? TextWidth.pad(text, width - 1) + " " : TextWidth.padLeft(text, width)
      frame.put(padded, column: column, row: row, style: style, maxColumns: rect.right - column)
      column += width
    }
  }

  /// A mark that tells states apart without colour.
  static func mark(_ record: RunSummary) -> String {
    switch record.state {
    case .queued: "~"
    case .running: "▶"
    case .paused, .frozen: "‖"
    case .done: "✓"
    case .cancelled: "–"
    case .failed: "✗"
    case .lost: "?"
    }
  }

  /// The colour of a state.
  static func style(_ record: RunSummary) -> Style {
    switch record.state {
    case .queued: Theme.phase(.queued)
    case .running: Theme.phase(.training)
    case .paused, .frozen: Theme.warning
    case .done: Theme.phase(.trained)
    case .cancelled: Theme.quiet
    case .failed, .lost: Theme.failure
    }
  }
}
