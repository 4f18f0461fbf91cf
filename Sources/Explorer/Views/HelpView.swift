import TerminalUI
import Text

/// The text of the help page, made from the key table.
package enum HelpText {
  /// One line of the page.
  package enum Line: Equatable, Sendable {
    /// A heading.
    case heading(String)
    /// Keys, what they do, and the command's name, empty where it has none.
    case key(keys: String, summary: String, name: String)
    /// Plain text.
    case text(String)
    /// Nothing.
    case blank
  }

  /// The width of the page's text on a screen.
  static func width(_ size: Size) -> Int { min(92, size.columns - 6) }

  /// The whole page.
  package static func lines(width: Int) -> [Line] {
    var lines: [Line] = []
    for group in KeyBinding.Group.allCases where group != .list {
      append(
        group.rawValue, KeyBinding.all.filter { $0.context == .grid && $0.group == group },
        to: &lines)
    }
    lines += [.heading("Marks")]
    lines += SlotPhase.allCases.map { .key(keys: $0.mark, summary: $0.meaning, name: "") }
    lines += [
      .key(keys: "•", summary: "marked by Space or m", name: ""),
      .key(keys: "›", summary: "in the range or the typed pattern", name: ""), .blank,
    ]
    for context in KeyContext.allCases where context != .grid {
      append(context.title, KeyBinding.all.filter { $0.context == context }, to: &lines)
    }
    let about =
      "A number before a key repeats it. Names on the right work after “:”, with an argument where "
      + "one is shown. A ~ marks an estimate."
    lines += TextWidth.wrap(about, width).map { .text($0) }
    return lines
  }

  private static func append(
    _ title: String, _ bindings: [KeyBinding], to lines: inout [Line]
  ) {
    guard !bindings.isEmpty else { return }
    lines.append(.heading(title))
    for binding in bindings {
      let command = binding.command
      let name =
        command.hasName && binding.context == .grid
        ? ":\(command.rawValue)" + (command.argument.map { " \($0)" } ?? "") : ""
      lines.append(.key(keys: binding.keysText, summary: binding.summary, name: name))
    }
    lines.append(.blank)
  }
}

/// The table of keys over the whole screen.
struct HelpView {
  let state: AppState
  let page: HelpPage

  func draw(on frame: inout Frame) {
    let width = HelpText.width(state.size)
    let lines = HelpText.lines(width: width)
    let rows = frame.rows - 2
    let inside = Popup.open(on: &frame, columns: width + 4, rows: rows, title: "keys")
    let first = min(page.scroll, max(0, lines.count - inside.rows))
    for (index, line) in lines.dropFirst(first).prefix(inside.rows).enumerated() {
      draw(line, on: &frame, in: inside, row: inside.row + index)
    }
    let last = min(lines.count, first + inside.rows)
    frame.putPosition(of: first..<last, count: lines.count, in: inside)
  }

  private func draw(_ line: HelpText.Line, on frame: inout Frame, in inside: Rect, row: Int) {
    switch line {
    case .heading(let text):
      frame.put(text, column: inside.column, row: row, style: Theme.heading)
    case .text(let text):
      frame.put(text, column: inside.column, row: row, style: Theme.quiet)
    case .key(let keys, let summary, let name):
      frame.put(
        TextWidth.clip(keys, 14), column: inside.column + 2, row: row, style: Theme.strong)
      let room = inside.columns - 18 - (name.isEmpty ? 0 : TextWidth.columns(of: name) + 1)
      frame.put(TextWidth.clip(summary, room), column: inside.column + 18, row: row)
      frame.putRight(name, right: inside.right, row: row, style: Theme.quiet)
    case .blank: break
    }
  }
}
