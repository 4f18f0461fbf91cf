import TerminalUI
import Text

/// The whole screen as a function of the state.
package enum ExplorerView {
  /// Draws the state on a screen of its size, in the colours of its theme.
  package static func frame(_ state: AppState) -> Frame {
    var frame = Frame(columns: state.size.columns, rows: state.size.rows)
    if let needed = Layout.missingSize(state.size) {
      drawTooSmall(state, needed: needed, on: &frame)
    } else {
      draw(state, on: &frame)
    }
    let palette = state.palette
    frame.restyle(palette.style)
    frame.page = palette.page ?? .default
    return frame
  }

  private static func draw(_ state: AppState, on frame: inout Frame) {
    let layout = state.layout
    TopBar(state: state).draw(on: &frame)
    if state.overlays.contains(.images) {
      LargeImages(state: state).draw(on: &frame)
    } else if case .evidence(let pane) = state.overlays.first(where: \.isEvidence) {
      EvidenceView(state: state, pane: pane).draw(on: &frame)
    } else if let pane = state.searchPane {
      SearchView(state: state, pane: pane).draw(on: &frame)
    } else if let pane = state.plotPane {
      PlotView(state: state, pane: pane).draw(on: &frame)
    } else if Layout.isCompact(state.size) {
      CompactView(state: state, layout: layout).draw(on: &frame)
    } else {
      GridView(state: state, layout: layout).draw(on: &frame)
      drawSeparator(layout, on: &frame)
      SlotPanel(state: state, rect: layout.panel, isWide: layout.isWide).draw(on: &frame)
      RunsPanel(state: state, rect: layout.runs).draw(on: &frame)
      ImagesPanel(state: state, rect: layout.images, isWide: layout.isWide).draw(on: &frame)
      if state.costMap == nil {
        LossPanel(state: state, rect: layout.losses).draw(on: &frame)
      } else {
        CostLegend(state: state, rect: layout.losses).draw(on: &frame)
      }
    }
    if let overlay = state.overlay, !overlay.isSearch, !overlay.isPlot {
      frame.targets.append(
        MouseTarget(.nothing, column: 0, row: 0, columns: frame.columns, rows: frame.rows))
    }
    for (index, overlay) in state.overlays.enumerated() {
      // A form that was opened from the list takes the list's place.
      if case .picker = overlay, index + 1 < state.overlays.count { continue }
      draw(overlay, of: state, on: &frame)
    }
    BottomBar(state: state).draw(on: &frame)
  }

  private static func drawSeparator(_ layout: Layout, on frame: inout Frame) {
    let column = layout.panel.column - 1
    let rows = layout.isWide ? frame.rows - 2 : layout.panel.rows
    frame.vline(column: column, row: 1, rows: rows, style: Theme.rule)
    if !layout.isWide {
      let left = layout.losses.column - 1
      frame.put("┬", column: left, row: layout.losses.row, style: Theme.rule)
      frame.vline(
        column: left, row: layout.losses.row + 1, rows: layout.losses.rows - 1, style: Theme.rule)
    }
  }

  private static func draw(_ overlay: Overlay, of state: AppState, on frame: inout Frame) {
    switch overlay {
    case .picker(let picker): PickerView(state: state, picker: picker).draw(on: &frame)
    case .form(let form): FormView(state: state, form: form).draw(on: &frame)
    case .confirm(let question): QuestionView(state: state, question: question).draw(on: &frame)
    case .runs(let pane): RunsView(state: state, pane: pane).draw(on: &frame)
    case .compare(let pane): CompareView(state: state, pane: pane).draw(on: &frame)
    case .log(let page): LogView(state: state, page: page).draw(on: &frame)
    case .ranks(let page): RanksView(state: state, page: page).draw(on: &frame)
    case .help(let page): HelpView(state: state, page: page).draw(on: &frame)
    case .overlayList(let list):
      let shown = Set(state.plotPane?.others.map(\.id) ?? [])
      OverlayListView(state: state, list: list, shown: shown).draw(on: &frame)
    case .text(let page): TextPageView(state: state, page: page).draw(on: &frame)
    case .settings(let index): SettingsView(state: state, index: index).draw(on: &frame)
    case .terminal(let scroll): TerminalView(state: state, scroll: scroll).draw(on: &frame)
    case .prompt, .images, .plot, .evidence, .search: break
    }
  }

  private static func drawTooSmall(_ state: AppState, needed: Size, on frame: inout Frame) {
    var lines = [
      "espalier needs \(needed.columns)x\(needed.rows)",
      "this is \(state.size.columns)x\(state.size.rows)", "q leaves, p pauses",
    ]
    if let record = state.runs.focusRecord {
      lines.insert("\(record.name) \(record.step)/\(record.total) \(record.stateLabel)", at: 0)
    }
    if case .confirm(let question) = state.overlay {
      lines = QuestionView.text(question, state) + [QuestionView.answers(question)]
    } else if state.overlay != nil {
      lines[lines.count - 1] = "make it larger to go on"
    }
    let wrapped = lines.flatMap { TextWidth.wrap($0, max(1, state.size.columns)) }
    let top = max(0, (state.size.rows - wrapped.count) / 2)
    for (index, line) in wrapped.enumerated() {
      frame.putCentred(line, column: 0, columns: state.size.columns, row: top + index)
    }
  }
}
