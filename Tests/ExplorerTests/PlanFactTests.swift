import Plans
import TerminalUI
import Testing

import Explorer

@Suite struct PlanFactTests {
  @Test func firstSaveAsksForAName() {
    var state = edited()
    #expect(press(&state, "w").isEmpty)
    press(&state, .control("u"))
    type(&state, "plans/odd")
    let effects = press(&state, .enter)
    var named = state.plan
    named.name = "odd"
    #expect(effects == [.savePlan(named, path: "plans/odd.json", overwrite: false)])
    // Only a file gives a name.
    #expect(state.plan.name == AppState.untitled)
    _ = update(&state, .planSaved(named, path: "plans/odd.json"))
    #expect(!state.document.isModified && state.plan == named)
    #expect(state.document.path == "plans/odd.json")
    press(&state, "w")
    #expect(state.notice?.kind == .warning)
    type(&state, "x")
    #expect(
      press(&state, "w") == [
        .savePlan(state.plan, path: "plans/odd.json", overwrite: false, known: named)
      ])
  }

  @Test func undoKeepsTheNameAndCountsAsAChange() {
    var state = edited()
    _ = update(&state, .planSaved(state.plan, path: "untitled.json"))
    type(&state, "u")
    #expect(state.document.isModified)
    press(&state, .control("r"))
    #expect(!state.document.isModified)
  }

  @Test func existingFilesAreWrittenOverOnlyWhenTold() {
    var state = edited()
    _ = update(&state, .planExists(path: "p.json"))
    #expect(state.overlay == .confirm(.overwrite(path: "p.json")))
    #expect(press(&state, "n").isEmpty)
    _ = update(&state, .planExists(path: "p.json"))
    var named = state.plan
    named.name = "p"
    #expect(press(&state, "y") == [.savePlan(named, path: "p.json", overwrite: true)])
  }

  /// What a training form says of losses and parameters is the plan's.
  @Test func formsTellWhatThePlanTrains() {
    func text(_ key: Key, _ change: (inout GraftPlan) -> Void) -> String {
      var state = Samples.state(Samples.large)
      var plan = Samples.oddPlan()
      change(&plan)
      state.document = PlanDocument(plan: plan, path: "p.json")
      press(&state, key)
      return ExplorerView.frame(state).text()
    }
    #expect(text("f") { _ in }.contains("the whole model, diffusion loss, in the background"))
    let taught = text("f") {
      ($0.stage2.diffusionWeight, $0.stage2.distillationWeight) = (0, 1)
      $0.stage2.trained = .graftsAndNorms
    }
    #expect(taught.contains("operators and all modulations, difference from the teacher's"))
    #expect(!taught.contains("diffusion loss,"))
    #expect(
      text("f") { $0.stage2.featureWeight = 0.1 }
        .contains("diffusion loss and difference from its blocks"))
    #expect(text("d") { $0.stage1.attentionLoss = .huber }.contains("HUBER loss"))
  }

  /// A file that somebody else has changed can be read again, or written over, also without edits here.
  @Test func savingAsksAboutAChangedFileWithoutEditsToo() {
    var state = Samples.state()
    let plan = Samples.oddPlan()
    state.document = PlanDocument(plan: plan, path: "p.json")
    press(&state, "w")
    #expect(state.notice?.text.contains("nothing to save") == true)
    _ = update(&state, .planChangedOnDisk(path: "p.json"))
    #expect(
      press(&state, "w") == [.savePlan(plan, path: "p.json", overwrite: false, known: plan)])
    var present = Samples.oddPlan(9)
    present.name = plan.name
    _ = update(&state, .planExists(path: "p.json", present: present))
    press(&state, "r")
    #expect(state.plan == present && !state.document.isModified)
    press(&state, "w")
    #expect(state.notice?.text.contains("nothing to save") == true)
  }

  /// Whoever steps out of naming the file stays, also when another save succeeds later.
  @Test(arguments: [Key.control("c"), .escape])
  func steppingOutOfTheNameTakesLeavingBack(key: Key) {
    var state = edited()
    type(&state, "qs")
    #expect(state.afterSave == .quit)
    _ = key == .escape ? press(&state, key) : update(&state, .interrupted)
    #expect(state.overlay == nil && state.afterSave == nil)
    _ = update(&state, .planSaved(state.plan, path: "p.json"))
    #expect(!state.isFinished)
  }

  @Test func editsMadeWhileSavingStayUnsaved() {
    var state = edited()
    let saved = state.plan
    state.document.edit("more") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    _ = update(&state, .planSaved(saved, path: "p.json"))
    #expect(state.document.isModified)
  }

  @Test func aPlanOpenedWhileAnotherWasSavedIsNotIt() {
    var state = edited()
    var saved = state.plan
    saved.name = "p"
    state.document = PlanDocument(plan: GraftPlan(named: AppState.untitled, model: Samples.model))
    _ = update(&state, .planSaved(saved, path: "p.json"))
    #expect(state.document.path == nil && state.plan.name == AppState.untitled)
    #expect(state.notice == .note("saved p.json"))
  }

  @Test func failuresAreSaidAndNothingIsLost() {
    var state = edited()
    let plan = state.plan
    state.afterSave = .quit
    _ = update(&state, .planSaveFailed("the disk is full"))
    #expect(state.notice == .failure("the disk is full"))
    #expect(state.document.isModified && state.plan == plan)
    #expect(state.afterSave == nil && !state.isFinished)
    _ = update(&state, .planLoadFailed("p.json: no"))
    #expect(state.plan == plan && state.notice == .failure("p.json: no"))
  }

  @Test func openingAsksWhenChangesWouldBeLost() {
    var clean = Samples.state()
    press(&clean, "o")
    type(&clean, "p")
    #expect(press(&clean, .enter) == [.loadPlan(path: "p.json")])

    var state = edited()
    press(&state, "o")
    type(&state, "p.json")
    #expect(press(&state, .enter).isEmpty)
    #expect(state.overlay == .confirm(.unsaved(.load(path: "p.json"))))
    #expect(press(&state, "y") == [.loadPlan(path: "p.json")])
    _ = update(&state, .planLoaded(Samples.oddPlan(), path: "p.json"))
    #expect(state.plan == Samples.oddPlan() && !state.document.isModified)
    #expect(state.document.done.isEmpty)
  }

  @Test func newPlanIsEmpty() {
    var state = Samples.busy(Samples.small)
    press(&state, "E")
    #expect(press(&state, "y") == [.followRun(id: nil)])
    #expect(state.plan.edits.isEmpty && state.runs.focus == nil)
    #expect(!state.document.isModified && state.document.path == nil)
  }

  // MARK: - Leaving

  @Test func nothingToLoseLeavesAtOnce() {
    var state = Samples.state()
    press(&state, "q")
    #expect(state.isFinished)
  }

  @Test func unsavedChangesAreAskedAbout() {
    var state = edited()
    press(&state, "q")
    #expect(!state.isFinished)
    press(&state, "n")
    #expect(state.overlays.isEmpty && !state.isFinished)
    press(&state, "q", "y")
    #expect(state.isFinished)
  }

  @Test func saveThenLeaveWaitsForTheDisk() {
    var state = edited()
    state.document.markSaved(GraftPlan(named: "p", model: Samples.model), at: "p.json")
    let effects = press(&state, "q", "s")
    let known = state.document.savedPlan
    #expect(
      effects == [.savePlan(state.plan, path: "p.json", overwrite: false, known: known)])
    #expect(!state.isFinished)
    _ = update(&state, .planSaved(state.plan, path: "p.json"))
    #expect(state.isFinished)
  }

  @Test func saveThenLeaveAsksForANameFirst() {
    var state = edited()
    press(&state, "q", "s")
    guard case .prompt = state.overlay else {
      Issue.record("no prompt")
      return
    }
    let effects = press(&state, .enter)
    #expect(effects == [.savePlan(state.plan, path: "untitled.json", overwrite: false)])
    _ = update(&state, .planExists(path: "untitled.json"))
    press(&state, "n")
    _ = update(&state, .planSaved(state.plan, path: "untitled.json"))
    #expect(!state.isFinished, "staying forgets that a save was to be followed by leaving")
  }

  @Test func leavingWhileRunsGoOnJustLeaves() {
    var state = Samples.busy(Samples.small)
    state.document.markSaved(state.plan, at: "p.json")
    press(&state, "q")
    #expect(state.isFinished && !state.forgetsUnsaved)
    // The question about unsaved changes mentions what goes on.
    state = Samples.busy(Samples.small)
    press(&state, "q")
    #expect(ExplorerView.frame(state).text().contains("continues without the explorer"))
    press(&state, "y")
    #expect(state.isFinished && state.forgetsUnsaved)
  }

  @Test func interruptingTwiceLeaves() {
    var state = edited()
    press(&state, "a")
    _ = update(&state, .interrupted)
    #expect(state.overlays.isEmpty && !state.isFinished)
    _ = update(&state, .interrupted)
    #expect(state.overlay == .confirm(.unsaved(.quit)))
    _ = update(&state, .interrupted)
    // Nobody said that the changes are to be lost.
    #expect(state.isFinished && !state.forgetsUnsaved && state.unsaved != nil)
  }

  @Test func tooSmallScreensOnlyLeave() {
    var state = edited()
    let before = state.plan
    _ = update(&state, .resized(Size(columns: 29, rows: 24)))
    #expect(ExplorerView.frame(state).text().contains("needs 30x8"))
    type(&state, "xdjaG")
    press(&state, .enter)
    #expect(state.plan == before && state.cursor == Samples.attention(0))
    #expect(state.overlays.isEmpty)
    press(&state, "q")
    #expect(state.overlay == .confirm(.unsaved(.quit)))
    press(&state, "n")
    #expect(state.overlays.isEmpty)
    press(&state, "q", "y")
    #expect(state.isFinished)
  }

  private func edited() -> AppState {
    var state = Samples.state()
    state.document.edit("edit") { $0.edits[Samples.attention(0)] = Samples.hyena }
    return state
  }
}
