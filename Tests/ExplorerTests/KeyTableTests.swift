import Foundation
import Plans
import TerminalUI
import Testing

import Explorer

@Suite struct KeyTableTests {
  @Test func everyKeyMeansOneThing() {
    for context in KeyContext.allCases {
      var seen: [[Key]: Command] = [:]
      for binding in KeyBinding.all where binding.context == context {
        for keys in binding.keys {
          #expect(seen[keys] == nil, "\(binding.keysText) twice in \(context)")
          seen[keys] = binding.command
          #expect(KeyBinding.match(keys, in: context) == .command(binding.command))
          for length in 1..<keys.count where keys.count > 1 {
            #expect(KeyBinding.match(Array(keys.prefix(length)), in: context) == .prefix)
          }
        }
      }
    }
  }

  @Test func everyNamedCommandHasAKeyInTheGrid() {
    let bound = Set(KeyBinding.all.filter { $0.context == .grid }.map(\.command))
    for command in Command.allCases where command.hasName { #expect(bound.contains(command)) }
  }

  @Test func hintsNameKeysThatWork() {
    for binding in KeyBinding.all {
      guard let hint = binding.hint else { continue }
      let bindings = KeyBinding.all.filter { $0.context == binding.context }
      let labels = Set(bindings.flatMap(\.keys).map { $0.map(\.label).joined() })
      let parts = labels.contains(hint.keys) ? [hint.keys] : hint.keys.map(String.init)
      for part in parts { #expect(labels.contains(part), "\(part) in \(binding.context)") }
    }
  }

  @Test(arguments: [80, 100, 120, 200])
  func helpAlwaysHasItsHint(columns: Int) {
    let hints = BottomBar.hints(for: .grid, columns: columns - 1)
    #expect(hints.contains { $0.text == "help" })
    #expect(hints.reduce(0) { $0 + $1.keys.count + $1.text.count + 3 } - 2 < columns)
  }

  @Test func helpPageHasEveryBinding() {
    // On a narrow page the same is on several lines.
    let lines = HelpText.lines(width: 400)
    let narrow = HelpText.lines(width: 74)
    for case .key(let keys, let summary, let name) in narrow {
      #expect(keys.count <= 14 && 18 + summary.count + (name.isEmpty ? 0 : name.count + 1) <= 74)
    }
    for binding in KeyBinding.all {
      for word in "\(binding.keysText) \(binding.summary)".split(separator: " ") {
        let isShown = narrow.contains { line in
          if case .key(let keys, let summary, _) = line {
            "\(keys) \(summary)".contains(word)
          } else {
            false
          }
        }
        #expect(isShown, "\(word)")
      }
      let isListed = lines.contains { line in
        if case .key(let keys, let summary, _) = line {
          keys == binding.keysText && summary == binding.summary
        } else {
          false
        }
      }
      #expect(isListed, "\(binding.keysText) in \(binding.context)")
    }
    for command in Command.allCases where command.hasName {
      let isNamed = lines.contains { line in
        if case .key(_, _, let name) = line {
          name.split(separator: " ").first == ":\(command.rawValue)"
        } else {
          false
        }
      }
      #expect(isNamed, "\(command.rawValue)")
    }
  }

  @Test func markdownHasEveryBinding() {
    let lines = KeyBinding.markdown().split(separator: "\n")
    for binding in KeyBinding.all {
      let keys = binding.keys.map { "`\($0.map(\.label).joined())`" }.joined(separator: " ")
      #expect(lines.contains("| \(keys) | \(binding.summary) |"))
    }
    let rows = lines.filter { $0.hasPrefix("| `") }
    #expect(rows.count == KeyBinding.all.count)
  }

  /// `make record` writes the file anew.
  @Test func keysFileIsTheTable() throws {
    let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
      .deletingLastPathComponent()
    try Recorded.check(KeyBinding.markdown(), at: root.appending(path: "docs/keys.md"))
  }

  // MARK: - Disabled keys

  /// States in which different commands are out of place.
  static let states: [(String, AppState)] = [
    ("fresh", Samples.state()),
    ("running", Samples.busy(Samples.small)),
    ("done", Samples.withPreview(Samples.busy(Samples.large, step: 800, state: .done))),
    ("paused", Samples.busy(Samples.large, state: .paused)),
    ("lost", Samples.busy(Samples.small, state: .lost)),
    (
      "marked",
      {
        var state = Samples.busy(Samples.small)
        state.marks = [Samples.attention(2)]
        state.preview.settings.seed = PreviewSettings.largestSeed
        state.preview.settings.steps = 1000
        state.preview.settings.guidance = 30
        return state
      }()
    ),
    (
      "lowest",
      {
        var state = Samples.busy(Samples.small)
        state.preview.settings.steps = 1
        state.preview.settings.guidance = 0
        return state
      }()
    ),
    (
      "runs",
      {
        var state = Samples.busy(Samples.small)
        press(&state, "r", "j")
        return state
      }()
    ),
    (
      "queue",
      {
        var state = Samples.queued(Samples.small)
        press(&state, "r", "k", "k")
        return state
      }()
    ),
    (
      "log",
      {
        var state = Samples.busy(Samples.small)
        press(&state, "r", "l")
        return state
      }()
    ),
    (
      "images",
      {
        var state = Samples.withPreview(Samples.busy(Samples.small))
        press(&state, "i")
        return state
      }()
    ),
    (
      "picker",
      {
        var state = Samples.state()
        press(&state, .enter)
        return state
      }()
    ),
    (
      "help",
      {
        var state = Samples.state()
        press(&state, "?", "j")
        return state
      }()
    ),
    (
      "no runs",
      {
        var state = Samples.state()
        press(&state, "r")
        return state
      }()
    ),
    (
      "question",
      {
        var state = Samples.busy(Samples.small)
        press(&state, "q")
        return state
      }()
    ),
    (
      "changed file",
      {
        var state = Samples.busy(Samples.small)
        _ = update(&state, .planExists(path: "p.json", present: Samples.oddPlan(9)))
        return state
      }()
    ),
    (
      "form",
      {
        var state = Samples.busy(Samples.small)
        press(&state, "f", "m")
        return state
      }()
    ),
  ]

  /// Motions at an edge do nothing, silently, as in every editor.
  static let motions: Set<Command> = [
    .left, .right, .up, .down, .first, .last, .pageUp, .pageDown, .halfPageUp, .halfPageDown, .next,
    .previous, .cursorLeft, .cursorRight,
  ]

  @Test(arguments: states.indices)
  func aKeyActsOrSaysWhyNot(index: Int) {
    let (name, before) = Self.states[index]
    for binding in KeyBinding.all where binding.context == before.keyContext {
      var state = before
      let effects = binding.keys[0].flatMap { update(&state, .keyPressed($0)) }
      if let reason = before.reasonAgainst(binding.command) {
        var expected = before
        expected.notice = .warning(reason)
        #expect(state == expected, "\(name): \(binding.keysText)")
        #expect(effects.isEmpty)
        #expect(reason.count > 8)
      } else if !Self.motions.contains(binding.command) {
        #expect(state != before || !effects.isEmpty, "\(name): \(binding.keysText) does nothing")
      }
    }
  }

  @Test func notesGiveWayToTheHintsButWarningsStay() {
    for (key, stays) in [(Key.function(9), false), ("u", true)] {
      var state = Samples.state()
      press(&state, key)
      let notice = state.notice
      #expect(notice != nil)
      for second in 1...5 { _ = update(&state, .ticked(Samples.now + Double(second))) }
      #expect(state.notice == notice)
      for second in 6...9 { _ = update(&state, .ticked(Samples.now + Double(second))) }
      #expect(state.notice == (stays ? notice : nil))
    }
  }

  @Test func unknownKeysSaySo() {
    var state = Samples.state()
    press(&state, .function(9))
    #expect(state.notice == .note("F9 is not a key here; ? shows the keys"))
    press(&state, "g", "x")
    #expect(state.notice == .note("gx is not a key here; ? shows the keys"))
    press(&state, "j")
    #expect(state.notice == nil)
    #expect(state.cursor == Samples.attention(1))
  }
}
