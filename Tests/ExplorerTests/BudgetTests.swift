import Plans
import Search
import TerminalUI
import Testing

import Explorer

/// The budget of the plan that is edited.
@Suite struct BudgetTests {
  @Test func textsAreRead() {
    #expect(Budget("flops 80")?.fraction == 0.8 && Budget(" Time 57% ")?.text == "time 57")
    for text in [
      "", "80", "flops", "flops 0", "flops 1001", "flops nan", "speed 80", "flops 80 70",
    ] {
      #expect(Budget(text) == nil, "\(text)")
    }
  }

  /// The header tells the plan's share, in red and with another sign above the budget.
  @Test(arguments: Samples.sizes)
  func theHeaderTells(size: Size) throws {
    var state = Samples.scored(size, empty: true)
    func header() -> String { String(ExplorerView.frame(state).text().prefix { $0 != "\n" }) }
    let before = header()
    press(&state, "%")
    type(&state, "parameters 99")
    #expect(press(&state, .enter) == [.readLibrary])
    #expect(header().contains("parameters 100.0 > 99 %") && state.isOverBudget)
    let frame = ExplorerView.frame(state)
    let sign = try #require((0..<size.columns).first { frame[$0, 0].character == ">" })
    #expect(frame[sign, 0].style.foreground != frame[1, 0].style.foreground)
    state.document.edit("narrower") {
      for block in 0..<28 {
        $0.edits[Samples.mlp(block)] = OperatorSpec("mlp", ["expansion_ratio": 2])
      }
    }
    #expect(!state.isOverBudget && header().contains("≤ 99 %"))
    press(&state, "u")
    type(&state, ":budget none")
    press(&state, .enter)
    #expect(state.budget == nil && header() == before)
  }

  @Test func timeIsTheLibrarys() throws {
    var state = Samples.scored(Samples.large, empty: true)
    type(&state, ":budget time 90")
    press(&state, .enter)
    #expect(state.fraction(of: .time) == 1 && state.isOverBudget)
    // An operator that the library has not timed.
    state.document.edit("unknown") {
      $0.edits[Samples.attention(3)] = OperatorSpec("swa", ["window_left": 3])
    }
    #expect(!state.isOverBudget)
    #expect(ExplorerView.frame(state).text().contains("time ? ≤ 90 %"))
  }

  @Test func wrongTextsStayInTheLine() {
    var state = Samples.state()
    press(&state, "%")
    type(&state, "speed 3")
    press(&state, .enter)
    guard case .prompt(let prompt) = state.overlay else {
      Issue.record("no prompt")
      return
    }
    #expect(prompt.field.text == "speed 3" && prompt.problem?.contains("flops 80") == true)
    #expect(state.budget == nil)
  }

  /// The search begins at the budget, and the next explorer has it still.
  @Test func itIsKeptAndSearched() throws {
    var state = Samples.scored(Samples.small)
    state.budget = Budget("flops 85")
    press(&state, "B")
    let pane = try #require(state.searchPane)
    #expect(pane.measure == .flops && pane.budget == 0.85)
    var next = Samples.state()
    next.restore(KeptLayout(state))
    #expect(next.budget == state.budget)
  }
}
