import Plans
import TerminalUI

/// The key table as the configuration has changed it.
package struct KeyMap: Equatable, Sendable {
  /// The lines of the table.
  package private(set) var bindings = KeyBinding.all

  /// Makes the table that the program comes with.
  package init() {}

  /// Gives a command other keys: `grid.distil`, `D Ctrl-T`; no keys take them away.
  ///
  /// - Throws: `PlanError` for an unknown context or command, a key that cannot be read, or one that has a meaning
  ///   already.
  package mutating func set(_ name: String, to text: String) throws(PlanError) {
    let key = "keys.\(name)"
    let parts = name.split(separator: ".", maxSplits: 1).map(String.init)
    guard let context = parts.first.flatMap(KeyContext.init(rawValue:)), parts.count == 2 else {
      let names = KeyContext.allCases.map(\.rawValue).joined(separator: ", ")
      throw PlanError(
        key: key, "expected a place and a command, such as grid.distil; places are \(names)")
    }
    let command = Command(rawValue: parts[1])
    guard let index = bindings.firstIndex(where: { $0.context == context && $0.command == command })
    else {
      let names = bindings.filter { $0.context == context }.map(\.command.rawValue)
      throw PlanError(
        key: key,
        "\(context.rawValue) has no command \(parts[1]), expected one of "
          + names.joined(separator: ", "))
    }
    var sequences: [[Key]] = []
    for word in text == "none" ? [] : text.split(separator: " ") {
      guard let sequence = Key.sequence(String(word)) else {
        throw PlanError(
          key: key,
          "\(String(word).debugDescription) is no key; write d, gg, Ctrl-D, Alt-x, F5, Enter, Space or Up"
        )
      }
      sequences.append(sequence)
    }
    let others = bindings.indices.filter { $0 != index && bindings[$0].context == context }
    for sequence in sequences {
      let clash = others.first { other in
        bindings[other].keys.contains {
          $0.starts(with: sequence) || sequence.starts(with: $0)
        }
      }
      if let clash {
        throw PlanError(
          key: key,
          "\(sequence.map(\.label).joined()) is \(bindings[clash].command.rawValue) already; give that"
            + " other keys first, or none")
      }
    }
    bindings[index] = bindings[index].with(keys: sequences)
  }
}

extension KeyBinding {
  /// The same command with other keys; its hint names the first of them.
  fileprivate func with(keys: [[Key]]) -> KeyBinding {
    let first = keys.first.map { $0.map(\.label).joined() }
    return KeyBinding(
      context: context, group: group, keys: keys, command: command, summary: summary,
      hint: hint.flatMap { hint in first.map { Hint(keys: $0, text: hint.text, rank: hint.rank) } })
  }
}

extension Key {
  /// Names of keys, as they may be written.
  private static let names: [String: Key] = [
    "enter": .enter, "return": .enter, "⏎": .enter, "esc": .escape, "escape": .escape, "tab": .tab,
    "shift-tab": .backTab, "backspace": .backspace, "del": .delete, "delete": .delete, "up": .up,
    "↑": .up, "down": .down, "↓": .down, "left": .left, "←": .left, "right": .right, "→": .right,
    "home": .home, "end": .end, "pgup": .pageUp, "pgdn": .pageDown, "space": .character(" "),
    "wheel↑": .wheelUp, "wheelup": .wheelUp, "wheel↓": .wheelDown, "wheeldown": .wheelDown,
  ]

  /// Reads a key as the help page prints it.
  package init?(named text: String) {
    let lower = text.lowercased()
    if let known = Self.names[lower] {
      self = known
    } else if text.count == 1, let character = text.first, !character.isControl {
      self = .character(character)
    } else if lower.first == "f", let number = Int(lower.dropFirst()), (1...24).contains(number) {
      self = .function(number)
    } else {
      for (prefix, modifier) in [
        ("ctrl-", Modifiers.control), ("alt-", .alt), ("shift-", .shift), ("super-", .super),
      ] where lower.hasPrefix(prefix) {
        guard let key = Key(named: String(text.dropFirst(prefix.count))) else { return nil }
        self = key.adding(modifier)
        return
      }
      return nil
    }
  }

  /// The key with one more modifier, spelled as the decoder spells it.
  private func adding(_ modifier: Modifiers) -> Key {
    switch self {
    case .character(let character) where modifier == .control:
      .control(Character(character.lowercased()))
    case .modified(let others, let key): .modified(others.union(modifier), key)
    default: .modified(modifier, self)
    }
  }

  /// Reads one key, or several characters that are typed one after the other.
  static func sequence(_ text: String) -> [Key]? {
    if let key = Key(named: text) { return [key] }
    guard text.count <= 3, !text.contains("-") else { return nil }
    return text.map { .character($0) }
  }
}
