import Plans
import Runs
import TerminalUI
import Text

/// The losses of the followed run as curves over steps.
struct LossPanel {
  let state: AppState
  let rect: Rect

  func draw(on frame: inout Frame) {
    let scale = state.chart.isLogarithmic ? "log" : "linear"
    frame.titledRule(
      Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1),
      title: title, remark: scale)
    let body = Rect(
      column: rect.column + 1, row: rect.row + 1, columns: rect.columns - 2, rows: rect.rows - 1)
    let series = curves(columns: body.columns)
    guard series.contains(where: { !$0.y.isEmpty }) else {
      for (index, line) in TextWidth.wrap(emptyText, body.columns).prefix(body.rows).enumerated() {
        frame.put(line, column: body.column, row: body.row + index, style: Theme.quiet)
      }
      return
    }
    let hasLegend = body.rows >= 7
    var chart = Chart(series)
    (chart.isLogY, chart.range, chart.symbols) = (
      state.chart.isLogarithmic, xRange, state.chart.symbols
    )
    (chart.ticks, chart.tickStyle) = (restarts, Theme.warning)
    frame.draw(
      chart.frame(columns: body.columns, rows: body.rows - (hasLegend ? 1 : 0)),
      column: body.column, row: body.row)
    if hasLegend { drawLegend(on: &frame, body: body) }
  }

  private var title: String {
    switch state.chart.series {
    case .slot: "loss of \(site)"
    case .mean: "mean loss"
    case .all: "loss of every slot"
    }
  }

  /// The site of the curve: as the run has it, where the run has it.
  private var site: GraftSite { state.trainedSite ?? state.selectedSite }

  private var emptyText: String {
    if state.runs.isLaunching { return "starting the worker …" }
    guard let focus = state.runs.focus else {
      return state.plan.isEmpty
        ? "none: the plan changes nothing yet" : "none yet: d distils what the plan changes"
    }
    if state.chart.series != .mean, state.runs.focusRecord?.kind == .finetune {
      return "finetuning has one loss, of the whole model; t shows it"
    }
    if state.chart.series == .slot, focus.plan != nil, state.trainedSite == nil {
      return "this slot is not in the run; t shows the mean"
    }
    return state.runs.focusRecord?.isAlive ?? true ? "waiting for the first step …" : "none"
  }

  /// The whole length of the run, so that the curve grows into the free space.
  private var xRange: ClosedRange<Double>? {
    guard let record = state.runs.focusRecord, record.total > 1 else { return nil }
    return 0...Double(record.total)
  }

  /// Steps from which a restarted training has gone on.
  private var restarts: [Double] { state.runs.focus?.history.restarts.map(Double.init) ?? [] }

  private func drawLegend(on frame: inout Frame, body: Rect) {
    let row = body.bottom - 1
    switch state.chart.series {
    case .slot, .mean:
      frame.write(
        [
          ("── ", Theme.trainCurve), ("train", Theme.quiet), ("   ── ", Theme.heldOutCurve),
          ("held-out", Theme.quiet), ("   by step", Theme.quiet),
          (restarts.isEmpty ? "" : "   ^", Theme.warning),
          (restarts.isEmpty ? "" : " restarted", Theme.quiet),
        ], column: body.column, row: row, maxColumns: body.columns)
    case .all:
      frame.write(
        [
          ("── ", Theme.quiet), ("train, each slot", Theme.quiet), ("   ── ", Theme.heldOutCurve),
          ("\(site)", Theme.quiet),
        ], column: body.column, row: row, maxColumns: body.columns)
    }
  }

  private func curves(columns: Int) -> [Plot.Series] {
    guard let history = state.runs.focus?.history else { return [] }
    let limit = columns * 2
    switch state.chart.series {
    case .slot:
      return [
        Plot.Series(history.losses[site] ?? StepSeries(), limit, Theme.trainCurve),
        Plot.Series(history.heldOut[site] ?? StepSeries(), limit, Theme.heldOutCurve),
      ]
    case .mean:
      return [
        Plot.Series(history.meanLoss, limit, Theme.trainCurve),
        Plot.Series(history.meanHeldOut, limit, Theme.heldOutCurve),
      ]
    case .all:
      return history.losses.keys.sorted().filter { $0 != site }.map {
        // Dozens of curves on top of each other: points at even distances are enough.
        Plot.Series(
          Self.sampled(history.losses[$0] ?? StepSeries(), limit: 2 * limit), limit, Theme.quiet)
      } + [Plot.Series(history.losses[site] ?? StepSeries(), limit, Theme.heldOutCurve)]
    }
  }

  /// At most `limit` points at even distances, the last one among them.
  static func sampled(_ points: StepSeries, limit: Int) -> [StepValue] {
    guard limit > 1, points.count > limit else { return Array(points) }
    return (0..<limit).map { points[$0 * (points.count - 1) / (limit - 1)] }
  }
}

extension Plot.Series {
  /// A curve of losses over steps, thinned to a number of points.
  init(_ points: some Collection<StepValue>, _ limit: Int, _ style: Style) {
    let thinned = points.thinned(limit: limit)
    self.init(x: thinned.map { Double($0.step) }, y: thinned.map(\.value), style: style)
  }
}
