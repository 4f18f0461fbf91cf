import Plans
import TerminalUI
import Text

/// The explorer's settings, one a line.
struct SettingsView {
  let state: AppState
  let index: Int

  func draw(on frame: inout Frame) {
    let rows = ExplorerSchema.table.rows
    let width = min(90, frame.columns - 2)
    let inside = Popup.open(on: &frame, columns: width, rows: rows.count + 7, title: "settings")
    for (place, row) in rows.enumerated() {
      let line = inside.row + place
      frame.write(
        [
          (place == index ? "› " : "  ", Theme.warning),
          (TextWidth.pad(row.key.replacing("_", with: " "), 14), Theme.strong),
          (TextWidth.pad(state.configuration.settings.text(of: row), 12), Theme.plain),
          (found(row), Theme.quiet),
        ], column: inside.column, row: line, maxColumns: inside.columns)
      if place == index {
        frame.restyle(column: inside.column, row: line, columns: inside.columns) {
          $0 = Theme.cursor
        }
      }
      frame.targets.append(
        MouseTarget(.item(place), column: inside.column, row: line, columns: inside.columns))
    }
    let row = rows[index]
    let choices = ExplorerSettings.choices(of: row).joined(separator: ", ")
    for (place, text) in [row.summary, choices].enumerated() {
      frame.put(
        TextWidth.clip(text, inside.columns), column: inside.column,
        row: inside.row + rows.count + 1 + place, style: place == 0 ? Theme.plain : Theme.quiet)
    }
    let path = state.configuration.path.map { "kept in \($0), with the keys" } ?? "not kept"
    frame.put(
      TextWidth.clip(path, inside.columns), column: inside.column, row: inside.bottom - 1,
      style: Theme.quiet)
  }

  /// What an automatic choice has come to.
  private func found(_ row: any SettingRow) -> String {
    switch row.key {
    case "theme": state.palette.name
    case "graphics": state.terminal.graphics.rawValue
    case "symbols": state.terminal.symbols.rawValue
    default: ""
    }
  }
}
