import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// Another model from inside, what a model holds, and what it costs.
@Suite struct OtherModelTests {
  private let far = Opening(model: "far.pt")

  @Test func anotherModelIsOpenedWhenItCanBeShown() {
    var state = Samples.state()
    press(&state, "O")
    #expect(state.keyContext == .prompt)
    type(&state, "far.pt")
    #expect(press(&state, .enter).contains(.openModel(far)))
    #expect(!state.isFinished)
    let whole = Opening(model: "/models/far.pt")
    _ = update(&state, .modelOpened(asked: far, whole))
    #expect(state.isFinished && state.next == whole && state.forgetsUnsaved)
  }

  @Test func aModelThatCannotBeOpenedChangesNothing() {
    var state = edited()
    let before = state.document
    press(&state, ":")
    type(&state, "model far.pt")
    press(&state, .enter)
    #expect(state.overlay == .confirm(.unsaved(.show(far))))
    #expect(ExplorerView.frame(state).text().contains("Opening far.pt would lose"))
    #expect(press(&state, "y") == [.openModel(far)])
    _ = update(&state, .planLoadFailed("far.pt: there is no such file"))
    #expect(state.notice == .failure("far.pt: there is no such file"))
    #expect(!state.isFinished && state.document == before && !state.forgetsUnsaved)
    #expect(state.unsaved != nil, "the edits are still kept")
    // An answer that nobody waits for any more.
    _ = update(&state, .modelOpened(asked: far, far))
    #expect(!state.isFinished)
  }

  @Test func aLateAnswerNeverReplacesEdits() {
    var state = Samples.state()
    press(&state, ":")
    type(&state, "model far.pt")
    press(&state, .enter)
    state.document.edit("more") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    _ = update(&state, .modelOpened(asked: far, far))
    #expect(!state.isFinished && state.document.isModified)
    #expect(state.notice?.kind == .warning)
  }

  /// A plan of another model leads to it, after one question about unsaved edits.
  @Test func aPlanOfAnotherModelBringsItsModel() {
    var state = edited()
    press(&state, "o")
    type(&state, "p.json")
    press(&state, .enter)
    #expect(press(&state, "y") == [.loadPlan(path: "p.json")])
    let opening = Opening(model: "far.pt", plan: "/x/p.json")
    #expect(
      update(&state, .planOfOtherModel(.load(path: "p.json"), opening)) == [.openModel(opening)])
    #expect(state.overlay == nil)
    _ = update(&state, .modelOpened(asked: opening, opening))
    #expect(state.next == opening && state.isFinished)
    // Edits made meanwhile stay.
    var other = Samples.state()
    press(&other, "o")
    type(&other, "p.json")
    press(&other, .enter)
    other.document.edit("more") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    #expect(update(&other, .planOfOtherModel(.load(path: "p.json"), opening)).isEmpty)
    #expect(other.notice?.kind == .warning && !other.isFinished)
  }

  // MARK: - Pages

  @Test func theInspectorShowsAFile() {
    var state = Samples.state()
    #expect(press(&state, "I") == [.inspect("demo")])
    #expect(ExplorerView.frame(state).text().contains("reading"))
    _ = update(&state, .inspected("other", ["no"]))
    _ = update(&state, .inspected("demo", ["DiT: depth 28", "  F32  [96]  a"]))
    #expect(ExplorerView.frame(state).text().contains("DiT: depth 28"))
    press(&state, .escape, ":")
    type(&state, "inspect x.pt")
    #expect(press(&state, .enter).contains(.inspect("x.pt")))
    _ = update(&state, .inspected("x.pt", ["x.pt: there is no such file"]))
    #expect(ExplorerView.frame(state).text().contains("no such file"))
  }

  /// The plan's sums, and operators with measured times where the library has them.
  @Test func theCostTableAddsUp() throws {
    var state = Samples.state(Samples.large)
    state.document.edit("two") {
      $0.edits[Samples.attention(20)] = Samples.gated
      $0.edits[Samples.attention(21)] = Samples.gated
    }
    #expect(state.costTable.lines.contains { $0.hasPrefix("time: the library is being read") })
    state.library.costs = Samples.costs()
    let lines = state.costTable.lines
    let plan = state.plan.cost()
    let teacher = try #require(lines.first { $0.hasPrefix("teacher") })
    #expect(teacher.contains(Format.metric(plan.original.flops)) && teacher.contains("7.20 ms"))
    let own = try #require(lines.first { $0.hasPrefix("untitled") })
    // Twice 0.04 ms of 7.2 ms.
    #expect(own.contains("7.12 ms") && own.hasSuffix("−1.1%"))
    #expect(own.contains(Format.change(from: plan.original.flops, to: plan.edited.flops)))
    let row = try #require(lines.first { $0.contains("×2") })
    #expect(row.contains("−0.040 ms"))
    #expect(lines.allSatisfy { $0.count <= 73 || !$0.contains("  ") })
    // A plan with an operator that was not timed has no time.
    state.document.edit("three") {
      $0.edits[Samples.attention(3)] = OperatorSpec("swa", ["window_left": 4, "window_right": 4])
    }
    let untimed = try #require(state.costTable.lines.first { $0.hasPrefix("untitled") })
    #expect(!untimed.contains("ms"))
  }

  /// A table is not wrapped like prose.
  @Test func theColumnsOfTheCostTableStand() {
    var state = Samples.busy(Samples.small)
    press(&state, "$")
    let text = ExplorerView.frame(state).text()
    for line in state.costTable.lines where line.hasPrefix("teacher") || line.hasPrefix("mha") {
      #expect(text.contains(line), "\(line)")
    }
  }

  @Test func theHistoryShowsWhereThePlanIs() {
    var state = edited()
    state.document.edit("second") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    press(&state, "u", "U")
    guard case .text(let page) = state.overlay else {
      Issue.record("no page")
      return
    }
    #expect(page.lines.contains { $0.hasPrefix("›  1") })
    #expect(page.lines.contains { $0.contains("second  (taken back)") })
  }

  // MARK: - The clipboard

  @Test func runsAndPagesAreCopied() {
    var state = Samples.busy(Samples.small)
    #expect(press(&state, "r", "j", "y") == [.copy("r2")])
    #expect(press(&state, " ", "k", " ", "y") == [.copy("r3\nr2")])
    press(&state, .escape, "l")
    _ = update(&state, .logRead(id: "r3", lines: ["one", "two"]))
    #expect(press(&state, "y") == [.copy("one\ntwo")])
    let plain = String(decoding: Terminal.copying("a", isMultiplexed: false), as: UTF8.self)
    #expect(plain == "\u{1b}]52;c;YQ==\u{1b}\\")
    let both = String(decoding: Terminal.copying("a", isMultiplexed: true), as: UTF8.self)
    #expect(both.hasPrefix(plain) && both.contains("\u{1b}Ptmux;"))
  }

  // MARK: - Ctrl-C

  /// Stepping out of the question of the start is its "no": the explorer starts all the same.
  @Test func interruptingTheFirstQuestionStarts() {
    var state = Samples.state()
    state.overlays = [.confirm(.lastSession(Opening(model: "demo", plan: "/p.json")))]
    #expect(update(&state, .interrupted) == state.firstEffects())
    #expect(state.overlay == nil)
  }

  @Test func interruptingAFilterTakesItBack() {
    var state = Samples.busy(Samples.small)
    press(&state, "r", "/")
    type(&state, "swa")
    _ = update(&state, .interrupted)
    guard case .runs(let pane) = state.overlay else {
      Issue.record("no list")
      return
    }
    #expect(pane.filter.isEmpty)
  }

  /// Only the settings of the plot change the plot.
  @Test func otherSettingsLeaveThePlotAlone() {
    var state = Samples.busy(Samples.small)
    press(&state, "t", "L")
    let chart = state.chart
    press(&state, ",", .enter)
    #expect(state.chart == chart && state.configuration.settings.theme != .auto)
  }
}

private func edited() -> AppState {
  var state = Samples.state()
  state.document.edit("one") { $0.edits[Samples.attention(0)] = Samples.hyena }
  return state
}
