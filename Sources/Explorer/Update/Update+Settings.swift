import Plans
import TerminalUI

extension AppState {
  /// Acts in the list of settings: a changed one is used and kept at once.
  mutating func performInSettings(_ command: Command) -> [Effect] {
    guard case .settings(let index) = overlay else { return [] }
    let rows = ExplorerSchema.table.rows
    switch command {
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
    if ["losses", "log_losses"].contains(row.key) { useChartSettings() }
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
}
