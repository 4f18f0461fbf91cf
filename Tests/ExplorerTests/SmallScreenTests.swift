import TerminalUI
import Testing

import Explorer

/// Screens below 80x24: one pane at a time.
@Suite struct SmallScreenTests {
  @Test(arguments: [
    Size(columns: 79, rows: 24), Size(columns: 80, rows: 23), Size(columns: 60, rows: 16),
    Size(columns: 40, rows: 12), Size(columns: 30, rows: 8),
  ])
  func everyPaneShowsTheProgress(size: Size) {
    var state = Samples.withPreview(Samples.busy(size))
    var seen: Set<String> = []
    for pane in Pane.allCases {
      #expect(state.pane == pane)
      let frame = ExplorerView.frame(state)
      let text = frame.text()
      #expect(text.contains("hyena-odd") && text.contains("412/800"), "\(pane)")
      #expect(text.contains(pane.rawValue))
      let hints = text.split(separator: "\n").last ?? ""
      #expect(hints.contains("Tab pane") && !hints.contains("distil"), "\(hints)")
      for image in frame.images { #expect(image.row + image.rows < frame.rows) }
      seen.insert(text)
      press(&state, .tab)
    }
    #expect(seen.count == Pane.allCases.count && state.pane == .grid)
  }

  @Test func oneCanPauseLookAndLeave() {
    var state = Samples.busy(Size(columns: 50, rows: 14))
    #expect(press(&state, "p") == [.control(id: "r3", .pause)])
    let block = state.cursor.block
    press(&state, "j", "j")
    #expect(state.cursor == Samples.attention(block + 2))
    press(&state, "?")
    #expect(state.keyContext == .help && ExplorerView.frame(state).text().contains("Move"))
    press(&state, .escape, "r", "l", .escape, .escape)
    #expect(state.overlay == nil)
    // What needs more room says so.
    press(&state, "d")
    #expect(state.notice == .warning("distil needs a screen of 80x24; this one has 50x14"))
    #expect(state.overlay == nil)
    press(&state, .tab)
    state.size = Samples.small
    press(&state, .tab)
    #expect(state.notice == .warning("every pane is on the screen already"))
  }

  @Test func theSmallestScreenStillShowsProgressAndPauses() {
    var state = Samples.busy(Size(columns: 24, rows: 6))
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("hyena-odd 412/800") && text.contains("needs 30x8"))
    #expect(press(&state, "p") == [.control(id: "r3", .pause)])
    let cursor = state.cursor
    press(&state, "j", .enter, "d")
    #expect(state.overlay == nil && state.cursor == cursor)
    press(&state, "q")
    #expect(state.overlay != nil || state.isFinished)
  }
}
