import Plans
import TerminalUI
import Testing

import Explorer

@Suite struct GridTests {
  /// Keys from a start to an end, at 80x24 where 28 blocks fold into two columns of 14.
  static let moves: [(keys: String, from: SlotID, to: SlotID)] = [
    ("j", Samples.attention(0), Samples.attention(1)),
    ("5j", Samples.attention(0), Samples.attention(5)),
    ("12k", Samples.mlp(20), Samples.mlp(8)),
    ("99j", Samples.mlp(20), Samples.mlp(27)),
    ("k", Samples.mlp(0), Samples.mlp(0)),
    ("l", Samples.attention(3), Samples.mlp(3)),
    ("ll", Samples.attention(3), Samples.attention(17)),
    ("3l", Samples.attention(3), Samples.mlp(17)),
    ("9l", Samples.attention(3), Samples.mlp(17)),
    ("h", Samples.attention(17), Samples.mlp(3)),
    ("9h", Samples.mlp(17), Samples.attention(3)),
    ("j", Samples.attention(13), Samples.attention(14)),
    ("G", Samples.attention(0), Samples.attention(27)),
    ("7G", Samples.attention(0), Samples.attention(7)),
    ("gg", Samples.mlp(20), Samples.mlp(0)),
    ("12gg", Samples.mlp(20), Samples.mlp(12)),
    ("10j", Samples.attention(0), Samples.attention(10)),
  ]

  /// Every operator with its usual settings is read in full on the smallest screen.
  @Test func labelsFitTheSmallestGrid() {
    let pristine = Samples.state(Samples.small)
    for slot in Slot.allCases {
      var labels: Set<String> = []
      for descriptor in OperatorCatalog.fitting(slot) {
        var state = pristine
        let label = descriptor.label(descriptor.defaultSpec)
        state.document.edit("x") {
          $0.edits[SlotID(block: 15, slot: slot)] = descriptor.defaultSpec
        }
        let text = ExplorerView.frame(state).text()
        #expect(text.contains("\(label)*") || text.contains("\(label) "), "\(label)")
        #expect(labels.insert(label).inserted, "\(label) is there twice")
      }
    }
  }

  @Test(arguments: moves.indices)
  func keysMove(index: Int) {
    let move = Self.moves[index]
    var state = Samples.state()
    state.cursor = move.from
    let effects = type(&state, move.keys)
    #expect(state.cursor == move.to)
    #expect(effects.isEmpty)
    #expect(state.pending == PendingInput())
  }

  @Test func arrowsAreTheVimKeys() {
    for (arrow, letter) in [(Key.left, "h"), (.right, "l"), (.up, "k"), (.down, "j")] {
      var first = Samples.busy(Samples.small)
      var second = first
      press(&first, arrow)
      type(&second, letter)
      #expect(first == second)
    }
  }

  @Test func wideScreensHaveOneColumnOfBlocks() {
    var state = Samples.state(Samples.large)
    type(&state, "lll")
    #expect(state.cursor == Samples.mlp(0))
  }

  @Test func editedSlotsAreFoundInBothDirections() {
    var state = Samples.busy(Samples.small)
    state.cursor = Samples.attention(2)
    type(&state, "n")
    #expect(state.cursor == Samples.attention(3))
    type(&state, "n")
    #expect(state.cursor == Samples.mlp(3))
    type(&state, "3N")
    #expect(state.cursor == Samples.attention(27))
  }

  @Test func rangesAndMarksAreTargets() {
    var state = Samples.state()
    #expect(state.targets == [Samples.attention(0)])
    type(&state, "v3j")
    #expect(state.targets == (0...3).map(Samples.attention))
    type(&state, "l")
    #expect(state.targets.count == 8)
    press(&state, .escape)
    #expect(state.anchor == nil && state.marks.isEmpty)
    type(&state, "gg")
    press(&state, .character("2"), .character(" "))
    #expect(state.marks == [Samples.mlp(0), Samples.mlp(1)])
    #expect(state.cursor == Samples.mlp(2))
    type(&state, "v")
    press(&state, .down, .character(" "))
    #expect(state.marks.count == 4 && state.anchor == nil)
    #expect(state.targets == (0...3).map(Samples.mlp))
    press(&state, .escape)
    #expect(state.targets == [Samples.mlp(3)])
  }

  @Test func patternsMark() {
    var state = Samples.state()
    press(&state, "m")
    type(&state, "last 3")
    #expect(state.promptedSlots == Set((25...27).map(Samples.attention)))
    press(&state, .enter)
    #expect(state.marks == Set((25...27).map(Samples.attention)))
  }

  @Test(arguments: ["odd x", "", "28", "9-3"])
  func wrongPatternsStayInTheLine(text: String) {
    var state = Samples.state()
    press(&state, "m")
    type(&state, text)
    press(&state, .enter)
    guard case .prompt(let prompt) = state.overlay else {
      Issue.record("the prompt is gone")
      return
    }
    #expect(prompt.problem != nil)
    #expect(prompt.field.text == text)
    #expect(state.marks.isEmpty)
    press(&state, .escape)
    #expect(state.overlays.isEmpty)
  }

  @Test func escapeTakesACountBack() {
    var state = Samples.state()
    type(&state, "9")
    press(&state, .escape)
    #expect(state.notice == nil && state.pending == PendingInput())
    type(&state, "j")
    #expect(state.cursor.block == 1)
    press(&state, .escape)
    #expect(state.notice?.kind == .warning)
  }
}
