import TerminalUI
import Text

/// A screen without room for everything: the followed run's progress, and one pane below it.
struct CompactView {
  let state: AppState
  let layout: Layout

  func draw(on frame: inout Frame) {
    let body = layout.grid
    RunsPanel(
      state: state, rect: Rect(column: 0, row: 1, columns: body.columns, rows: 1)
    ).draw(on: &frame)
    switch state.pane {
    case .grid: GridView(state: state, layout: layout).draw(on: &frame)
    case .slot: SlotPanel(state: state, rect: body, isWide: false).draw(on: &frame)
    case .losses where state.costMap != nil:
      CostLegend(state: state, rect: body).draw(on: &frame)
    case .losses: LossPanel(state: state, rect: body).draw(on: &frame)
    case .images: ImagesPanel(state: state, rect: body, isWide: true).draw(on: &frame)
    case .runs: RunsPanel(state: state, rect: body).draw(on: &frame)
    }
    let number = Pane.allCases.firstIndex(of: state.pane).map { $0 + 1 } ?? 1
    frame.putRight(
      " \(state.pane.rawValue) \(number)/\(Pane.allCases.count) Tab ", right: frame.columns, row: 0,
      style: Theme.barKey)
  }
}
