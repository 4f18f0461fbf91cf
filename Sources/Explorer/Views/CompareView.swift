import Plans
import Runs
import TerminalUI
import Text

/// Runs over the whole screen: their losses in one plot, their facts or differences in columns.
struct CompareView {
  let state: AppState
  let pane: ComparePane

  /// A symbol for each run, beside its colour.
  private static let symbols = ["●", "◆", "▲", "■", "○", "◇", "△", "□"]
  /// Columns of the facts' titles, and the least ones of a run.
  private static let (titles, leastWidth) = (15, 20)

  /// How many runs a screen shows beside each other.
  static func fitting(columns: Int) -> Int { max(2, (columns - 6 - titles) / leastWidth) }

  private var shownRuns: Range<Int> {
    let count = min(Self.fitting(columns: state.size.columns), pane.runs.count)
    let first = min(pane.firstRun, pane.runs.count - count)
    return first..<first + count
  }

  private var room: (columns: Int, rows: Int) { (state.size.columns - 8, state.size.rows - 6) }

  /// Rows of the plot, and of the lines below it.
  private var plotRows: Int { pane.showsDifferences ? 0 : max(5, room.rows - table.count - 4) }
  private var tableRows: Int { max(1, room.rows - plotRows - (pane.showsDifferences ? 2 : 3)) }

  /// The lines that scroll, as text, and how many of them are shown.
  var scrolledLines: (lines: [String], rows: Int) {
    (table.map { $0.map(\.0).joined() }, tableRows)
  }

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 2, rows: frame.rows - 2,
      title: pane.showsDifferences ? "differences" : "comparison of \(pane.runs.count) runs")
    var row = inside.row
    if !pane.showsDifferences {
      drawPlot(
        on: &frame,
        in: Rect(column: inside.column, row: row, columns: inside.columns, rows: plotRows))
      row += plotRows
      drawLegend(on: &frame, in: inside, row: row)
      row += 1
    }
    frame.write(names, column: inside.column, row: row, maxColumns: inside.columns)
    row += 1
    let lines = table
    let first = min(pane.first, max(0, lines.count - tableRows))
    for line in lines.dropFirst(first).prefix(tableRows) where row < inside.bottom {
      frame.write(line, column: inside.column, row: row, maxColumns: inside.columns)
      row += 1
    }
    if lines.count > tableRows {
      frame.putPosition(
        of: first..<min(lines.count, first + tableRows), count: lines.count, in: inside)
    }
    if let reason = pane.reasonAgainstLosses(record: state.runs.record) {
      frame.put(
        TextWidth.clip(reason, inside.columns), column: inside.column, row: inside.bottom - 1,
        style: Theme.warning)
    }
  }

  private func drawPlot(on frame: inout Frame, in rect: Rect) {
    let series = zip(pane.runs, Theme.runStyles).map { run, style in
      Plot.Series(pane.curve(run), 2 * rect.columns, style)
    }
    guard series.contains(where: { !$0.y.isEmpty }) else {
      frame.put("no losses yet", column: rect.column, row: rect.row, style: Theme.quiet)
      return
    }
    var chart = Chart(series)
    (chart.isLogY, chart.symbols) = (state.chart.isLogarithmic, state.chart.symbols)
    frame.draw(
      chart.frame(columns: rect.columns, rows: rect.rows), column: rect.column, row: rect.row)
  }

  private func drawLegend(on frame: inout Frame, in rect: Rect, row: Int) {
    let scale = state.chart.isLogarithmic ? "log" : "linear"
    let what = pane.showsHeldOut ? "held-out loss" : "training loss"
    let hidden = pane.runs.count - shownRuns.count
    let more = hidden == 0 ? "" : "; h and l show \(Format.count(hidden, "other run"))"
    frame.put(
      TextWidth.clip("\(what) by step, \(scale)\(more)", rect.columns), column: rect.column,
      row: row, style: Theme.quiet)
  }

  private var width: Int { (room.columns - Self.titles) / max(1, shownRuns.count) }

  private func line(_ title: String, _ values: [(String, Style)]) -> [(String, Style)] {
    [(TextWidth.pad(TextWidth.clip(title, Self.titles - 1), Self.titles), Theme.quiet)]
      + values.map { (TextWidth.pad(TextWidth.clip($0.0, width - 2), width), $0.1) }
  }

  /// The line of names.
  private var names: [(String, Style)] {
    line(
      "",
      shownRuns.map { index in
        (
          "\(Self.symbols[index]) \(state.runs.title(of: pane.runs[index].id))",
          Theme.runStyles[index]
        )
      })
  }

  /// The lines below the names; a long value takes as many as it needs.
  private var table: [[(String, Style)]] {
    let rows = pane.rows(record: state.runs.record)
    guard !rows.isEmpty else { return [line("none", [])] }
    return rows.flatMap { row in
      let titles = TextWidth.wrap(row.title, Self.titles - 1)
      let wrapped = shownRuns.map { TextWidth.wrap(row.values[$0], width - 2) }
      let count = max(titles.count, wrapped.map(\.count).max() ?? 0)
      return (0..<count).map { index in
        line(
          index < titles.count ? titles[index] : "",
          wrapped.map { (index < $0.count ? $0[index] : "", Theme.plain) })
      }
    }
  }
}
