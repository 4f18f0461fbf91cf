import Foundation
import Plans
import Runs
import Search
import TerminalUI
import Testing

import Explorer

/// Costs of replacing operators, in the grid and in the list of operators.
@Suite struct CostMapTests {
  @Test func levelsFollowTheLogarithm() {
    let range = 1e-3...1.0
    #expect(CostMap.level(1e-3, in: range) == 0 && CostMap.level(1, in: range) == 9)
    let levels = [1e-3, 3e-3, 1e-2, 1e-1, 0.9].map { CostMap.level($0, in: range) ?? -1 }
    #expect(levels == levels.sorted() && Set(levels).count == 5)
    // What saves nothing has no level, and tiny prices do not stretch the scale.
    #expect(CostMap.level(.infinity, in: range) == nil)
    #expect(CostMap.level(1e-9, in: 1e-30...1) == 0)
    #expect(CostMap.level(0.5, in: 1e-30...1) == CostMap.level(0.5, in: 1e-6...1))
    #expect(CostMap.level(2, in: 2...2) == 0 && CostMap.level(0, in: 0...0) == nil)
  }

  /// The numbers beside the digits are the ends of their scale, and colours change at least four times along it.
  @Test(arguments: [ThemeChoice.dark, .sixteen])
  func theLegendHasTheEndsOfTheScale(theme: ThemeChoice) throws {
    var state = Samples.scored(Samples.large)
    state.configuration.settings.theme = theme
    press(&state, "H")
    let prices = try #require(state.shownPrices)
    let low = CostMap.lowest(in: prices)
    #expect(low >= prices.lowerBound && CostMap.level(low, in: prices) == 0)
    #expect(CostMap.level(low * 1.001 * pow(prices.upperBound / low, 0.1), in: prices) == 1)
    let frame = ExplorerView.frame(state)
    let range = "\(CostMap.text(low)) – \(CostMap.text(prices.upperBound))"
    let lines = frame.text().split(separator: "\n", omittingEmptySubsequences: false)
    let row = try #require(lines.firstIndex { $0.contains("0123456789") && $0.contains(range) })
    let column = try #require(
      (0..<frame.columns - 9).first {
        frame[$0, row].character == "0" && frame[$0 + 9, row].character == "9"
      })
    let colors = (0..<10).map { frame[column + $0, row].style.background }
    #expect(zip(colors, colors.dropFirst()).filter { $0 != $1 }.count >= 4)
  }

  @Test(arguments: [
    (0.0, ".00"), (0.5, ".05"), (9.9, ".99"), (12.0, "1.2"), (99.4, "9.9"), (123.0, "12"),
    (9994.0, "999"), (1e5, "1e4"), (Double.infinity, "–"),
  ])
  func pricesHaveThreeCharacters(price: Double, text: String) {
    #expect(CostMap.text(price) == text && text.count <= 3)
  }

  /// Every slot has a digit, in every theme; colours only repeat it.
  @Test(arguments: ThemePalette.all.map(\.name))
  func theGridShowsDigits(theme: String) throws {
    var state = Samples.scored(Samples.small)
    press(&state, "H")
    let choices: [(ThemeChoice, Int, RGB?)] = ThemeTests.snapshots
    for (choice, colors, background) in choices {
      state.configuration.settings.theme = choice
      (state.terminal.colors, state.terminal.background) = (colors, background)
      guard state.palette.name == theme else { continue }
      let frame = ExplorerView.frame(state)
      var digits: Set<Character> = []
      for target in frame.targets {
        guard case .place(let block, let kind) = target.meaning else { continue }
        let slot = kind == 0 ? Samples.attention(block) : Samples.mlp(block)
        let price = try #require(state.cost(of: slot)).price
        let level = try #require(CostMap.level(price, in: state.shownPrices))
        let column = target.column + (kind == 0 ? 9 : 5)
        let cell = frame[column, target.row]
        #expect(cell.character == Character(String(level)), "\(slot) in \(theme)")
        digits.insert(cell.character)
        guard let text = RGB(cell.style.foreground), let page = RGB(cell.style.background),
          state.cursor != slot
        else { continue }
        #expect(text.contrast(with: page) >= ThemePalette.leastContrast, "\(level) in \(theme)")
      }
      #expect(digits.count > 4)
      let shown = frame.text()
      #expect(shown.contains("cost of replacing") && shown.contains("0123456789"))
      #expect(shown.contains("% error per ms saved") && shown.contains("best of each"))
    }
  }

  @Test func oneOperatorIsConsidered() {
    var state = Samples.scored(Samples.large)
    press(&state, "H", "}")
    // The operators of a kind come in the order of their price.
    let known = Samples.costs().operators(of: .attention)
    #expect(known.map(\.name) == ["hyena_x", "linear", "mamba2"])
    #expect(state.costMap?.operators == [.attention: known[0]])
    press(&state, "}", "}")
    #expect(state.cost(of: state.cursor)?.change == .slot(state.cursor, known[2]))
    let text = ExplorerView.frame(state).text()
    // Mamba-2 saves no time here: there is no price, but a time with its sign.
    #expect(text.contains("+0.200 ms") && text.contains("mamba2"))
    press(&state, "}")
    #expect(state.costMap?.operators[.attention] == nil)
    press(&state, "{", "H")
    #expect(state.costMap == nil)
    press(&state, "}")
    #expect(state.notice == .warning("the grid shows no costs: H shows them"))
  }

  @Test func withoutALibraryTheKeysSayHowToMakeOne() {
    var state = Samples.busy(Samples.small)
    for key in ["H", "B"] as [Key] {
      // While the library is read the views open and say so.
      var early = state
      early.library = LibraryState()
      press(&early, key)
      #expect(ExplorerView.frame(early).text().contains("reading the library"))
      state.library.costs = ReplacementCosts([])
      press(&state, key)
      #expect(
        state.notice
          == .warning(
            "no operator is in the model's library: b builds it (espalier library build)"))
      let known = state.runs.records
      for (run, text) in [
        (RunState.running, "the library is being built, training linear 12 of 440"),
        (.queued, "the library is to be built: its run waits in the queue"),
        (.paused, "the library is being built, paused, training linear 12 of 440"),
      ] {
        var build = RunSummary(
          id: "b", name: "library", kind: .library, modelHash: state.model.contentHash,
          createdAt: 1, state: run)
        (build.step, build.total, build.label) = (12, 440, "training linear")
        state.runs.records = [build] + known
        press(&state, key)
        #expect(state.notice == .warning(text))
      }
      state.runs.records = known
      state.library.costs = ReplacementCosts([], count: 20, elsewhere: 20)
      press(&state, key)
      #expect(
        state.notice
          == .warning("the library's operators were timed on another machine: b times them here"))
      #expect(state.overlay == nil && state.costMap == nil)
    }
    // What is read then is solved and shown.
    press(&state, "H")
    state.library = LibraryState()
    press(&state, "B")
    let effects = update(&state, .libraryRead(Samples.costs(), []))
    guard case .solveFront(2, let candidates, _, .time, _) = effects.last else {
      Issue.record("nothing is solved")
      return
    }
    #expect(candidates.count == 140)
    Samples.solve(&state)
    #expect(state.searchPane?.front?.isEmpty == false)
  }

  /// The list of operators has the cheapest first, with error, standard error and time of the slot.
  @Test(arguments: Samples.sizes)
  func theListIsInOrderOfPrice(size: Size) throws {
    var state = Samples.scored(size, empty: true)
    state.cursor = Samples.attention(0)
    press(&state, .enter)
    guard case .picker(let picker) = state.overlay else {
      Issue.record("no list")
      return
    }
    let names = picker.entries.compactMap { entry -> String? in
      if case .replacement(let spec) = entry { spec.name } else { nil }
    }
    #expect(names.prefix(3) == ["hyena_x", "linear", "mamba2"])
    #expect(Set(names).isSuperset(of: OperatorCatalog.fitting(.attention).map(\.name)))
    let lines = ExplorerView.frame(state).text().split(separator: "\n").map(String.init)
    let hyena = try #require(lines.first { $0.contains("hyena-x") && $0.contains("±") })
    #expect(hyena.contains("2.00 ±.500") && hyena.contains("−0.040"))
    #expect(lines.contains { $0.contains("mamba2") && $0.contains("+0.200") })
    // All of the list can be reached.
    press(&state, "G")
    #expect(ExplorerView.frame(state).text().contains("› "))
    // Several slots: sums.
    press(&state, .escape, "v", "j", .enter)
    guard case .picker(let both) = state.overlay else { return }
    #expect(both.targets.count == 2)
    #expect(ExplorerView.frame(state).text().contains("−0.080"))
  }

  /// A variant that the registry does not suggest is offered with its own settings.
  @Test func theLibrarysVariantsAreOffered() {
    var state = Samples.scored(Samples.large, empty: true)
    let variant = OperatorSpec("swa", ["window_left": 2, "window_right": 2])
      .normalized(for: Samples.shape)
    state.library.costs = ReplacementCosts([
      Candidate(
        .slot(Samples.attention(3), variant), loss: 0.1, saving: Amounts(time: 0.001))
    ])
    state.cursor = Samples.attention(3)
    press(&state, .enter)
    guard case .picker(let picker) = state.overlay else {
      Issue.record("no list")
      return
    }
    #expect(picker.entries[1] == .replacement(variant))
    #expect(picker.index == 0)
  }
}
