import Plans
import Runs
import Search
import TerminalUI
import Testing

import Explorer

/// The search for the best plans.
@Suite struct SearchViewTests {
  private func pane(_ state: AppState) throws -> SearchPane { try #require(state.searchPane) }

  @Test func theBudgetMovesAlongTheFront() throws {
    var state = Samples.scored(Samples.small, empty: true)
    let effects = press(&state, "B")
    guard
      case .solveFront(let generation, let candidates, let depth, let measure, let constraints) =
        effects.last
    else {
      Issue.record("nothing is solved")
      return
    }
    #expect(effects.first == .readLibrary && generation == 1 && depth == 28 && measure == .time)
    #expect(candidates.count == 140 && constraints == ParetoSolver.Constraints())
    // Keys wait for the front; a late front of another question is dropped.
    press(&state, "l")
    #expect(state.notice == .warning("the best plans are being found"))
    _ = update(&state, .frontSolved(generation: 0, []))
    #expect(try pane(state).front == nil)
    Samples.solve(&state)
    #expect(try pane(state).budget == 0.8)
    var last = Double.infinity
    for _ in 0..<40 {
      press(&state, "l")
      let solution = try #require(state.solution(for: try pane(state)))
      // More budget never costs more error, and the budget is met.
      #expect(solution.loss <= last)
      #expect(1 - solution.saving.time / 0.0072 <= (try pane(state)).budget + 1e-9)
      last = solution.loss
    }
    #expect(try pane(state).budget == 1 && last == 0)
    press(&state, "g")
    let range = try #require(state.budgets(of: try pane(state)))
    #expect(try pane(state).budget == range.lowerBound && range.lowerBound < 0.6)
    press(&state, ">", "<")
    #expect(abs(try pane(state).budget - range.lowerBound) < 1e-9)
  }

  /// The grid shows what the budget gives; only accepting it changes the plan, in one step.
  @Test func acceptingIsOneStepAndLeavingIsNone() throws {
    var state = Samples.searching(Samples.small)
    let before = state.document
    press(&state, "<")
    let proposal = try #require(state.proposal(of: try pane(state)))
    #expect(proposal.edits.count > 8 && state.document == before)
    let shown = ExplorerView.frame(state).text()
    #expect(shown.contains("◇") && shown.contains("\(proposal.edits.count) of 56 slots"))
    var left = state
    press(&left, .escape)
    #expect(left.overlay == nil && left.document == before)
    press(&state, .enter)
    #expect(state.overlay == nil && state.plan == proposal)
    #expect(state.document.done.count == before.done.count + 1)
    // All of it has weights, from the library.
    #expect(state.weights.fresh.isEmpty && state.weights.librarySites.count > 0)
    #expect(
      state.status(of: try #require(state.weights.librarySites.first?.firstSlot)).phase == .ready)
    press(&state, "u")
    #expect(state.plan == before.plan)
    press(&state, .control("r"))
    #expect(state.plan == proposal)
  }

  @Test func locksHold() throws {
    var state = Samples.searching(Samples.small, "<", "<")
    let first = try #require(state.proposal(of: try pane(state)))
    let slot = try #require(first.edits.keys.sorted().first)
    let spec = try #require(first.edits[slot])
    state.cursor = slot
    // Kept, then required as it was, then free.
    press(&state, " ")
    #expect(try pane(state).constraints.kept == [slot] && pane(state).isSolving)
    // The plans of before stay in sight, but cannot be taken.
    #expect(state.proposal(of: try pane(state)) == first)
    press(&state, .enter)
    #expect(state.notice == .warning("the best plans are being found") && state.searchPane != nil)
    Samples.solve(&state)
    #expect(try #require(state.proposal(of: try pane(state))).edits[slot] == nil)
    #expect(ExplorerView.frame(state).text().contains("1 lock"))
    press(&state, " ")
    #expect(try pane(state).constraints.required == [slot: spec])
    Samples.solve(&state)
    press(&state, "G")
    #expect(try #require(state.proposal(of: try pane(state))).edits == [slot: spec])
    press(&state, " ")
    #expect(try pane(state).constraints == ParetoSolver.Constraints())
    Samples.solve(&state)
    // What the plan has already, as far as the library knows it.
    press(&state, "e")
    let required = try pane(state).constraints.required
    #expect(
      required.keys.contains(Samples.mlp(3)) && !required.keys.contains(Samples.attention(27)))
    press(&state, "U")
    #expect(try pane(state).constraints.required.isEmpty)
  }

  @Test func operatorsAndMeasuresAreChosen() throws {
    var state = Samples.searching(Samples.small, "<", "-", "-", "-", "-")
    #expect(try pane(state).constraints.mostOperators == 1)
    let one = try #require(state.solution(for: try pane(state)))
    #expect(Set(one.changes.map(\.operatorName)).count == 1)
    press(&state, "-")
    #expect(state.notice == .warning("one operator is the fewest"))
    press(&state, "+", "+", "+", "+")
    #expect(try pane(state).constraints.mostOperators == nil)
    Samples.solve(&state)
    var seen: [Measure] = []
    for _ in Measure.allCases {
      seen.append(try pane(state).measure)
      #expect(ExplorerView.frame(state).text().contains("of the teacher's"))
      press(&state, "m")
      Samples.solve(&state)
    }
    #expect(Set(seen) == Set(Measure.allCases))
    // Without a measured time of the teacher other measures are left.
    var untimed = Samples.scored(Samples.small)
    untimed.library.costs = Samples.costs(teacher: nil)
    press(&untimed, "B")
    #expect(try pane(untimed).measure == .parameters)
    #expect(untimed.notice?.text.contains("b measures it") == true)
    // A budget of another measure wants no time.
    var limited = Samples.scored(Samples.small)
    (limited.library.costs, limited.budget) = (Samples.costs(teacher: nil), Budget("flops 85"))
    limited.notice = nil
    press(&limited, "B")
    #expect(try pane(limited).measure == .flops && limited.notice == nil)
  }

  /// The plot has the plan, baselines of equal saving, searches and trainings, each with its own character.
  @Test(arguments: Samples.sizes)
  func plansStandBesideTheFront(size: Size) throws {
    var state = Samples.searching(size, "<")
    state.runs.records[1].changes = Samples.oddPlan(15).changes
    let points = state.points(of: try pane(state))
    let marks = points.map(\.mark)
    #expect(Set(marks).isSuperset(of: ["i", "l", "w", "n", "S", "I", "R", "t"]))
    #expect(points.filter(\.isMeasured).map(\.mark) == ["S", "I", "R"])
    let saving = 1 - (try pane(state)).budget
    for point in points where ["i", "l", "w", "n"].contains(point.mark) {
      #expect(1 - point.fraction >= saving - 1e-9, "\(point.title) saves less")
    }
    press(&state, "v")
    let lines = ExplorerView.frame(state).text().split(separator: "\n").map(String.init)
    #expect(lines.contains { $0.contains("interleaved") })
    #expect(lines.contains { $0.contains("budget") && $0.contains("ms") })
    for mark in ["S", "I"] { #expect(lines.contains { $0.contains(" \(mark) ") }) }
    // One of them can be looked at and taken.
    for _ in points {
      press(&state, "n")
      if let point = try pane(state).point, points[point].mark == "S" { break }
    }
    let proposal = try #require(state.proposal(of: try pane(state)))
    #expect(proposal.edits.keys.sorted() == (18...27).map { Samples.attention($0) })
    press(&state, .enter)
    #expect(state.plan.edits == proposal.edits)
  }

  @Test(arguments: Samples.sizes)
  func theMouseMovesTheBudget(size: Size) throws {
    var state = Samples.searching(size)
    let row = size.rows - 2
    func point(_ kind: MouseEvent.Kind, _ column: Int, _ row: Int) {
      _ = update(&state, .pointed(MouseEvent(kind, column: column, row: row)))
    }
    let range = try #require(state.budgets(of: try pane(state)))
    point(.press(.left), 8, row)
    #expect(try pane(state).budget == range.lowerBound && pane(state).isHeld)
    point(.drag(.left), size.columns - 1, row)
    #expect(try pane(state).budget == 1)
    point(.drag(.left), size.columns / 2, row)
    let middle = try pane(state).budget
    #expect(middle > range.lowerBound && middle < 1)
    point(.release(.left), size.columns / 2, row)
    #expect(try !pane(state).isHeld && pane(state).budget == middle)
    point(.wheel(.up), 3, 3)
    #expect(try abs(pane(state).budget - middle - 0.01) < 1e-9)
    // A slot of the grid is chosen, and locked by a second click.
    let target = try #require(
      ExplorerView.frame(state).targets.first { $0.meaning == .place(3, 0) })
    point(.press(.left), target.column, target.row)
    point(.release(.left), target.column, target.row)
    #expect(state.cursor == Samples.attention(3))
    point(.press(.left), target.column, target.row)
    #expect(try pane(state).constraints.kept == [Samples.attention(3)])
  }

  /// The image of what is shown is made from the library's weights, beside the work on the screen.
  @Test func theShownPlanIsSampled() throws {
    var state = Samples.searching(Samples.small, "<")
    state.runs.records = []
    let proposal = try #require(state.proposal(of: try pane(state)))
    let effects = press(&state, "s")
    guard case .startPreview(_, let plan?, let weights, _, _) = effects.last else {
      Issue.record("no preview")
      return
    }
    #expect(plan == proposal && weights.fresh.isEmpty && weights.runs.isEmpty)
    #expect(weights.librarySites.count == proposal.sites.count && state.overlays.count == 1)
    // With F every plan that is shown is sampled, and the one before is given up.
    _ = update(&state, .previewStarted(generation: 1, runID: "p1"))
    #expect(press(&state, "F", "h").isEmpty)
    let moved = update(&state, .ticked(Samples.now + 1))
    #expect(moved.first == .control(id: "p1", .cancel))
    guard case .startPreview(2, let next?, _, _, _) = moved.last else {
      Issue.record("no second preview")
      return
    }
    #expect(next != proposal)
    _ = update(&state, .previewSampled(generation: 2, .graft, Samples.picture(3)))
    _ = update(&state, .previewEnded(generation: 2, problem: nil))
    #expect(ExplorerView.frame(state).images.map(\.id) == ["graft"])
    #expect(ExplorerView.frame(state).text().contains("image of this plan"))
  }

  @Test func aRunIsStartedWithTheLocks() throws {
    var state = Samples.searching(Samples.small, "<", " ")
    let kept = state.cursor
    press(&state, "R")
    guard case .form(let form) = state.overlay else {
      Issue.record("no form")
      return
    }
    #expect(form.text("run.measure") == "time")
    press(&state, .tab)
    type(&state, "0.9 2")
    press(&state, .enter)
    guard case .form(let refused) = state.overlay else { return }
    #expect(refused.problem?.contains("fractions above 0") == true)
    press(&state, .control("u"))
    type(&state, "0.9 0.8")
    press(&state, .tab)
    type(&state, "5")
    let effects = press(&state, .enter)
    guard case .startSearching(.search(let request), let plan, let options) = effects.last else {
      Issue.record("no search is started")
      return
    }
    #expect(request.budgets == [0.9, 0.8] && request.recoverySteps == 5)
    #expect(request.kept == ["\(kept)"] && request.score.timingBatch == 2)
    #expect(plan.edits.isEmpty && options.precision == "bf16")
    #expect(state.searchPane != nil)
    _ = update(&state, .searchingStarted(.search, isQueued: false))
    #expect(state.notice?.text == "searching in the background: r lists the runs")
  }

  @Test func theLibraryIsBuiltFromTheGrid() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "b")
    type(&state, "nonsense")
    press(&state, .enter)
    guard case .form(let refused) = state.overlay else {
      Issue.record("no form")
      return
    }
    #expect(refused.problem?.contains("nonsense") == true)
    press(&state, .control("u"))
    type(&state, "last 3 and L32 > 0")
    press(&state, .tab)
    type(&state, "10")
    let effects = press(&state, .enter)
    guard case .startSearching(.library(let request), let plan, let options) = effects.last else {
      Issue.record("no library is built")
      return
    }
    #expect(request.blocks == "25,26,27" && request.steps == 10 && plan.edits.isEmpty)
    // A training goes on, so it waits for its turn.
    #expect(options.isQueued)
  }

  /// In the list of runs a finished search or library opens the view; one at work says so.
  @Test func finishedSearchesAreOpenedFromTheList() throws {
    for kind in [Job.Kind.library, .search] {
      var state = Samples.scored(Samples.small)
      state.runs.records = [
        Samples.record("s2", "next", .running, kind: kind),
        Samples.record("s1", "found", .done, age: 90, kind: kind),
      ]
      press(&state, "r", .enter)
      #expect(state.notice == .warning("next has found nothing yet"))
      press(&state, "j", .enter)
      #expect(state.searchPane != nil)
    }
  }

  /// What a build or a search has found is read when it ends.
  @Test func endedBuildsAreReadAgain() {
    for kind in [Job.Kind.library, .search] {
      var state = Samples.busy(Samples.small)
      let running = Samples.record("b1", "library", .running, kind: kind)
      _ = update(&state, .runsScanned(state.runs.records + [running]))
      var done = running
      done.state = .done
      let effects = update(&state, .runsScanned(state.runs.records.dropLast() + [done]))
      #expect(effects.contains(.readLibrary))
      #expect(!update(&state, .runsScanned(state.runs.records)).contains(.readLibrary))
    }
  }

  /// A plan of the user's own takes the library's weights too, beside those of runs.
  @Test func editsAreReadyAtOnce() {
    var state = Samples.scored(Samples.small, empty: true)
    state.document.edit("one") { $0.edits[Samples.attention(5)] = OperatorSpec("hyena_x") }
    #expect(state.status(of: Samples.attention(5)).phase == .ready)
    #expect(state.weightsText == "1 of 1 replaced slots have weights, from library, step 40")
    state.document.edit("two") { $0.edits[Samples.attention(6)] = OperatorSpec("swa2d") }
    #expect(state.status(of: Samples.attention(6)).phase == .edited)
    #expect(state.weights.fresh == [.slot(Samples.attention(6))])
    // Measuring needs a run.
    press(&state, "M")
    #expect(state.notice?.text.contains("no run holds weights") == true)
    // Those of a run that trained the slot come first.
    state.runs.records = [
      Samples.trained(
        Samples.record("r9", "trained", .done, step: 100), state.plan)
    ]
    #expect(state.weights.sources.map(\.id) == ["r9"])
    #expect(state.status(of: Samples.attention(5)).phase == .trained)
  }
}
