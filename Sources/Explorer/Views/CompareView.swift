import Plans
import Runs
import TerminalUI
import Text

/// Two runs over the whole screen: their losses in one plot, their facts in two columns.
struct CompareView {
  let state: AppState
  let pane: ComparePane

  private static let styles = [Theme.trainCurve, Theme.heldOutCurve]
  /// Columns of the facts' titles.
  private static let titles = 15

  func draw(on frame: inout Frame) {
    let inside = Popup.open(
      on: &frame, columns: frame.columns - 2, rows: frame.rows - 2, title: "comparison")
    let lines = table(columns: inside.columns)
    let plotRows = max(5, inside.rows - lines.count - 2)
    drawPlot(
      on: &frame,
      in: Rect(
        column: inside.column, row: inside.row, columns: inside.columns, rows: plotRows))
    var row = inside.row + plotRows
    drawLegend(on: &frame, in: inside, row: row)
    row += 1
    for line in lines where row < inside.bottom {
      frame.write(line, column: inside.column, row: row, maxColumns: inside.columns)
      row += 1
    }
    if let reason = pane.reasonAgainstLosses(record: state.runs.record), row < inside.bottom {
      frame.put(
        TextWidth.clip(reason, inside.columns), column: inside.column, row: inside.bottom - 1,
        style: Theme.warning)
    }
  }

  private func drawPlot(on frame: inout Frame, in rect: Rect) {
    let series = zip(pane.runs, Self.styles).map { run, style in
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
    frame.put(
      TextWidth.clip("\(what) by step, \(scale)", rect.columns), column: rect.column, row: row,
      style: Theme.quiet)
  }

  /// A line of names, then the facts; a long value takes two lines.
  private func table(columns: Int) -> [[(String, Style)]] {
    let width = (columns - Self.titles) / 2
    func line(_ title: String, _ values: [(String, Style)]) -> [(String, Style)] {
      [(TextWidth.pad(title, Self.titles), Theme.quiet)]
        + values.map { (TextWidth.pad($0.0, width - 2) + "  ", $0.1) }
    }
    let names = zip(pane.runs, Self.styles).map { run, style in
      ("── \(state.runs.title(of: run.id))", style)
    }
    var lines = [line("", names)]
    for fact in pane.facts(record: state.runs.record) {
      let wrapped = fact.values.map { TextWidth.wrap($0, width - 2) }
      for index in 0..<min(2, wrapped.map(\.count).max() ?? 0) {
        let values = wrapped.map { parts in
          let isCut = index == 1 && parts.count > 2
          let text = index < parts.count ? parts[index] : ""
          return (isCut ? TextWidth.clip(text + " …", width - 2) : text, Theme.plain)
        }
        lines.append(line(index == 0 ? fact.title : "", values))
      }
    }
    return lines
  }
}
