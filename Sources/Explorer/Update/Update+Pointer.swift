import TerminalUI

extension AppState {
  /// Does what the mouse asks for: a turn of the wheel is a key of the table.
  mutating func point(_ event: MouseEvent) -> [Effect] {
    switch event.kind {
    case .wheel(.up): turn(.wheelUp)
    case .wheel(.down): turn(.wheelDown)
    default: []
    }
  }

  private mutating func turn(_ key: Key) -> [Effect] {
    KeyBinding.match([key], in: keyContext) == .none ? [] : press(key)
  }
}
