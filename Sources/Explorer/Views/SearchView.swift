import Plans
import Search
import TerminalUI
import Text

/// The search for the best plans: the front as a plot, the budget, and the plan that it gives in the grid.
struct SearchView {
  let state: AppState
  let pane: SearchPane
  /// The plans beside the front.
  private let points: [SearchPoint]

  init(state: AppState, pane: SearchPane) {
    (self.state, self.pane) = (state, pane)
    points = state.points(of: pane)
  }

  private struct Places {
    /// The grid; nil where the plot has its place.
    var grid: Layout?
    var plot, numbers, image, slider: Rect
    /// The plans beside the front.
    var list: Rect?
  }

  private var places: Places {
    let size = state.size
    let layout = state.layout
    let slider = Rect(column: 0, row: size.rows - 2, columns: size.columns, rows: 1)
    let panel = layout.panel
    let numbers = Rect(column: panel.column, row: 1, columns: panel.columns, rows: 7)
    if layout.isWide {
      let image = Rect(
        column: panel.column, row: layout.images.row, columns: panel.columns,
        rows: slider.row - layout.images.row)
      let left = Rect(column: 0, row: 1, columns: layout.grid.columns, rows: slider.row - 1)
      let right = Rect(
        column: panel.column, row: numbers.bottom, columns: panel.columns,
        rows: image.row - numbers.bottom)
      let below = left.dropping(top: layout.grid.rows)
      return pane.isLarge
        ? Places(grid: nil, plot: left, numbers: numbers, image: image, slider: slider, list: right)
        : Places(
          grid: layout, plot: right, numbers: numbers, image: image, slider: slider, list: below)
    }
    let image = Rect(
      column: panel.column, row: numbers.bottom, columns: panel.columns,
      rows: layout.grid.bottom - numbers.bottom)
    guard pane.isLarge else {
      let plot = Rect(
        column: 0, row: layout.grid.bottom, columns: size.columns,
        rows: slider.row - layout.grid.bottom)
      return Places(
        grid: layout, plot: plot, numbers: numbers, image: image, slider: slider, list: nil)
    }
    let column = size.columns - 32
    let plot = Rect(column: 0, row: 1, columns: column - 1, rows: slider.row - 1)
    let right = Rect(column: column, row: 1, columns: 32, rows: slider.row - 1)
    return Places(
      grid: nil, plot: plot,
      numbers: Rect(column: column, row: 1, columns: 32, rows: numbers.rows), image: image,
      slider: slider, list: right.dropping(top: numbers.rows))
  }

  func draw(on frame: inout Frame) {
    let places = places
    frame.fill(column: 0, row: 1, columns: frame.columns, rows: frame.rows - 2)
    let shown = state.showing(pane)
    if let layout = places.grid {
      GridView(state: shown, layout: layout, locks: pane.constraints).draw(on: &frame)
    }
    frame.vline(
      column: places.numbers.column - 1, row: 1,
      rows: (places.grid == nil || places.list != nil
        ? places.slider.row : places.plot.row) - 1, style: Theme.rule)
    drawNumbers(shown, on: &frame, in: places.numbers)
    drawPlot(on: &frame, in: places.plot)
    if let list = places.list { drawList(on: &frame, in: list) }
    if places.list == nil || state.layout.isWide {
      drawImage(shown, on: &frame, in: places.image)
    }
    drawSlider(on: &frame, in: places.slider)
  }

  // MARK: - Numbers

  private func percent(_ share: Double) -> String { "\(Format.fixed(100 * share, 1)) %" }

  /// An error in percent.
  private func error(_ value: Double) -> String {
    value < 1e-9 ? "0 %" : "\(Format.statistic(100 * value)) %"
  }

  private func drawNumbers(_ shown: AppState, on frame: inout Frame, in rect: Rect) {
    let inner = Rect(
      column: rect.column + 1, row: rect.row, columns: rect.columns - 1, rows: rect.rows)
    for (index, line) in numberLines(shown).prefix(inner.rows).enumerated() {
      frame.write(line, column: inner.column, row: inner.row + index, maxColumns: inner.columns)
    }
  }

  private func numberLines(_ shown: AppState) -> [[(String, Style)]] {
    var lines: [[(String, Style)]] = []
    let point = pane.point.flatMap { points.indices.contains($0) ? points[$0] : nil }
    lines.append([
      (point?.title ?? "best for ≤ \(percent(pane.budget))", Theme.heading)
    ])
    guard let front = pane.front else { return lines + [[("solving …", Theme.quiet)]] }
    let known = point.map { ($0.error, $0.fraction) } ?? solved()
    guard let known, let total = state.teacherAmount(pane.measure) else {
      let text = front.isEmpty ? "the locks leave no plan" : "no plan reaches it"
      return lines + [[(text, Theme.warning)]]
    }
    lines.append([
      (pane.measure.title + " ", Theme.quiet),
      (pane.measure.text(known.1 * total), Theme.strong),
    ])
    lines.append([(percent(known.1), Theme.strong), (" of teacher's", Theme.quiet)])
    lines.append([
      (point?.isMeasured == true ? "error " : "error sum ", Theme.quiet),
      (error(known.0), Theme.strong),
    ])
    lines.append([("\(shown.plan.edits.count) of \(2 * state.depth) slots", Theme.plain)])
    let locks = pane.constraints.kept.count + pane.constraints.required.count
    let most = pane.constraints.mostOperators.map { "≤ \(Format.count($0, "operator"))" }
    if pane.isSolving { return lines + [[("solving …", Theme.warning)]] }
    lines.append([
      (locks == 0 ? "no locks" : Format.count(locks, "lock"), Theme.quiet),
      (most.map { ", \($0)" } ?? "", Theme.quiet),
    ])
    lines.append([
      ("\(state.cursor) ", Theme.quiet), (shown.plan.label(of: state.cursor), Theme.strong),
    ])
    return lines
  }

  /// Sum of errors and fraction of the budget's plan.
  private func solved() -> (Double, Double)? {
    guard let solution = state.solution(for: pane), let total = state.teacherAmount(pane.measure)
    else { return nil }
    return (solution.loss, 1 - solution.saving[pane.measure] / total)
  }

  // MARK: - The plot

  /// The fractions on the horizontal axis, in percent.
  private var range: ClosedRange<Double>? {
    guard let budgets = state.budgets(of: pane) else { return nil }
    let known = points.map(\.fraction) + [budgets.lowerBound, budgets.upperBound]
    guard let low = known.min(), let high = known.max(), high > low else { return nil }
    let margin = (high - low) * 0.02
    return (100 * (low - margin))...(100 * (high + margin))
  }

  /// The smallest error that is plotted, relative to the largest.
  private static let errorSpan = 1e-5

  private var chart: Chart? {
    guard let front = pane.front, let total = state.teacherAmount(pane.measure),
      let range
    else { return nil }
    let solved = solved()
    // What is far below the largest error would take the room of all others.
    let known = front.map(\.loss) + points.map(\.error)
    let least = (known.max() ?? 0) * Self.errorSpan
    func y(_ error: Double) -> Double { error > least ? 100 * error : .nan }
    var series = [
      Plot.Series(
        x: front.map { 100 * (1 - $0.saving[pane.measure] / total) }, y: front.map { y($0.loss) },
        style: Theme.trainCurve)
    ]
    for point in points {
      series.append(
        Plot.Series(
          x: [100 * point.fraction], y: [y(point.error)],
          style: point.isMeasured ? Theme.heldOutCurve : Theme.strong, mark: point.mark))
    }
    if let solved {
      series.append(
        Plot.Series(
          x: [100 * solved.1], y: [y(solved.0)], style: Theme.warning,
          mark: state.chart.symbols == .ascii ? "#" : "◆"))
    }
    var chart = Chart(series)
    (chart.isLogY, chart.range, chart.symbols) = (true, range, state.chart.symbols)
    (chart.crosshair, chart.gapStyle) = (100 * pane.budget, nil)
    return chart
  }

  private func drawPlot(on frame: inout Frame, in rect: Rect) {
    let unit = "% of the teacher's \(pane.measure.title)"
    let teacher = state.teacherAmount(pane.measure).map { " = \(pane.measure.text($0))" } ?? ""
    let whole = "100 %\(teacher)"
    frame.titledRule(
      Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1),
      title: "% error by \(unit)", remark: whole)
    let body = Rect(
      column: rect.column + 1, row: rect.row + 1, columns: rect.columns - 2, rows: rect.rows - 1)
    guard let chart else {
      let text =
        state.library.costs == nil
        ? "reading the library of operators …"
        : state.reasonAgainstCosts
          ?? (pane.front == nil ? "finding the best plans for all budgets …" : "no plan is left")
      frame.put(
        TextWidth.clip(text, body.columns), column: body.column, row: body.row, style: Theme.quiet)
      return
    }
    frame.draw(
      chart.frame(columns: body.columns, rows: body.rows), column: body.column, row: body.row)
  }

  /// The budget at a cell of the slider or of the plot; nil elsewhere.
  func budget(column: Int, row: Int, isHeld: Bool) -> Double? {
    let places = places
    if row == places.slider.row || isHeld && places.slider.row - 1 <= row {
      guard let track = track(in: places.slider), let budgets = state.budgets(of: pane),
        isHeld || track.contains(column)
      else { return nil }
      let share = Double(column - track.lowerBound) / Double(max(1, track.count - 1))
      return budgets.lowerBound + share * (budgets.upperBound - budgets.lowerBound)
    }
    let body = Rect(
      column: places.plot.column + 1, row: places.plot.row + 1, columns: places.plot.columns - 2,
      rows: places.plot.rows - 1)
    guard let layout = chart?.layout(columns: body.columns, rows: body.rows) else { return nil }
    let inside =
      row >= body.row && row < body.row + layout.rows && column >= body.column + layout.column
      && column < body.column + layout.column + layout.columns
    guard isHeld || inside else { return nil }
    return layout.value(at: column - body.column) / 100
  }

  // MARK: - The slider

  private static let sliderTitle = "budget "

  private var sliderText: String {
    let amount = state.teacherAmount(pane.measure).map {
      " \(pane.measure.text(pane.budget * $0))"
    }
    return " \(percent(pane.budget))\(amount ?? "")"
  }

  private func track(in rect: Rect) -> Range<Int>? {
    let start = rect.column + 1 + Self.sliderTitle.count
    // Room for the longest text, so that the track does not move.
    let end = rect.right - 20
    return end - start >= 8 ? start..<end : nil
  }

  private func drawSlider(on frame: inout Frame, in rect: Rect) {
    frame.put(Self.sliderTitle, column: rect.column + 1, row: rect.row, style: Theme.heading)
    guard let track = track(in: rect), let budgets = state.budgets(of: pane) else { return }
    frame.hline(column: track.lowerBound, row: rect.row, columns: track.count, style: Theme.quiet)
    frame.put("├", column: track.lowerBound, row: rect.row, style: Theme.quiet)
    frame.put("┤", column: track.upperBound - 1, row: rect.row, style: Theme.quiet)
    let width = budgets.upperBound - budgets.lowerBound
    let share = width > 0 ? (pane.budget - budgets.lowerBound) / width : 1
    let place = track.lowerBound + Int((share * Double(track.count - 1)).rounded())
    frame.put("◆", column: place, row: rect.row, style: Theme.warning)
    frame.put(
      sliderText, column: track.upperBound, row: rect.row, style: Theme.strong,
      maxColumns: rect.right - track.upperBound)
  }

  // MARK: - Plans beside the front

  private func drawList(on frame: inout Frame, in rect: Rect) {
    frame.titledRule(
      Rect(column: rect.column, row: rect.row, columns: rect.columns, rows: 1),
      title: "plans", remark: "capitals: measured whole")
    let rows = rect.rows - 1
    let chosen = pane.point ?? 0
    let first = max(0, min(chosen - rows / 2, points.count - rows))
    for (offset, point) in points.dropFirst(first).prefix(rows).enumerated() {
      let row = rect.row + 1 + offset
      let numbers =
        "\(TextWidth.padLeft(Format.fixed(100 * point.fraction, 0), 4))%"
        + " \(TextWidth.padLeft(Format.loss(100 * point.error), 5))"
      let after =
        rect.columns > 40
        ? TextWidth.padLeft(point.recovered.map { "→ \(Format.loss(100 * $0))" } ?? "", 7) : ""
      let tail = numbers + after
      let room = max(0, rect.columns - 5 - TextWidth.columns(of: tail))
      frame.write(
        [
          (" \(point.mark) ", point.isMeasured ? Theme.heldOutCurve : Theme.strong),
          (TextWidth.pad(TextWidth.clip(point.title, room), room), Theme.plain),
          (tail, Theme.plain),
        ], column: rect.column, row: row, maxColumns: rect.columns)
      if pane.point == first + offset {
        frame.restyle(column: rect.column, row: row, columns: rect.columns) { $0 = Theme.cursor }
      }
    }
  }

  // MARK: - The image

  private func drawImage(_ shown: AppState, on frame: inout Frame, in rect: Rect) {
    let preview = shown.preview
    let isCurrent = preview.shown?.changes == shown.plan.changes
    let text =
      if let pending = preview.pending {
        pending.total > 0 ? "sampling \(pending.done)/\(pending.total)" : "sampling …"
      } else if preview.shown == nil {
        "s samples, F always"
      } else if isCurrent {
        "image of this plan"
      } else {
        "! image of another"
      }
    frame.put(
      TextWidth.clip(text, rect.columns - 1), column: rect.column + 1, row: rect.row,
      style: isCurrent ? Theme.quiet : Theme.warning)
    guard let picture = preview.shown?.images[.graft] else { return }
    let rows = min(rect.rows - 1, (rect.columns - 1) / 2)
    frame.place(
      ImagePlacement(
        id: "graft", column: rect.column + 1, row: rect.row + 1, columns: rect.columns - 1,
        rows: rows, picture: picture.image, contentHash: picture.contentHash))
  }
}
