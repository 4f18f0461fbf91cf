import Plans
import Runs
import TerminalUI

extension AppState {
  /// The weights of smoothing that can be chosen; 0 is none.
  static let smoothings = [0, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99]

  /// Opens the plot, with an argument on a quantity.
  mutating func openPlot(_ argument: String?) -> [Effect] {
    var pane = PlotPane()
    if let argument {
      guard let quantity = PlotQuantity(rawValue: argument) else {
        notice = .warning("plot takes \(PlotQuantity.names), not \(argument)")
        return []
      }
      pane.quantity = quantity
    } else {
      pane.quantity = chart.series == .slot ? .slot : .loss
      if chart.series == .all { pane.content = .slots }
    }
    if let id = runs.focus?.id { takeColor(for: id) }
    overlays.append(.plot(pane))
    return []
  }

  /// Acts in the plot.
  mutating func performInPlot(_ command: Command, count: Int?) -> [Effect] {
    guard case .plot(var pane) = overlay else { return [] }
    let times = count ?? 1
    let steps = extent(of: pane)
    let isLogarithmic = chart.isLogX
    func zoom(_ factor: Double) {
      guard let steps else { return }
      pane.window.zoom(by: factor, around: pane.crosshair, of: steps, isLogarithmic: isLogarithmic)
    }
    switch command {
    case .nextQuantity: turnQuantity(&pane, by: 1)
    case .previousQuantity: turnQuantity(&pane, by: -1)
    case .plotContent: turn(&pane.content, by: 1)
    case .left: moveCrosshair(&pane, by: -times)
    case .right: moveCrosshair(&pane, by: times)
    case .next: selectSite(pane, by: times)
    case .previous: selectSite(pane, by: -times)
    case .pageDown: selectSite(pane, by: PlotView.slotsOnPage(size))
    case .pageUp: selectSite(pane, by: -PlotView.slotsOnPage(size))
    case .zoomIn: zoom(0.5)
    case .zoomOut: zoom(2)
    case .panLeft, .panRight:
      let share = command == .panLeft ? -0.25 : 0.25
      if let steps { pane.window.pan(by: share, of: steps, isLogarithmic: isLogarithmic) }
    case .first, .last:
      if let steps {
        pane.window.move(toEnd: command == .last, of: steps, isLogarithmic: isLogarithmic)
      }
    case .wholeRun: pane.window = PlotWindow()
    case .scale: chart.isLogarithmic.toggle()
    case .scaleX:
      chart.isLogX.toggle()
      pane.window = PlotWindow()
    case .symbols: turn(&chart.symbols, by: 1)
    case .moreSmoothing, .lessSmoothing:
      let index = Self.smoothings.firstIndex { $0 >= chart.smoothing } ?? 0
      let next = index + (command == .moreSmoothing ? 1 : -1)
      chart.smoothing = Self.smoothings[min(max(0, next), Self.smoothings.count - 1)]
    case .overlayRuns:
      overlays.append(.overlayList(OverlayList(selection: overlayRuns.first?.id)))
      return []
    case .escape where pane.crosshair != nil:
      pane.crosshair = nil
    case .escape, .quit:
      overlays.removeLast()
      return []
    default: break
    }
    replaceTop(.plot(pane))
    return []
  }

  private func turn<Value: CaseIterable & Equatable>(_ value: inout Value, by offset: Int) {
    let all = Array(Value.allCases)
    let index = all.firstIndex(of: value) ?? 0
    value = all[(index + offset + all.count) % all.count]
  }

  /// Goes on to the next quantity of which there are values.
  private func turnQuantity(_ pane: inout PlotPane, by offset: Int) {
    let shown = runs(in: pane)
    let site = site(in: pane)
    for _ in PlotQuantity.allCases {
      turn(&pane.quantity, by: offset)
      if shown.contains(where: { !pane.quantity.series($0.history, site).isEmpty }) { return }
    }
  }

  private mutating func selectSite(_ pane: PlotPane, by offset: Int) {
    let sites = sites(in: pane)
    let index = sites.firstIndex(of: site(in: pane)) ?? 0
    guard !sites.isEmpty else { return }
    cursor = sites[min(max(0, index + offset), sites.count - 1)].firstSlot
  }

  /// Moves the crosshair by columns, to the recorded step that is nearest there and at least one further.
  private func moveCrosshair(_ pane: inout PlotPane, by columns: Int) {
    let view = PlotView(state: self, pane: pane)
    guard let layout = view.layout(), let steps = extent(of: pane) else { return }
    let known = view.recordedSteps
    guard let first = known.first, let last = known.last else { return }
    guard let old = pane.crosshair else {
      // It begins at the newest step shown, or at the first one on the way to the right.
      let edge = layout.x.value(at: columns < 0 ? 1 : 0)
      pane.crosshair = nearest(known, to: edge)
      return
    }
    let target = layout.value(at: layout.column(nearest: old) + columns)
    var next = nearest(known, to: min(max(target, first), last)) ?? old
    if columns > 0 ? next <= old : next >= old {
      next = (columns > 0 ? known.first { $0 > old } : known.last { $0 < old }) ?? old
    }
    pane.crosshair = next
    pane.window.reveal(next, of: steps, isLogarithmic: chart.isLogX)
  }

  private func nearest(_ steps: [Double], to value: Double) -> Double? {
    steps.min { abs($0 - value) < abs($1 - value) }
  }

  /// Follows the mouse: a click reads off the step under it or chooses the slot of a chart, a drag moves the plot, the
  /// wheel zooms where it is.
  mutating func pointAtPlot(_ event: MouseEvent) -> [Effect] {
    guard case .plot(var pane) = overlay else { return [] }
    if event.kind == .press(.left) {
      switch target(event) {
      case .key(let key): return press(key)
      case .place(let block, let kind):
        cursor = Self.slot(block, kind)
        return []
      case .item, .nothing, nil: break
      }
    }
    let view = PlotView(state: self, pane: pane)
    guard let steps = extent(of: pane) else { return [] }
    func zoom(around step: Double?) {
      let factor = event.kind == .wheel(.up) ? 0.8 : 1.25
      pane.window.zoom(by: factor, around: step, of: steps, isLogarithmic: chart.isLogX)
    }
    guard let layout = view.layout() else {
      guard [.wheel(.up), .wheel(.down)].contains(event.kind) else { return [] }
      zoom(around: pane.crosshair)
      replaceTop(.plot(pane))
      return []
    }
    let column = event.column - view.area.column
    let columns = layout.column..<(layout.column + layout.columns)
    let rows = view.area.row..<(view.area.row + layout.rows)
    let isInside = columns.contains(column) && rows.contains(event.row)
    let step = layout.value(at: column)
    switch event.kind {
    case .wheel(.up) where isInside, .wheel(.down) where isInside: zoom(around: step)
    case .press(.left) where isInside:
      pane.hold = event.column
      pane.crosshair = nearest(view.recordedSteps, to: step)
    case .drag(.left):
      guard let hold = pane.hold, hold != event.column else { return [] }
      let share = Double(hold - event.column) / Double(layout.columns)
      pane.window.pan(by: share, of: steps, isLogarithmic: chart.isLogX)
      pane.hold = event.column
    case .release: pane.hold = nil
    default: return []
    }
    replaceTop(.plot(pane))
    return []
  }

  // MARK: - Runs beside the followed one

  /// The trainings that can be plotted beside the followed one, newest first.
  var overlayRuns: [RunSummary] {
    runs.records.filter { $0.isTraining && $0.id != runs.focus?.id && $0.damage == nil }
  }

  /// Acts in the list of runs to plot.
  mutating func performInOverlayList(_ command: Command) -> [Effect] {
    guard case .overlayList(let list) = overlay else { return [] }
    switch command {
    case .mark:
      guard let id = list.selection, let place = overlays.indices.dropLast().last else { return [] }
      if case .images = overlays[place] {
        overlays.removeLast()
        preview.second = SecondPreview(runID: id)
        return startSecondPreview()
      }
      guard case .plot(var pane) = overlays[place] else { return [] }
      if let shown = pane.others.firstIndex(where: { $0.id == id }) {
        pane.others.remove(at: shown)
      } else {
        takeColor(for: id)
        pane.others.append(FocusedRun(id: id, plan: nil))
      }
      overlays[place] = .plot(pane)
      return [.readRuns(ids: pane.others.map(\.id))]
    default: overlays.removeLast()
    }
    return []
  }

  /// Takes in what was read of the runs beside the followed one.
  mutating func receivePlotted(_ read: [FocusedRun]) {
    for place in overlays.indices {
      guard case .plot(var pane) = overlays[place] else { continue }
      for run in read {
        guard let index = pane.others.firstIndex(where: { $0.id == run.id }) else { continue }
        pane.others[index] = run
      }
      overlays[place] = .plot(pane)
    }
  }
}
