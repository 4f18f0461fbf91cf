import Plans
import Runs
import TerminalUI
import Testing

import Explorer

@Suite("Parallel blocks in the explorer")
struct ParallelTests {
  private func pair(_ first: Int) -> BlockPair { BlockPair(first: first) }

  @Test func theKeyJoinsAndSplits() {
    var state = Samples.state()
    type(&state, "4jJ")
    #expect(state.plan.parallel == [pair(4): .projection])
    #expect(
      state.notice
        == .note("blocks 4 and 5 in parallel, merged by a learned projection of both outputs"))
    #expect(state.cursor == Samples.attention(4))
    // Either block of the pair splits it.
    type(&state, "jJ")
    #expect(state.plan.parallel.isEmpty)
    #expect(state.notice == .note("blocks 4 and 5 one after the other"))
    type(&state, "u")
    #expect(state.plan.parallel == [pair(4): .projection])
    type(&state, "u")
    #expect(state.plan.isEmpty && !state.document.isModified)
    press(&state, .control("r"))
    #expect(state.plan.parallel == [pair(4): .projection])
  }

  @Test func selectionsJoinInTwos() {
    var state = Samples.state()
    type(&state, "2jv5jlJ")
    #expect(state.plan.parallel.keys.sorted() == [pair(2), pair(4), pair(6)])
    #expect(state.anchor == nil && state.document.done.count == 1)
    type(&state, "m")
    type(&state, "all")
    press(&state, .enter, "J")
    #expect(state.plan.parallel.count == 14 && state.plan.depth == 14)
    type(&state, "m")
    type(&state, "last 4")
    press(&state, .enter, "J")
    #expect(state.plan.parallel.count == 12 && state.plan.pair(of: 24) == nil)
    #expect(state.notice == .note("2 pairs of blocks one after the other"))
  }

  @Test func theCommandChoosesTheMerge() {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "join residual")
    press(&state, .enter)
    #expect(state.plan.parallel == [pair(0): .residual])
    // The key goes on with the merge chosen last.
    type(&state, "2jJ")
    #expect(state.plan.parallel[pair(2)] == .residual)
    type(&state, "v2k")
    _ = update(&state, .commanded(.join, argument: "mean", count: nil))
    #expect(state.plan.parallel == [pair(0): .mean, pair(2): .mean])
    type(&state, "v")
    _ = update(&state, .commanded(.join, argument: "mean", count: nil))
    #expect(state.notice == .note("nothing changed: the blocks are merged so already"))
    _ = update(&state, .commanded(.join, argument: "sum", count: nil))
    #expect(state.notice == .warning("join takes projection, mean, residual, not sum"))
  }

  @Test(arguments: [
    ("GJ", "block 27 is the last one"), ("jJkJ", "blocks 1 and 2 are parallel already"),
    ("jv2jJ", "block 3 is chosen without its neighbour 4"),
    ("  j J", "without its neighbour"),
  ])
  func whatCannotBeJoinedSaysWhy(keys: String, says: String) {
    var state = Samples.state()
    type(&state, String(keys.dropLast()))
    let before = state.plan
    press(&state, "J")
    guard case .warning = state.notice?.kind else {
      Issue.record("no warning: \(String(describing: state.notice))")
      return
    }
    #expect(state.notice?.text.contains(says) == true, "\(state.notice?.text ?? "")")
    #expect(state.plan == before)
  }

  @Test func aPlanOfPairsAloneIsDistilledAndSampled() {
    var state = Samples.state()
    type(&state, "J")
    #expect(state.reasonAgainst(.distil) == nil && state.reasonAgainst(.new) == nil)
    press(&state, "d")
    #expect(press(&state, .enter) == [.startTraining(state.plan, kind: .distill)])
    _ = update(&state, .trainingStarted(id: "r3", plan: state.plan, kind: .distill))
    #expect(state.notice == .note("distilling 1 pair of blocks in the background"))
    #expect(
      press(&state, "s") == [
        .startPreview(
          generation: 1, plan: state.plan, weights: PlanWeights(of: state.plan, runs: []),
          settings: PreviewSettings())
      ])
  }

  @Test func aPairHasOneLossAndOneMark() {
    var state = Samples.state()
    state.cursor = Samples.attention(6)
    type(&state, "J")
    for slot in pair(6).slots { #expect(state.status(of: slot).phase == .edited) }
    let slots = pair(6).slots
    state.runs.records = [
      Samples.trained(Samples.record("r3", "untitled", .running, step: 30), state.plan)
    ]
    var focus = FocusedRun(id: "r3", plan: state.plan)
    focus.history = Samples.history(for: state.plan, steps: 30)
    state.runs.focus = focus
    #expect(slots.map { state.status(of: $0).phase } == Array(repeating: .training, count: 4))
    #expect(slots.compactMap { state.status(of: $0).loss }.count == 1)
    #expect(state.status(of: Samples.attention(6)).loss == Samples.value(Samples.attention(6), 30))
    #expect(state.weights.sources.map(\.step) == [1])
    focus.history = Samples.history(for: state.plan, steps: 50)
    state.runs.focus = focus
    state.runs.records = [
      Samples.trained(Samples.record("r3", "untitled", .running, step: 50), state.plan)
    ]
    #expect(state.weights.sources.map(\.step) == [50])
    state.chart.series = .slot
    #expect(ExplorerView.frame(state).text().contains("loss of 6+7"))
    // Anything else in one of its slots is another pair.
    state.document.edit("x") { $0.edits[Samples.mlp(7)] = Samples.narrow }
    #expect(slots.map { state.status(of: $0).phase } == Array(repeating: .stale, count: 4))
    #expect(state.weights.sources.isEmpty)
    state.document.edit("x") { $0.parallel = [:] }
    #expect(state.status(of: Samples.mlp(7)).phase == .stale)
    #expect(state.status(of: Samples.mlp(6)).phase == .pristine)
    // A pair that holds a block of another one is something else as a whole.
    state.document.edit("x") { $0.parallel = [pair(7): .mean] }
    for slot in pair(7).slots { #expect(state.status(of: slot).phase == .stale) }
    state.cursor = Samples.mlp(8)
    #expect(ExplorerView.frame(state).text().contains("not in the run"))
  }

  @Test(arguments: Samples.sizes.indices)
  func theGridShowsThePair(index: Int) {
    var state = Samples.busy(Samples.sizes[index])
    let before = ExplorerView.frame(state).text()
    #expect(!before.contains("╗") && !before.contains("depth"))
    state.cursor = Samples.mlp(13)
    type(&state, "J")
    let lines = ExplorerView.frame(state).text().split(separator: "\n")
    // On the smallest screen the pair reaches over both columns of blocks.
    let (top, bottom) = index == 0 ? ("13 ", "14 ") : (" 13 ", " 14 ")
    #expect(lines.contains { $0.contains(top) && $0.contains("╗") })
    #expect(lines.contains { $0.contains(bottom) && $0.contains("╝") })
    #expect(lines.filter { $0.contains("╗") || $0.contains("╝") }.count == 2)
    #expect(lines[0].contains("depth 27/28"))
    #expect(lines.contains { $0.contains("∥ 14") })
  }

  @Test func editedSlotsIncludePairs() {
    var state = Samples.state()
    state.document.edit("x") {
      $0.parallel = [pair(8): .mean]
      $0.edits[Samples.mlp(20)] = Samples.narrow
    }
    type(&state, "n")
    #expect(state.cursor == Samples.attention(8))
    type(&state, "n")
    #expect(state.cursor == Samples.mlp(20))
  }
}
