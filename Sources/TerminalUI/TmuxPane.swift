import Glibc

/// Where a pane of tmux lies on the screen of the terminal around it, from 0 on.
package struct TmuxPane: Equatable, Sendable {
  /// The column and row of its first cell.
  package let column, row: Int

  private static let question =
    "tmux display-message -p -t \"$TMUX_PANE\""
    + " '#{pane_left} #{pane_top} #{status-position} #{status}' 2>/dev/null"

  /// Asks tmux for this program's pane; nil without an answer.
  static func ask() -> TmuxPane? {
    guard let pipe = popen(question, "r") else { return nil }
    var bytes = [UInt8](repeating: 0, count: 256)
    let count = fread(&bytes, 1, bytes.count, pipe)
    guard pclose(pipe) == 0 else { return nil }
    return TmuxPane(String(decoding: bytes.prefix(count), as: UTF8.self))
  }

  /// Reads tmux's answer: the pane's column and row in the window, where the status line is, and its rows.
  package init?(_ answer: String) {
    let words = answer.split { $0.isWhitespace }
    guard words.count == 4, let column = Int(words[0]), let top = Int(words[1]) else { return nil }
    let status = words[3] == "on" ? 1 : Int(words[3]) ?? 0
    (self.column, row) = (column, top + (words[2] == "top" ? status : 0))
  }

  /// The bytes that draw a sixel image on the screen around tmux, after all text that tmux was given before: setting
  /// the margins makes it write that.
  package func bytes(of emission: ImageLayer.Emission, sixels: [UInt8]) -> [UInt8] {
    Array("\u{1b}7\u{1b}[r\u{1b}8".utf8)
      + KittyGraphics.passed(
        ImageLayer.bytes(of: emission, sixels: sixels, column: column, row: row))
  }
}
