import Files
import Foundation
import Plans
import Runs
import TerminalUI

/// How things are drawn, kept between the explorer's starts in `layout.json` of the state directory.
package struct KeptLayout: Codable, Equatable, Sendable {
  private static let formatVersion = 1
  private let version: Int
  private let series: ChartSettings.Series
  private let isLogarithmic, isLogX: Bool
  private let smoothing: Double
  private let symbols: PlotSymbols
  private let runOrder: String
  private let pane: Pane
  private let panes: PaneSizes
  private let budget: String?

  private enum CodingKeys: String, CodingKey {
    case version = "espalier_layout"
    case isLogarithmic = "log_losses"
    case isLogX = "log_steps"
    case runOrder = "run_order"
    case series = "losses"
    case smoothing, symbols, pane, panes, budget
  }

  /// The layout of a state.
  package init(_ state: AppState) {
    version = Self.formatVersion
    let chart = state.chart
    (series, symbols, smoothing) = (chart.series, chart.symbols, chart.smoothing)
    (isLogarithmic, isLogX) = (chart.isLogarithmic, chart.isLogX)
    runOrder = state.shownRunOrder.text
    (pane, panes, budget) = (state.pane, state.panes, state.budget?.text)
  }

  private static func path(_ state: String) -> String { "\(state)/layout.json" }

  /// Reads what was kept; nil if there is nothing that can be used.
  package static func read(state: String = UserDirectory.state.path()) -> KeptLayout? {
    guard let bytes = try? AtomicFile.read(path(state), limit: 1 << 20),
      let layout = try? JSONDecoder().decode(KeptLayout.self, from: Data(bytes)),
      layout.version == formatVersion
    else { return nil }
    return layout
  }

  /// Writes it.
  ///
  /// - Throws: `FileError` when it cannot be written.
  func write(state: String) throws {
    try AtomicFile.makeDirectory(state)
    try AtomicFile.write(try JSONEncoder().encode(self), to: Self.path(state))
  }

  /// Draws a state so.
  fileprivate func apply(to state: inout AppState) {
    var chart = ChartSettings()
    (chart.series, chart.symbols) = (series, symbols)
    chart.smoothing = smoothing.isFinite ? smoothing.clamped(to: 0...0.99) : 0
    (chart.isLogarithmic, chart.isLogX) = (isLogarithmic, isLogX)
    (state.chart, state.pane, state.panes) = (chart, pane, panes)
    state.budget = budget.flatMap { Budget($0) }
    if let order = try? RunOrder(runOrder) { state.kept.order = order }
  }
}

extension ChartSettings.Series: Codable {}
extension Pane: Codable {}

extension AppState {
  /// Draws things as when the explorer was left last.
  package mutating func restore(_ layout: KeptLayout?) { layout?.apply(to: &self) }

  /// The order of the list of runs, or the one with which it opens.
  fileprivate var shownRunOrder: RunOrder {
    for case .runs(let pane) in overlays { return pane.order }
    return kept.order
  }
}
