import Plans
import Runs
import TerminalUI
import Testing

import Explorer

@Suite struct RunFactTests {
  // MARK: - Distilling

  @Test func distillingAsksThenStartsTheWorker() {
    var state = edited()
    press(&state, "d")
    type(&state, "123")
    press(&state, .down)
    type(&state, "16")
    press(&state, .down)
    type(&state, "2e-4")
    let effects = press(&state, .enter)
    #expect(state.plan.stage1.steps == 123)
    #expect(state.plan.stage1.batchSize == 16)
    #expect(state.plan.stage1.learningRate == 2e-4)
    #expect(effects == [.startTraining(state.plan, kind: .distill)])
    #expect(state.runs.isLaunching)
    #expect(state.reasonAgainst(.distil) == "the worker is being started")

    let plan = state.plan
    #expect(
      update(&state, .trainingStarted(id: "r1", plan: plan, kind: .distill))
        == [.followRun(id: "r1")])
    #expect(!state.runs.isLaunching)
    #expect(state.status(of: Samples.attention(1)).phase == .queued)
    type(&state, "u")
    #expect(state.plan.stage1.steps == Stage1Settings(hiddenSize: 64).steps)
  }

  /// What trains on recordings does epochs, and takes as long as their steps.
  @Test func cachedDistillationCountsEpochs() {
    var state = Samples.busy(Samples.small, step: 800, state: .done)
    state.document.edit("cached") { plan in
      plan.stage1.mode = .cached
      (plan.stage1.samples, plan.stage1.batchSize) = (80, 8)
    }
    press(&state, "d")
    type(&state, "34")
    guard case .form(let form) = state.overlay else {
      Issue.record("no form")
      return
    }
    #expect(
      form.fields.map(\.key) == ["stage1.epochs", "stage1.batch_size", "stage1.learning_rate"])
    let rows = Stage1Schema.table.schema
    #expect(
      form.fields.map { $0.range } == [
        rows.epochs.range, rows.batchSize.range, rows.learningRate.range,
      ])
    // 340 steps at 3.4 a second.
    #expect(ExplorerView.frame(state).text().contains("~01:40 at 3.4 steps/s"))
    let before = state.plan.stage1
    press(&state, .enter)
    #expect(state.plan.stage1.epochs == 34 && state.plan.stage1.steps == before.steps)
    #expect(state.plan.stage1.totalSteps == 340)
  }

  @Test func preparationsAreNoSteps() {
    var state = Samples.busy(Samples.large)
    state.runs.records[0].label = "encoding images"
    #expect(ExplorerView.frame(state).text().contains(" encoding images 412/800"))
  }

  @Test func finetuningStartsFromTheFollowedRun() {
    var state = Samples.busy(Samples.small, step: 800, state: .done)
    press(&state, "f")
    type(&state, "77")
    press(&state, .down)
    type(&state, "16")
    press(&state, .down)
    type(&state, "2e-5")
    let before = state.plan
    // Two slots are fresh: nothing starts, and the plan stays, until that is agreed to.
    #expect(press(&state, .enter).isEmpty && state.plan == before)
    #expect(state.overlay == .confirm(.mixture(state.weights)))
    #expect(
      ExplorerView.frame(state).text().contains("13 of 15 replaced slots have weights, from"))
    press(&state, "n")
    #expect(state.keyContext == .form && state.plan == before)
    press(&state, .enter)
    let effects = press(&state, "y")
    #expect(state.plan.stage2.steps == 77 && state.plan.stage2.batchSize == 16)
    #expect(state.plan.stage2.learningRate == 2e-5 && state.plan.stage1 == before.stage1)
    #expect(state.weights.runs == ["r3"] && state.weights.fresh.count == 2)
    #expect(
      effects == [.startTraining(state.plan, kind: .finetune, weights: state.weights)])

    let plan = state.plan
    _ = update(&state, .trainingStarted(id: "r4", plan: plan, kind: .finetune))
    #expect(
      state.notice
        == .note(
          "finetuning the model in the background; its settings are now in the plan, w saves them"))
    let record = Samples.record("r4", "hyena-odd", .running, step: 5, total: 77, kind: .finetune)
    _ = update(&state, .runsScanned([record] + state.runs.records))
    #expect(state.status(of: Samples.attention(1)).phase == .training)
    #expect(state.runs.listed.first == record)
    #expect(press(&state, "p") == [.control(id: "r4", .pause)])
    type(&state, "u")
    #expect(state.plan.stage2 == Stage2Settings())
  }

  /// Operators that were never trained start fresh; a plan without any finetunes the teacher.
  @Test func finetuningNeedsNoDistillation() {
    for var state in [edited(), Samples.state()] {
      press(&state, "f")
      let effects = press(&state, .enter)
      #expect(
        effects == [.startTraining(state.plan, kind: .finetune, weights: state.weights)])
      #expect(state.weights.sources.isEmpty)
    }
  }

  /// Beside another training a form asks whether to wait for it.
  @Test func trainingsCanWaitForEachOther() {
    for (answer, isQueued) in [("", true), ("0", false), ("1", true)] {
      var state = Samples.busy(Samples.small)
      press(&state, "d", .backTab)
      type(&state, answer)
      let effects = press(&state, .enter)
      #expect(
        effects == [
          .startTraining(state.plan, kind: .distill, options: Self.options(isQueued: isQueued))
        ])
      _ = update(&state, .trainingQueued(name: "hyena-odd"))
      #expect(!state.runs.isLaunching && state.runs.focus?.id == "r3")
      #expect(state.notice == .note("hyena-odd waits in the queue: r lists the runs"))
    }
    var state = Samples.busy(Samples.small)
    press(&state, "d", .backTab)
    type(&state, "2")
    #expect(press(&state, .enter).isEmpty)
    guard case .form(let form) = state.overlay else { return }
    #expect(form.problem?.contains("expected 0 to 1") == true)
  }

  /// Finetuning that waits takes the weights that the followed distillation will leave; at once it takes
  /// those of its last checkpoint.
  @Test func finetuningWaitsForItsDistillation() {
    let cases: [(Int, String, String?)] = [(0, "1", "r3"), (0, "0", nil), (400, "0", "r3")]
    for (step, answer, weights) in cases {
      var state = Samples.busy(Samples.small, step: step)
      press(&state, "u", "u", "f", .backTab)
      type(&state, answer)
      let effects = press(&state, .enter)
      guard case .startTraining(state.plan, .finetune, let found, let options)? = effects.first
      else {
        Issue.record("\(effects)")
        continue
      }
      #expect(found.runs == [weights].compactMap(\.self) && options.isQueued == (answer == "1"))
    }
  }

  private static func options(isQueued: Bool) -> RunOptions {
    var options = RunOptions()
    options.isQueued = isQueued
    return options
  }

  @Test func waitingRunsMoveAndAreWithdrawn() {
    var state = Samples.queued(Samples.small)
    press(&state, "r", "k", "k")
    #expect(press(&state, "+") == [.raisePriority(id: "q2", by: 1)])
    #expect(press(&state, "-") == [.raisePriority(id: "q2", by: -1)])
    press(&state, "p")
    #expect(state.notice?.text.contains("waits in the queue") == true)
    #expect(press(&state, "C", "y") == [.control(id: "q2", .cancel)])
    press(&state, "j", "j")
    press(&state, "+")
    #expect(state.notice == .warning("only runs in the queue have a priority"))
  }

  /// Asked a second time a worker is killed, but not that of a later life of the run.
  @Test func cancellingTwiceKills() {
    var state = Samples.busy(Samples.small)
    #expect(press(&state, "C", "y") == [.control(id: "r3", .cancel)])
    #expect(press(&state, "r", "C", "n").isEmpty)
    #expect(press(&state, "C", "y") == [.killRun(id: "r3")])
    for runState: RunState in [.cancelled, .running] {
      _ = update(&state, .runsScanned([Samples.record("r3", "hyena-odd", runState, step: 413)]))
    }
    #expect(press(&state, "C", "y") == [.control(id: "r3", .cancel)])
  }

  @Test func endedRunsAreTakenUpAgain() {
    var state = Samples.busy(Samples.small)
    press(&state, "r")
    press(&state, "R")
    #expect(state.notice == .warning("hyena-odd is running: C cancels it first"))
    press(&state, "j", "R")
    #expect(state.notice == .warning("mlp-selfgraft is done already"))
    press(&state, "j", "R")
    #expect(press(&state, .enter) == [.retryRun(id: "r1", rateFactor: 1)])
    // One that failed is offered half the rate.
    state.runs.records[2] = Samples.record("r1", "swa-all", .failed, step: 212)
    press(&state, "R")
    #expect(press(&state, .enter) == [.retryRun(id: "r1", rateFactor: 0.5)])
    press(&state, "R", .control("u"))
    type(&state, "-1")
    #expect(press(&state, .enter).isEmpty)
    guard case .form(let form) = state.overlay else {
      Issue.record("the form is gone")
      return
    }
    #expect(form.problem?.contains("rate factor") == true)
    // From an earlier checkpoint, on another engine.
    press(&state, .escape)
    state.engines = ["torch"]
    press(&state, "R", .control("u"))
    type(&state, "1")
    press(&state, .down)
    type(&state, "40")
    press(&state, .down, .right, .right)
    #expect(
      press(&state, .enter) == [
        .retryRun(id: "r1", rateFactor: 1, step: 40, engine: EngineChange(to: "torch"))
      ])
  }

  @Test func theLogIsReadEverySecond() {
    var state = Samples.busy(Samples.small)
    #expect(press(&state, "r", "l") == [.readLog(id: "r3")])
    _ = update(&state, .logRead(id: "r3", lines: ["one"]))
    #expect(state.overlay == .log(LogPage(id: "r3", lines: ["one"])))
    #expect(update(&state, .ticked(Samples.now + 1)) == [.readLog(id: "r3")])
    _ = update(&state, .logRead(id: "r2", lines: ["other"]))
    #expect(state.overlay == .log(LogPage(id: "r3", lines: ["one"])))
    press(&state, .escape)
    #expect(update(&state, .ticked(Samples.now + 2)).isEmpty)
    _ = update(&state, .logRead(id: "r3", lines: ["late"]))
    #expect(state.keyContext == .runs)
  }

  @Test func theLogScrollsAndStaysWhereItIs() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "r", "l")
    func lines(_ range: Range<Int>) -> [String] { range.map { "line \($0)." } }
    /// The numbers of the lines on the screen.
    func shown() -> [Int] {
      ExplorerView.frame(state).text().matches(of: /line (\d+)/).compactMap { Int($0.1) }
    }
    _ = update(&state, .logRead(id: "r3", lines: lines(0..<50)))
    let rows = state.size.rows - 6
    #expect(shown() == Array(50 - rows..<50))
    press(&state, "k", "k")
    #expect(shown() == Array(48 - rows..<48))
    // What comes in meanwhile, and what falls out above, moves nothing.
    _ = update(&state, .logRead(id: "r3", lines: lines(5..<57)))
    #expect(shown() == Array(48 - rows..<48))
    press(&state, "g", "g", "k")
    #expect(shown() == Array(5..<5 + rows))
    press(&state, " ")
    #expect(shown() == Array(5 + rows..<5 + 2 * rows))
    press(&state, "G", "j")
    _ = update(&state, .logRead(id: "r3", lines: lines(5..<60)))
    #expect(shown() == Array(60 - rows..<60))
    press(&state, "q")
    #expect(state.keyContext == .runs)
  }

  @Test func frozenAndWaitingForRoom() {
    var state = Samples.busy(Samples.small, state: .frozen)
    #expect(press(&state, "p") == [.control(id: "r3", .resume)])
    var record = Samples.record("r3", "hyena-odd", .paused, step: 413, total: 800)
    record.pauseReason = "disk full"
    _ = update(&state, .runsScanned([record]))
    #expect(state.notice == .warning("hyena-odd waits: disk full"))
    #expect(press(&state, "p").isEmpty)
  }

  @Test func failureToStartIsSaid() {
    var state = edited()
    state.runs.isLaunching = true
    _ = update(&state, .trainingFailed("the disk is full"))
    #expect(state.notice == .failure("the disk is full"))
    #expect(!state.runs.isLaunching && state.runs.focus == nil)
  }

  @Test func pauseResumeAndCancelAreRequests() {
    var state = Samples.busy(Samples.small)
    #expect(press(&state, "p") == [.control(id: "r3", .pause)])
    _ = update(
      &state, .runsScanned([Samples.record("r3", "hyena-odd", .paused, step: 413, total: 800)]))
    #expect(state.notice == .note("hyena-odd is paused; p goes on"))
    #expect(press(&state, "p") == [.control(id: "r3", .resume)])
    #expect(press(&state, "C").isEmpty)
    #expect(press(&state, "n").isEmpty)
    #expect(state.overlays.isEmpty)
    #expect(press(&state, "C", "y") == [.control(id: "r3", .cancel)])
    #expect(state.overlays.isEmpty)
  }

  // MARK: - Marks

  /// What a slot's mark is in each state of the run that trains it.
  static let phases: [(RunState, SlotPhase)] = [
    (.queued, .queued), (.running, .training), (.paused, .training), (.frozen, .training),
    (.done, .trained),
    (.cancelled, .failed), (.failed, .failed), (.lost, .failed),
  ]

  @Test(arguments: phases.indices)
  func marksFollowTheRun(index: Int) {
    let (runState, phase) = Self.phases[index]
    var state = Samples.busy(Samples.small, state: runState)
    #expect(state.status(of: Samples.attention(7)).phase == phase)
    #expect(state.status(of: Samples.attention(7)).loss == Samples.value(Samples.attention(7), 412))
    #expect(state.status(of: Samples.attention(8)).phase == .pristine)
    #expect(state.status(of: Samples.mlp(3)) == SlotStatus(phase: .edited, loss: nil))
    #expect(state.status(of: Samples.attention(27)) == SlotStatus(phase: .stale, loss: nil))
    // Back to what was trained: the mark comes back with it.
    type(&state, "u")
    #expect(state.status(of: Samples.attention(27)).phase == phase)
  }

  @Test func marksAreAllDifferent() {
    #expect(Set(SlotPhase.allCases.map(\.mark)).count == SlotPhase.allCases.count)
  }

  // MARK: - Finding runs again

  /// Nothing is opened because it happens to run.
  @Test func aRunThatGoesOnIsMentionedAndNotOpened() {
    for var state in [Samples.state(), edited()] {
      let before = state.document
      let record = Samples.trained(
        Samples.record("r3", "hyena-odd", .running, step: 5), Samples.oddPlan(9))
      #expect(update(&state, .runsScanned([record])).isEmpty)
      #expect(state.document == before && state.runs.focus == nil)
      #expect(state.notice == .note("hyena-odd is running: r lists the runs"))
    }
  }

  @Test func runsOfOtherModelsAreLeftAlone() {
    var state = Samples.state()
    let other = RunSummary(
      id: "r9", name: "other", kind: .distill, modelHash: "else", createdAt: 0, state: .running)
    #expect(update(&state, .runsScanned([other])).isEmpty)
    // Opened, it brings its model.
    #expect(press(&state, "r", .enter) == [.openRun(id: "r9", adopt: true)])
  }

  /// A run is followed for what it trained: the same changes, one that goes on first; never for its name.
  @Test func runsOfTheSameChangesShowTheirLosses() {
    func followed(_ records: RunSummary...) -> [Effect] {
      var state = edited()
      return update(&state, .runsScanned(records))
    }
    func run(_ id: String, _ runState: RunState, step: Int = 400, _ plan: GraftPlan) -> RunSummary {
      Samples.trained(Samples.record(id, AppState.untitled, runState, step: step), plan)
    }
    let plan = edited().plan
    let same = run("same", .done, plan)
    let other = run("other", .done, Samples.oddPlan(9))
    let running = run("running", .running, step: 3, plan)
    let cancelled = run("cancelled", .cancelled, step: 0, plan)
    #expect(followed(other).isEmpty)
    #expect(followed(other, same) == [.openRun(id: "same", adopt: false)])
    #expect(followed(cancelled, same) == [.openRun(id: "same", adopt: false)])
    #expect(followed(same, running) == [.openRun(id: "running", adopt: false)])
    #expect(followed(cancelled) == [.openRun(id: "cancelled", adopt: false)])
    // One that trained more shows what it shares.
    #expect(followed(run("more", .done, Samples.oddPlan())) == [.openRun(id: "more", adopt: false)])
  }

  @Test func openingARunAsksAboutUnsavedChanges() {
    var state = Samples.busy(Samples.small)
    press(&state, "r", "j")
    #expect(press(&state, .enter).isEmpty)
    #expect(state.overlay == .confirm(.unsaved(.openRun(id: "r2"))))
    #expect(press(&state, "y") == [.openRun(id: "r2", adopt: true)])
  }

  @Test func otherRunsHistoriesAreIgnored() {
    var state = Samples.busy(Samples.small)
    let before = state
    _ = update(&state, .historyRead(id: "r1", RunHistory()))
    #expect(state == before)
    _ = update(&state, .historyRead(id: "r3", RunHistory()))
    #expect(state.runs.focus?.history == RunHistory())
  }

  @Test func lostAndFailedAreAnnounced() {
    for (runState, text) in [
      (RunState.lost, "is lost"), (.failed, "failed: no space"), (.done, "is done"),
    ] {
      var state = Samples.busy(Samples.small)
      var record = Samples.record("r3", "hyena-odd", runState, step: 412)
      if runState == .failed { record.end = RunEnd(outcome: .failed, text: "no space") }
      _ = update(&state, .runsScanned([record]))
      #expect(state.notice?.text.contains(text) == true)
    }
  }

  @Test func endedPreviewsAreNotListed() {
    var state = Samples.state()
    state.runs.records = [
      Samples.record("p1", "x", .done, kind: .preview),
      Samples.record("p2", "x", .running, kind: .preview), Samples.record("r1", "x", .lost),
    ]
    #expect(state.runs.listed.map(\.id) == ["p2", "r1"])
  }

  private func edited() -> AppState {
    var state = Samples.state()
    state.document.edit("edit") { $0.edits[Samples.attention(1)] = Samples.hyena }
    return state
  }
}
