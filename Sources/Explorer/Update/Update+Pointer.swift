import TerminalUI

extension AppState {
  /// Does what the mouse asks for: a turn of the wheel is a key of the table.
  mutating func point(_ event: MouseEvent) -> [Effect] {
    if case .plot = overlay { return pointAtPlot(event) }
    switch event.kind {
    case .wheel(.up): return turn(.wheelUp)
    case .wheel(.down): return turn(.wheelDown)
    default: return []
    }
  }

  private mutating func turn(_ key: Key) -> [Effect] {
    KeyBinding.match([key], in: keyContext) == .none ? [] : press(key)
  }
}
