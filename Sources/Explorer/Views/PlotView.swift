import Plans
import Runs
import TerminalUI
import Text

/// Runs plotted over the whole screen: one chart, a chart for each slot, or slots by steps as colours.
struct PlotView {
  let state: AppState
  let pane: PlotPane

  /// Rows of the reading below the plot, one for each curve and one for the step.
  private var readingRows: Int { 1 + min(6, max(1, readings.count)) }
  private var runs: [FocusedRun] { state.runs(in: pane) }
  private var site: GraftSite { state.site(in: pane) }
  private var quantity: PlotQuantity {
    pane.content == .curves ? pane.quantity : pane.quantity.ofSlot
  }

  /// The cells of the charts.
  var area: Rect {
    Rect(
      column: 1, row: 2, columns: state.size.columns - 2,
      rows: max(4, state.size.rows - 3 - readingRows))
  }

  /// The chart's parts, in cells of `area`; nil without values and for charts of single slots.
  func layout() -> Chart.Layout? {
    switch pane.content {
    case .curves: chart(of: quantity, site).layout(columns: area.columns, rows: area.rows)
    case .slots, .map: nil
    }
  }

  /// The steps of the values in sight, in order.
  var recordedSteps: [Double] {
    let all = series(of: quantity, site, isSmoothed: false).flatMap(\.x)
    return Set(all).sorted()
  }

  func draw(on frame: inout Frame) {
    frame.fill(
      column: 0, row: 1, columns: frame.columns, rows: frame.rows - 2)
    frame.titledRule(
      Rect(column: 0, row: 1, columns: frame.columns, rows: 1), title: title, remark: remark)
    guard state.extent(of: pane) != nil else {
      for (index, line) in TextWidth.wrap(emptyText, area.columns).enumerated() {
        frame.put(line, column: area.column, row: area.row + index, style: Theme.quiet)
      }
      return
    }
    switch pane.content {
    case .curves:
      frame.draw(
        chart(of: quantity, site).frame(columns: area.columns, rows: area.rows),
        column: area.column, row: area.row)
    case .slots: drawSlots(on: &frame)
    case .map: drawMap(on: &frame)
    }
    drawReading(on: &frame)
  }

  // MARK: - Text

  private var title: String {
    switch pane.content {
    case .curves: quantity.title(site)
    case .slots:
      "\(quantity == .slot ? "training" : "held-out") loss of every slot, page \(page + 1) of \(pages)"
    case .map: "\(quantity == .slot ? "training" : "held-out") loss, slots by steps"
    }
  }

  private var remark: String {
    let chart = state.chart
    return [
      chart.smoothing > 0 ? "smoothed \(Format.plain(chart.smoothing))" : nil,
      chart.isLogX ? "log x" : nil, chart.isLogarithmic ? "log y" : "linear y",
      pane.window.range == nil ? "all steps" : pane.window.tails ? "newest steps" : "held",
    ].compactMap(\.self).joined(separator: ", ")
  }

  private var emptyText: String {
    guard !runs.isEmpty else { return "no run is followed: o chooses runs to plot" }
    if pane.content != .curves || quantity == .slot || quantity == .slotHeldOut {
      return
        "no losses of single slots: finetuning has one loss, of the whole model; Tab and v show"
        + " something else"
    }
    return "no values yet; Tab shows another quantity, o other runs"
  }

  // MARK: - Curves

  private func style(of run: FocusedRun) -> (style: Style, mark: Character?) {
    guard runs.count > 1, let index = state.runColors[run.id] else {
      return (Theme.trainCurve, nil)
    }
    let marks = state.chart.symbols.marks
    return (Theme.runStyles[index % Theme.runStyles.count], marks[index % marks.count])
  }

  /// The curves of one quantity, faint ones before those that are read.
  private func series(
    of quantity: PlotQuantity, _ site: GraftSite, isSmoothed: Bool = true
  ) -> [Plot.Series] {
    var faint: [Plot.Series] = []
    var clear: [Plot.Series] = []
    for run in runs {
      let (style, mark) = style(of: run)
      let wanted = [
        runs.count == 1 ? quantity.partner.map { ($0, Theme.heldOutCurve) } : nil,
        (quantity, style),
      ].compactMap(\.self)
      for (quantity, style) in wanted {
        let points = quantity.series(run.history, site)
        var one = Plot.Series(
          x: points.map { Double($0.step) }, y: points.map { quantity.shown($0.value) },
          style: style, mark: mark)
        guard !one.x.isEmpty else { continue }
        if isSmoothed, state.chart.smoothing > 0, one.x.count > 2 {
          var raw = one
          (raw.style, raw.mark) = (Theme.faintCurve, nil)
          faint.append(raw)
          one = one.smoothed(weight: state.chart.smoothing)
        }
        clear.append(one)
      }
    }
    return faint + clear
  }

  private func chart(of quantity: PlotQuantity, _ site: GraftSite) -> Chart {
    var chart = Chart(series(of: quantity, site))
    (chart.isLogX, chart.isLogY) = (state.chart.isLogX, state.chart.isLogarithmic)
    chart.range = state.visibleSteps(of: pane)
    chart.symbols = state.chart.symbols
    chart.crosshair = pane.crosshair
    (chart.ticks, chart.tickStyle) = (
      runs.flatMap(\.history.restarts).map(Double.init), Theme.warning
    )
    return chart
  }

  // MARK: - A chart for each slot

  /// Columns and rows of charts on a screen.
  private static func charts(_ size: Size) -> (across: Int, down: Int) {
    (max(1, (size.columns - 2) / 38), max(1, (size.rows - 6) / 8))
  }

  /// The charts that a page has.
  static func slotsOnPage(_ size: Size) -> Int {
    let (across, down) = charts(size)
    return across * down
  }

  private func drawSlots(on frame: inout Frame) {
    let sites = state.sites(in: pane)
    let most = Self.charts(state.size)
    let (across, down) = (min(most.across, max(1, sites.count)), most.down)
    let needed = (min(sites.count, across * down) + across - 1) / across
    let (width, height) = (area.columns / across, area.rows / max(1, needed))
    for (index, shown) in sites.dropFirst(page * most.across * down)
      .prefix(most.across * down).enumerated()
    {
      let left = area.column + index % across * width
      let top = area.row + index / across * height
      let last = runs.lazy.compactMap { quantity.series($0.history, shown).last }.first
      let isSelected = shown == site
      frame.write(
        [
          (isSelected ? "› " : "  ", Theme.warning),
          ("\(shown)", isSelected ? Theme.strong : Theme.heading),
          (last.map { "  \(PlotNumber.text($0.value, digits: 4))" } ?? "", Theme.plain),
        ], column: left, row: top, maxColumns: width - 2)
      frame.addTargets(
        shown, in: Rect(column: left, row: top, columns: width - 2, rows: height))
      var one = chart(of: quantity, shown)
      one.crosshair = pane.crosshair
      frame.draw(one.frame(columns: width - 2, rows: height - 1), column: left, row: top + 1)
    }
  }

  private var page: Int {
    (state.sites(in: pane).firstIndex(of: site) ?? 0) / Self.slotsOnPage(state.size)
  }

  private var pages: Int {
    let count = Self.slotsOnPage(state.size)
    return max(1, (state.sites(in: pane).count + count - 1) / count)
  }

  // MARK: - Slots by steps

  /// The columns of the rows' names.
  private static let names = 14

  private func drawMap(on frame: inout Frame) {
    guard let steps = state.visibleSteps(of: pane), let run = runs.first else { return }
    let sites = state.sites(in: pane)
    let columns = max(1, area.columns - Self.names)
    let rows = max(1, area.rows - 2)
    guard let x = PlotAxis(range: steps, isLogarithmic: state.chart.isLogX) else { return }
    var map = HeatMap(
      sites.map { site in
        Self.means(quantity.series(run.history, site), axis: x, columns: columns)
      })
    (map.isLogarithmic, map.symbols) = (state.chart.isLogarithmic, state.chart.symbols)
    let (fold, span) = (map.rowsInCell(height: rows), map.cellsInRow(height: rows))
    let selected = sites.firstIndex(of: site) ?? 0
    let first = max(0, min(selected - rows * fold / 2, sites.count - rows * fold)) / fold * fold
    frame.draw(
      map.frame(columns: columns, rows: rows, first: first), column: area.column + Self.names,
      row: area.row)
    for (place, start) in stride(from: first, to: sites.count, by: fold).enumerated()
    where place * span < rows {
      // Where two slots share a row the selected one is named, else the first.
      let index = selected / fold == start / fold ? selected : start
      let isSelected = index == selected
      frame.addTargets(
        sites[index],
        in: Rect(
          column: area.column, row: area.row + place * span, columns: area.columns, rows: span))
      frame.put(
        TextWidth.clip("\(isSelected ? "›" : " ")\(sites[index])", Self.names - 1),
        column: area.column, row: area.row + place * span,
        style: isSelected ? Theme.strong : Theme.quiet)
    }
    drawSteps(x, columns: columns, row: area.row + rows, on: &frame)
    if let range = map.range { drawScale(range, row: area.row + rows + 1, on: &frame) }
    if let crosshair = pane.crosshair, (0...1).contains(x.fraction(of: crosshair)) {
      let column = Int(min(x.fraction(of: crosshair) * Double(columns), Double(columns - 1)))
      frame.put(
        "▲", column: area.column + Self.names + column, row: area.row + rows, style: Theme.warning)
    }
  }

  private func drawSteps(_ x: PlotAxis, columns: Int, row: Int, on frame: inout Frame) {
    var free = 0
    for tick in x.ticks(limit: max(2, columns / 12), isWhole: true) {
      let place = Int(x.fraction(of: tick.value) * Double(columns - 1))
      let start = min(max(place - tick.label.count / 2, 0), columns - tick.label.count)
      guard start >= free else { continue }
      frame.put(
        tick.label, column: area.column + Self.names + start, row: row, style: Theme.quiet)
      free = start + tick.label.count + 1
    }
  }

  private func drawScale(_ range: ClosedRange<Double>, row: Int, on frame: inout Frame) {
    var scale = HeatMap([
      (0..<16).map { index in
        PlotAxis(range: range, isLogarithmic: state.chart.isLogarithmic)?
          .value(at: Double(index) / 15) ?? range.lowerBound
      }
    ])
    (scale.isLogarithmic, scale.symbols) = (state.chart.isLogarithmic, state.chart.symbols)
    let low = PlotNumber.text(range.lowerBound, digits: 3)
    var column = area.column + Self.names
    column += frame.put("\(low) ", column: column, row: row, style: Theme.quiet)
    frame.draw(scale.frame(columns: 16, rows: 1), column: column, row: row)
    frame.put(
      " \(PlotNumber.text(range.upperBound, digits: 3))", column: column + 16, row: row,
      style: Theme.quiet)
  }

  /// The mean in each column of an axis; a column without a step has the value before, none before the first.
  static func means(_ points: StepSeries, axis: PlotAxis, columns: Int) -> [Double] {
    var sums = [Double](repeating: 0, count: columns)
    var counts = [Int](repeating: 0, count: columns)
    var before = Double.nan
    for point in points {
      let place = axis.fraction(of: Double(point.step))
      guard place >= 0 else {
        before = point.value
        continue
      }
      guard place <= 1 else { break }
      let column = min(columns - 1, Int(place * Double(columns)))
      sums[column] += point.value
      counts[column] += 1
    }
    let last = points.last.map { axis.fraction(of: Double($0.step)) } ?? -1
    return sums.indices.map { column in
      if counts[column] > 0 { before = sums[column] / Double(counts[column]) }
      return Double(column) / Double(columns) <= last ? before : .nan
    }
  }

  // MARK: - Reading

  /// The curves that are read off, one to a row: those of all runs, or of one run its training and held-out loss.
  private var readings: [(run: FocusedRun, quantity: PlotQuantity, style: Style, mark: Character?)]
  {
    let partner = runs.count == 1 ? [quantity.partner].compactMap(\.self) : []
    return runs.flatMap { run in
      ([quantity] + partner).map { one in
        let (style, mark) = style(of: run)
        return (run, one, one == quantity ? style : Theme.heldOutCurve, mark)
      }
    }
  }

  /// The step of the crosshair, or the newest, and every curve's value there.
  private func drawReading(on frame: inout Frame) {
    let top = frame.rows - 1 - readingRows
    let step = pane.crosshair ?? recordedSteps.last
    frame.write(
      [
        (
          runs.count == 1
            ? "\(TextWidth.clip(state.runs.title(of: runs[0].id), 24))  " : "", Theme.strong
        ),
        (pane.content == .curves ? "" : "\(site)  ", Theme.heading),
        (pane.crosshair == nil ? "newest " : "at ", Theme.quiet),
        (step.map { "step \(Int($0))" } ?? "", Theme.strong),
        (pane.crosshair == nil ? "   h l read values off the curve" : "", Theme.quiet),
      ], column: 1, row: top, maxColumns: frame.columns - 2)
    for (index, reading) in readings.prefix(readingRows - 1).enumerated() {
      let name =
        runs.count > 1
        ? TextWidth.pad(TextWidth.clip(state.runs.title(of: reading.run.id), 24), 26)
        : quantity.partner == nil ? "" : reading.quantity == quantity ? "train     " : "held-out  "
      let texts = reading.quantity.readings(
        of: reading.run.history, site, at: step, smoothing: state.chart.smoothing)
      frame.write(
        [("\(reading.mark.map(String.init) ?? "──") ", reading.style), (name, Theme.strong)]
          + texts.enumerated().map { ($1, $0 == 0 ? Theme.plain : Theme.quiet) },
        column: 1, row: top + 1 + index, maxColumns: frame.columns - 2)
    }
  }
}

extension Frame {
  /// Makes a rectangle choose a site's slot when it is clicked.
  fileprivate mutating func addTargets(_ site: GraftSite, in rect: Rect) {
    let id = site.firstSlot
    targets.append(
      MouseTarget(
        .place(id.block, id.slot == .attention ? 0 : 1), column: rect.column,
        row: rect.row, columns: rect.columns, rows: rect.rows))
  }
}

extension PlotQuantity {
  /// The recorded value nearest to a step as text, then its step where it is another, then the moving average.
  fileprivate func readings(
    of history: RunHistory, _ site: GraftSite, at step: Double?, smoothing: Double
  ) -> [String] {
    let points = series(history, site)
    let nearest = step.flatMap { step in
      points.indices.min {
        abs(Double(points[$0].step) - step) < abs(Double(points[$1].step) - step)
      }
    }
    guard let nearest else { return ["–"] }
    var texts = [PlotNumber.text(shown(points[nearest].value), digits: 7)]
    if points[nearest].step != step.map({ Int($0) }) {
      texts.append("  at step \(points[nearest].step)")
    }
    if smoothing > 0 {
      let average = Smoothing.average(
        x: points.map { Double($0.step) }, y: points.map(\.value), weight: smoothing)
      texts.append("  smoothed \(PlotNumber.text(shown(average[nearest]), digits: 7))")
    }
    return texts
  }
}

/// The list of trainings in which those are chosen that the plot shows beside the followed one.
struct OverlayListView {
  let state: AppState
  let list: OverlayList
  let shown: Set<String>

  func draw(on frame: inout Frame) {
    let known = state.overlayRuns
    let rows = min(max(1, known.count), frame.rows - 8)
    let inside = Popup.open(
      on: &frame, columns: 60, rows: rows + 2, title: "runs beside the followed one")
    guard !known.isEmpty else {
      frame.put(
        "there are no other trainings", column: inside.column, row: inside.row, style: Theme.quiet)
      return
    }
    let selected = known.firstIndex { $0.id == list.selection } ?? 0
    let first = min(max(0, selected - rows / 2), known.count - rows)
    for (row, record) in known.dropFirst(first).prefix(rows).enumerated() {
      let isShown = shown.contains(record.id)
      let color = state.runColors[record.id]
      let mark = color.map { state.chart.symbols.marks[$0 % state.chart.symbols.marks.count] }
      let style = color.map { Theme.runStyles[$0 % Theme.runStyles.count] } ?? Theme.plain
      frame.write(
        [
          (isShown ? "\(mark.map(String.init) ?? "•") " : "  ", style),
          (TextWidth.pad(TextWidth.clip(state.runs.title(record), 28), 30), Theme.plain),
          ("\(record.state.name)  \(record.step)/\(record.total)", Theme.quiet),
        ], column: inside.column, row: inside.row + row, maxColumns: inside.columns)
      frame.targets.append(
        MouseTarget(
          .item(first + row), column: inside.column, row: inside.row + row, columns: inside.columns)
      )
      if record.id == known[selected].id {
        frame.restyle(column: inside.column, row: inside.row + row, columns: inside.columns) {
          $0 = Theme.cursor
        }
      }
    }
  }
}
