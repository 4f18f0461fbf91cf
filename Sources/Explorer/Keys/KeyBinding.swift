import TerminalUI

/// One line of the key table: where, which keys, what they do and how that is explained.
package struct KeyBinding: Equatable, Sendable {
  /// A heading of the help page's grid part.
  package enum Group: String, CaseIterable, Sendable {
    case move = "Move"
    case select = "Select"
    case edit = "Edit"
    case search = "Search"
    case distil = "Distil"
    case preview = "Preview"
    case plan = "Plans"
    case program = "Program"
    case list = "Lists and forms"
  }

  /// A mention in the hint bar.
  package struct Hint: Equatable, Sendable {
    /// The keys as shown; each must do something in the binding's context.
    package let keys: String
    /// One word on what they do.
    package let text: String
    /// How dispensable it is on a narrow screen; the largest go first.
    package let rank: Int
  }

  /// Where it holds.
  package let context: KeyContext
  /// The heading it is listed under.
  package let group: Group
  /// The ways to type it; each is one key or a sequence.
  package let keys: [[Key]]
  /// What it does.
  package let command: Command
  /// One line for the help page.
  package let summary: String
  /// Its mention in the hint bar, if it has one.
  package let hint: Hint?

  /// All ways to type it, as printed.
  package var keysText: String {
    keys.map { $0.map(\.label).joined() }.joined(separator: " ")
  }
}

extension Key {
  /// The key's name as printed in hints and help.
  package var label: String {
    switch self {
    case .character(" "): "Space"
    case .character(let character): String(character)
    case .enter: "⏎"
    case .escape: "Esc"
    case .tab: "Tab"
    case .backTab: "Shift-Tab"
    case .backspace: "Backspace"
    case .delete: "Del"
    case .up: "↑"
    case .down: "↓"
    case .left: "←"
    case .right: "→"
    case .home: "Home"
    case .end: "End"
    case .pageUp: "PgUp"
    case .pageDown: "PgDn"
    case .function(let number): "F\(number)"
    case .control(let character): "Ctrl-\(character.uppercased())"
    case .wheelUp: "Wheel↑"
    case .wheelDown: "Wheel↓"
    case .modified(let modifiers, let key):
      [(Modifiers.super, "Super-"), (.control, "Ctrl-"), (.alt, "Alt-"), (.shift, "Shift-")]
        .filter { modifiers.contains($0.0) }.map(\.1).joined() + key.label
    }
  }
}

extension KeyBinding {
  /// What a key sequence does in a context.
  package enum Match: Equatable, Sendable {
    /// It is a command.
    case command(Command)
    /// It starts a longer sequence.
    case prefix
    /// It means nothing here.
    case none
  }

  /// Looks a key sequence up in the table.
  package static func match(
    _ keys: [Key], in context: KeyContext, of table: [KeyBinding] = all
  ) -> Match {
    var isPrefix = false
    for binding in table where binding.context == context {
      for sequence in binding.keys {
        if sequence == keys { return .command(binding.command) }
        if sequence.count > keys.count && Array(sequence.prefix(keys.count)) == keys {
          isPrefix = true
        }
      }
    }
    if isPrefix { return .prefix }
    return context == .anywhere ? .none : match(keys, in: .anywhere, of: table)
  }

  /// The key table as Markdown, for `docs/keys.md`.
  package static func markdown() -> String {
    var lines = [
      "# Keys", "",
      "The keys of `espalier explore`, as the key table in `Sources/Explorer/Keys` has them;"
        + " `make record` writes this file.",
    ]
    func table(_ title: String, _ bindings: [KeyBinding]) {
      guard !bindings.isEmpty else { return }
      lines += ["", "## \(title)", "", "| keys | |", "| --- | --- |"]
      for binding in bindings {
        let keys = binding.keys
          .map { "`" + $0.map(\.label).joined().replacing("|", with: "\\|") + "`" }
          .joined(separator: " ")
        lines.append("| \(keys) | \(binding.summary) |")
      }
    }
    for group in Group.allCases where group != .list {
      table(group.rawValue, all.filter { $0.context == .grid && $0.group == group })
    }
    for context in KeyContext.allCases where context != .grid {
      table(context.title, all.filter { $0.context == context })
    }
    return lines.joined(separator: "\n") + "\n"
  }
}
