import TerminalUI
import Testing

import Explorer

@Suite struct PointerTests {
  /// The first cell of a text on the screen.
  private func place(of text: String, in state: AppState) throws -> (column: Int, row: Int) {
    let lines = ExplorerView.frame(state).text().split(
      separator: "\n", omittingEmptySubsequences: false)
    for (row, line) in lines.enumerated() {
      if let range = line.range(of: text) {
        return (line.distance(from: line.startIndex, to: range.lowerBound), row)
      }
    }
    Issue.record("\(text) is not on the screen")
    return (0, 0)
  }

  @discardableResult
  private func click(
    _ state: inout AppState, _ column: Int, _ row: Int, _ kind: MouseEvent.Kind = .press(.left)
  ) -> [Effect] {
    update(&state, .pointed(MouseEvent(kind, column: column, row: row)))
  }

  @Test(arguments: Samples.sizes)
  func everySlotCanBeClicked(size: Size) {
    let state = Samples.busy(size)
    let frame = ExplorerView.frame(state)
    var seen: Set<Int> = []
    for row in 0..<size.rows {
      for column in 0..<size.columns {
        guard case .place(let block, let kind) = frame.target(column: column, row: row) else {
          continue
        }
        var clicked = state
        clicked.cursor = block == 0 ? Samples.mlp(5) : Samples.attention(0)
        click(&clicked, column, row)
        #expect(clicked.cursor == (kind == 0 ? Samples.attention(block) : Samples.mlp(block)))
        seen.insert(block * 2 + kind)
      }
    }
    #expect(seen.count == 56)
  }

  /// The borders of a large screen are dragged as far as both sides have room; a key gives the usual sizes back.
  @Test func bordersAreDragged() {
    var state = Samples.busy(Samples.huge)
    let usual = state.layout
    let middle = usual.panel.column - 1
    click(&state, middle, 20)
    click(&state, 120, 20, .drag(.left))
    #expect(state.layout.panel.column - 1 == 120 && state.anchor == nil)
    click(&state, 199, 20, .drag(.left))
    let widest = state.layout
    #expect(widest.panel.column - 1 < 199 && widest.panel.columns >= 40)
    click(&state, 120, 20, .drag(.left))
    click(&state, 120, 20, .release(.left))
    click(&state, 60, 20, .drag(.left))
    #expect(state.layout.panel.column - 1 == 120)
    let images = state.layout.images
    click(&state, images.column + 3, images.row)
    click(&state, images.column + 3, images.row + 4, .drag(.left))
    #expect(state.layout.images.row == images.row + 4)
    click(&state, images.column + 3, 0, .drag(.left))
    #expect(state.layout.panel.rows >= 15 && state.layout.losses.rows >= 6)
    press(&state, "0")
    #expect(state.layout == usual)
    // A smaller screen has one layout, and keeps the sizes for the next large one.
    click(&state, 0, 0, .release(.left))
    click(&state, middle, 20)
    click(&state, 120, 20, .drag(.left))
    _ = update(&state, .resized(Samples.small))
    #expect(state.layout == Layout(size: Samples.small, depth: 28))
    #expect(state.layout.border(column: state.layout.panel.column - 1, row: 5) == nil)
    _ = update(&state, .resized(Samples.huge))
    #expect(state.layout.panel.column - 1 == 120)
  }

  @Test func aSecondClickIsEnter() throws {
    var state = Samples.state()
    let target = try #require(
      ExplorerView.frame(state).targets.first { $0.meaning == .place(3, 0) })
    click(&state, target.column, target.row)
    #expect(state.cursor == Samples.attention(3) && state.overlay == nil)
    click(&state, target.column, target.row)
    #expect(state.keyContext == .picker)
    // What lies under the list cannot be clicked.
    let cursor = state.cursor
    click(&state, 0, 1)
    #expect(state.cursor == cursor && state.keyContext == .picker)
    let row = try place(of: "hyena-y", in: state)
    click(&state, row.column, row.row)
    click(&state, row.column, row.row)
    #expect(state.keyContext == .form)
    let field = try place(of: "inner filter", in: state)
    click(&state, field.column, field.row)
    guard case .form(let form) = state.overlay else {
      Issue.record("no form")
      return
    }
    #expect(form.fields[form.index].title.hasPrefix("inner filter"))
  }

  @Test func aDragSelectsARange() throws {
    var state = Samples.state()
    let frame = ExplorerView.frame(state)
    func target(_ block: Int) throws -> MouseTarget {
      try #require(frame.targets.first { $0.meaning == .place(block, 0) })
    }
    let (from, to) = (try target(2), try target(5))
    click(&state, from.column, from.row)
    click(&state, to.column, to.row, .drag(.left))
    click(&state, to.column, to.row, .release(.left))
    #expect(state.targets == (2...5).map(Samples.attention))
    // A drag that began elsewhere selects nothing.
    press(&state, .escape)
    click(&state, to.column, to.row, .drag(.left))
    #expect(state.anchor == nil)
  }

  @Test func theWheelMovesAndScrolls() {
    var state = Samples.busy(Samples.small)
    state.cursor = Samples.attention(0)
    click(&state, 3, 3, .wheel(.down))
    #expect(state.cursor == Samples.attention(1))
    click(&state, 3, 3, .wheel(.up))
    #expect(state.cursor == Samples.attention(0))
    press(&state, "?")
    for _ in 0..<3 { click(&state, 3, 3, .wheel(.down)) }
    guard case .help(let page) = state.overlay else {
      Issue.record("no help")
      return
    }
    #expect(page.scroll == 3)
    // Where the wheel has no meaning it is not answered as an unknown key.
    press(&state, .escape, "q")
    let before = state
    click(&state, 3, 3, .wheel(.down))
    #expect(state == before)
  }

  @Test func hintsAreButtons() throws {
    var state = Samples.busy(Samples.small)
    let help = try place(of: "? help", in: state)
    click(&state, help.column, help.row)
    #expect(state.keyContext == .help)
    press(&state, .escape, "r")
    let other = try place(of: "mlp-selfgraft", in: state)
    click(&state, other.column, other.row)
    guard case .runs(let pane) = state.overlay else {
      Issue.record("no list of runs")
      return
    }
    #expect(pane.selection == "r2")
  }
}
