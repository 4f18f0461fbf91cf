import TerminalUI
import Testing

import Explorer

@Suite struct HelpTests {
  /// A state in which each place has the keyboard, where one can get there by keys.
  private static let places: [(KeyContext, [Key])] = [
    (.grid, []), (.picker, [.enter]), (.question, ["C"]), (.runs, ["r"]), (.log, ["r", "l"]),
    (.images, ["i"]), (.settings, [","]), (.terminal, ["T"]), (.form, ["d"]), (.prompt, [":"]),
  ]

  @Test(arguments: places.indices)
  func helpOpensAtItsSectionAnywhere(index: Int) throws {
    let (context, keys) = Self.places[index]
    var state = Samples.withPreview(Samples.busy(Samples.large))
    for key in keys { press(&state, key) }
    #expect(state.keyContext == context)
    press(&state, context == .prompt ? .function(1) : "?")
    guard case .help(let page) = state.overlay else {
      Issue.record("no help in \(context)")
      return
    }
    let lines = HelpText.lines(width: 92)
    let heading = context == .grid ? "Move" : context.title
    #expect(lines[page.scroll] == .heading(heading))
    press(&state, .escape)
    #expect(state.keyContext == context, "back to where one was")
  }

  @Test(arguments: places.indices)
  func anUnknownKeyIsAnsweredAnywhere(index: Int) {
    let (context, keys) = Self.places[index]
    var state = Samples.withPreview(Samples.busy(Samples.small))
    for key in keys { press(&state, key) }
    let before = ExplorerView.frame(state).text()
    for key in [Key.function(9), .modified(.alt, "x"), .modified(.control, .left)] {
      let effects = press(&state, key)
      #expect(effects.isEmpty && state.keyContext == context)
      #expect(ExplorerView.frame(state).text() != before, "\(key) in \(context)")
    }
  }

  @Test func aTextIsFound() {
    var state = Samples.state()
    press(&state, "?", "/")
    type(&state, "CFG")
    press(&state, .enter)
    guard case .help(let page) = state.overlay else {
      Issue.record("no help")
      return
    }
    let lines = HelpText.lines(width: 74)
    // The page scrolls no further than its end, so the word stands on it but may not lead it.
    let shown = lines[page.scroll..<min(lines.count, page.scroll + 20)]
    #expect(shown.contains { if case .key("cfg", _, _) = $0 { true } else { false } })
    press(&state, "/")
    press(&state, .control("u"))
    type(&state, "pause")
    press(&state, .enter)
    var places: [Int] = []
    for _ in 0..<4 {
      if case .help(let page) = state.overlay { places.append(page.scroll) }
      press(&state, "n")
    }
    #expect(Set(places).count >= 2)
    press(&state, "/")
    press(&state, .control("u"))
    type(&state, "xyzzy")
    press(&state, .enter)
    #expect(state.notice == .warning("“xyzzy” is not on this page"))
  }

  @Test func theWordsOfTheScreenAreExplained() {
    let lines = HelpText.lines(width: 92)
    for word in ["band, L32", "cfg", "r4", "held-out", "∥ ╗ ╝"] {
      #expect(lines.contains { if case .key(word, _, _) = $0 { true } else { false } }, "\(word)")
    }
  }
}
