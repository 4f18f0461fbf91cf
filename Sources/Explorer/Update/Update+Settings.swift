import Plans
import TerminalUI

extension AppState {
  /// Acts in the list of settings: a changed one is used and kept at once.
  mutating func performInSettings(_ command: Command) -> [Effect] {
    guard case .settings(let index) = overlay else { return [] }
    let rows = ExplorerSchema.table.rows
    switch command {
    case .next, .previous:
      let step = command == .next ? 1 : rows.count - 1
      replaceTop(.settings(index: (index + step) % rows.count))
      return []
    case .accept: return turn(rows[index], by: 1)
    case .cursorLeft: return turn(rows[index], by: -1)
    default:
      overlays.removeLast()
      return []
    }
  }

  private mutating func turn(_ row: any SettingRow, by step: Int) -> [Effect] {
    configuration.settings.turn(row, by: step)
    let settings = configuration.settings
    useChartSettings()
    var effects = [Effect.wish(settings.wishes)]
    if let path = configuration.path {
      effects.append(.saveSetting(key: row.key, value: settings.text(of: row), path: path))
    }
    return effects
  }

  /// Draws losses as the settings say.
  package mutating func useChartSettings() {
    (chart.series, chart.isLogarithmic) = (
      configuration.settings.losses, configuration.settings.logLosses
    )
  }

  /// Scrolls what was found of the terminal, or leaves it.
  mutating func performInTerminal(_ command: Command) -> [Effect] {
    guard case .terminal(let scroll) = overlay else { return [] }
    let room = TerminalView.rows(size)
    if let first = Self.scrolled(
      scroll, by: command, rows: room, of: terminal.findings(size).count)
    {
      replaceTop(.terminal(scroll: first))
    } else {
      overlays.removeLast()
    }
    return []
  }
}
