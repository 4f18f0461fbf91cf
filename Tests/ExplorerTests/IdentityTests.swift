import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// Whose weights, whose file and whose edits: state tables.
@Suite struct IdentityTests {
  // MARK: - Weights

  /// Opening a finished plan while another one is trained, then `f ⏎`: the weights are those of the run
  /// that trained the plan, whatever is followed, runs, is newest or has the same name.
  @Test func weightsComeFromTheRunOfThePlan() {
    let mine = Samples.oddPlan(9)
    var foreign = Samples.oddPlan()
    foreign.edits[Samples.attention(9)] = OperatorSpec("hyena_x", ["short_filter_order": 5])
    for name in [mine.name, "other"] {
      for isOpenedLate in [false, true] {
        var state = Samples.state()
        let running = Samples.trained(
          Samples.record("new", name, .running, step: 99, age: 1), foreign)
        let done = Samples.trained(Samples.record("old", "mine", .done, step: 800, age: 9e5), mine)
        _ = update(&state, .runsScanned([running, done]))
        state.runs.focus = FocusedRun(id: "new", plan: foreign)
        press(&state, "o")
        type(&state, "mine")
        #expect(press(&state, .enter) == [.loadPlan(path: "mine.json")])
        #expect(
          update(&state, .planLoaded(mine, path: "mine.json")) == [
            .openRun(id: "old", adopt: false)
          ])
        // The answer may be slow: the foreign run is followed until it comes.
        if !isOpenedLate { _ = update(&state, .runOpened(id: "old", plan: mine, adopt: false)) }
        #expect(state.weights.sources.map(\.id) == ["old"] && state.weights.fresh.isEmpty)
        #expect(
          state.weightsText == "10 of 10 replaced slots have weights, from mine, step 800")
        for block in stride(from: 9, to: 28, by: 2) {
          #expect(state.status(of: Samples.attention(block)).phase == .trained)
        }
        press(&state, "f", .backTab)
        type(&state, "0")
        let effects = press(&state, .enter)
        #expect(
          effects == [.startTraining(state.plan, kind: .finetune, weights: state.weights)],
          "\(name)")
      }
    }
  }

  /// A slot is marked as trained by what was trained in it, not by what its run is or was called.
  @Test func marksSayWhatHasWeights() {
    let plan = Samples.oddPlan(25)
    func phase(
      _ trained: GraftPlan, _ runState: RunState = .done, step: Int = 50, hash: String = "feedbeef"
    )
      -> SlotPhase
    {
      var state = Samples.state()
      state.document = PlanDocument(plan: plan)
      var record = Samples.record("r", plan.name, runState, step: step)
      record.modelHash = hash
      state.runs.records = [Samples.trained(record, trained)]
      return state.status(of: Samples.attention(27)).phase
    }
    var other = plan
    other.edits[Samples.attention(27)] = Samples.hyena
    other.edits[Samples.attention(27)]?.config["short_filter_order"] = 7
    let cases: [(SlotPhase, SlotPhase)] = [
      (phase(plan), .trained), (phase(Samples.oddPlan()), .trained),
      (phase(plan, .running), .training),
      (phase(plan, .cancelled), .failed), (phase(plan, step: 0), .edited), (phase(other), .edited),
      (phase(plan, hash: "else"), .edited), (phase(Samples.oddPlan(0)), .edited),
    ]
    for (index, (found, expected)) in cases.enumerated() { #expect(found == expected, "\(index)") }
  }

  @Test func aFormChoosesTheRunOrFreshWeights() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan(25))
    state.runs.records = [
      Samples.trained(Samples.record("a", "first", .done, step: 50), state.plan),
      Samples.trained(Samples.record("b", "second", .done, step: 800), Samples.oddPlan()),
    ]
    func start(_ keys: Key...) -> [String]? {
      var state = state
      press(&state, "f", .backTab)
      for key in keys { press(&state, key) }
      guard case .startTraining(_, _, let weights, _)? = press(&state, .enter).first else {
        return nil
      }
      return weights.runs
    }
    #expect(start() == ["b"])
    #expect(start(.right) == ["a"])
    #expect(start(.right, " ") == ["b"])
    #expect(start(.left) == [])
  }

  // MARK: - Forms

  /// What is refused changes nothing, and stays on the screen with the reason.
  @Test func refusedFormsLeaveThePlanAsItWas() throws {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    let before = state.document
    let attempts: [(Key, [(String, String)])] = [
      ("d", [("stage1.steps", "0")]),
      ("d", [("stage1.min_learning_rate", "1"), ("stage1.schedule", "exponential")]),
      ("d", [("stage1.milestones", "[0.5, 0.2]")]), ("d", [("data.path", "\u{e000}")]),
      ("f", [("stage2.trained", "lora"), ("stage2.lora_rank", "4000")]), ("f", [("seed", "-1")]),
      ("f", [("stage2.lora_targets", "nothing")]),
    ]
    for (key, texts) in attempts {
      press(&state, key, "m")
      guard case .form(var form) = state.overlay else {
        Issue.record("no form")
        continue
      }
      for (key, text) in texts {
        let index = try #require(form.fields.firstIndex { $0.key == key }, "\(key)")
        form.fields[index].text.replace(text)
      }
      state.overlays[state.overlays.count - 1] = .form(form)
      let isRefused = texts.first?.0 != "data.path"
      let effects = press(&state, .enter)
      #expect(effects.isEmpty == isRefused, "\(texts)")
      if isRefused {
        #expect(state.document == before, "\(texts)")
        guard case .form(let refused) = state.overlay else {
          Issue.record("the form is gone")
          continue
        }
        #expect(refused.problem != nil, "\(texts)")
      }
      state.overlays = []
      state.document = before
      state.runs.isLaunching = false
    }
  }

  /// Every setting of both stages has a field with the range of its table, common ones at once.
  @Test func everySettingHasAField() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    for (key, section, rows) in [
      (Key("d"), "stage1.", Stage1Schema.table.rows), ("f", "stage2.", Stage2Schema.table.rows),
    ] {
      press(&state, key)
      guard case .form(let short) = state.overlay else { continue }
      #expect(short.fields.count == 3)
      press(&state, "m")
      guard case .form(let form) = state.overlay else { continue }
      for row in rows where row.key != "overrides" {
        let field = form.fields.first { $0.key == section + row.key }
        #expect(field != nil, "\(row.key)")
        if row.isWholeNumber || row.initial is Double {
          #expect(field?.range == row.range, "\(row.key)")
        }
        if let words = field?.content, case .choice(let choices) = words {
          #expect(choices == row.choices && !choices.isEmpty, "\(row.key)")
        }
      }
      #expect(
        form.fields.contains { $0.key == "seed" } && form.fields.contains { $0.key == "data.path" })
      press(&state, .escape)
    }
  }

  @Test func settingsOfAnyKindAreTyped() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    press(&state, "f", "m")
    func goTo(_ key: String) {
      guard case .form(let form) = state.overlay,
        let index = form.fields.firstIndex(where: { $0.key == key })
      else { return }
      while case .form(let now) = state.overlay, now.index != index { press(&state, .tab) }
      _ = form
    }
    goTo("stage2.trained")
    press(&state, .right)
    goTo("stage2.recompute")
    press(&state, " ")
    goTo("stage2.milestones")
    type(&state, "[0.5, 0.75]")
    goTo("stage2.lora_targets")
    type(&state, "qkv,proj")
    goTo("run.timeout")
    type(&state, "90")
    guard case .startTraining(let plan, .finetune, _, let options)? = press(&state, .enter).first
    else {
      Issue.record("\(state.overlay as Any)")
      return
    }
    #expect(plan.stage2.trained == .grafts && plan.stage2.recompute)
    #expect(plan.stage2.milestones == [0.5, 0.75] && plan.stage2.loraTargets == [.qkv, .proj])
    #expect(options.timeout == 90 && state.plan == plan)
  }

  /// A slot's own settings of stage 1 are in the form of its operator.
  @Test func overridesAreInTheOperatorsForm() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    press(&state, "j", "e", "m")
    guard case .form(var form) = state.overlay,
      let index = form.fields.firstIndex(where: { $0.key == "stage1.overrides.loss" })
    else {
      Issue.record("no field")
      return
    }
    form.index = index
    state.overlays = [.form(form)]
    press(&state, .right, .right, .enter)
    #expect(state.overlays.isEmpty)
    #expect(state.plan.stage1.loss(for: .slot(Samples.attention(1))) == .l2)
    #expect(state.plan.stage1.loss(for: .slot(Samples.attention(3))) == .l1)
    type(&state, "u")
    #expect(state.plan == Samples.oddPlan())
  }

  @Test func anySettingIsSetByItsKey() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    press(&state, "=")
    type(&state, "stage2.batch_size=8 stage1.overrides.1.attention.steps=5")
    press(&state, .enter)
    #expect(state.plan.stage2.batchSize == 8)
    #expect(state.plan.stage1.settings(for: .slot(Samples.attention(1))).steps == 5)
    press(&state, "u", ":")
    type(&state, "set stage2.batch_size=0")
    press(&state, .enter)
    #expect(state.plan == Samples.oddPlan() && state.notice?.kind == .warning)
    press(&state, "=")
    type(&state, "nonsense")
    press(&state, .enter)
    #expect(state.keyContext == .prompt)
  }

  /// A training that could not be started leaves the plan as it was, unless it was edited since.
  @Test func failedStartsTakeTheirSettingsBack() {
    for isEdited in [false, true] {
      var state = Samples.state()
      state.document = PlanDocument(plan: Samples.oddPlan())
      press(&state, "d")
      type(&state, "77")
      press(&state, .enter)
      #expect(state.plan.stage1.steps == 77)
      if isEdited { state.document.edit("x") { $0.edits[Samples.mlp(0)] = Samples.narrow } }
      _ = update(&state, .trainingFailed("no"))
      #expect((state.plan.stage1.steps == 77) == isEdited)
      #expect(state.document.undone.isEmpty && state.document.isModified == isEdited)
    }
  }

  /// A form names a run that must be done before, as `--after` does.
  @Test func aTrainingWaitsForAnotherRun() {
    var state = Samples.busy(Samples.small)
    press(&state, "d", "m")
    guard case .form(var form) = state.overlay,
      let index = form.fields.firstIndex(where: { $0.key == "run.after" })
    else {
      Issue.record("no field")
      return
    }
    form.index = index
    state.overlays = [.form(form)]
    press(&state, .right)
    guard case .startTraining(_, .distill, _, let options)? = press(&state, .enter).first else {
      Issue.record("not started")
      return
    }
    #expect(options.after == ["r3"] && options.isQueued)
  }

  // MARK: - Files

  @Test func anotherNameRenamesThePlan() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan(), path: "hyena-odd.json")
    state.document.edit("x") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    var named = state.plan
    named.name = "b"
    press(&state, "W", .control("u"))
    type(&state, "dir/b")
    #expect(press(&state, .enter) == [.savePlan(named, path: "dir/b.json", overwrite: false)])
    _ = update(&state, .planSaved(named, path: "dir/b.json"))
    #expect(state.plan.name == "b" && state.document.title == "b.json")
    #expect(ExplorerView.frame(state).text().contains("b.json"))
    state.document.edit("y") { $0.seed = 3 }
    guard case .savePlan(let again, "dir/b.json", false, _)? = press(&state, "w").first else {
      Issue.record("not saved")
      return
    }
    #expect(again.name == "b")
  }

  @Test func aChangedFileIsAskedAbout() {
    func asked() -> AppState {
      var state = Samples.state()
      state.document = PlanDocument(plan: Samples.oddPlan(), path: "p.json")
      state.document.edit("x") { $0.edits[Samples.mlp(0)] = Samples.narrow }
      _ = update(&state, .planExists(path: "p.json", present: Samples.oddPlan(9)))
      return state
    }
    var state = asked()
    let mine = state.plan
    press(&state, "d")
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("0.mlp") && text.contains("1.attention"))
    press(&state, .escape)
    #expect(state.keyContext == .question)
    press(&state, "r")
    #expect(state.plan == Samples.oddPlan(9) && !state.document.isModified)
    type(&state, "u")
    #expect(state.plan == mine && state.document.isModified)

    state = asked()
    press(&state, "a", .control("u"))
    type(&state, "q")
    guard case .savePlan(_, "q.json", false, nil)? = press(&state, .enter).first else {
      Issue.record("not saved elsewhere")
      return
    }
    state = asked()
    press(&state, "n")
    #expect(state.plan == mine && state.document.isModified)
  }

  /// What was asked for before further edits comes too late.
  @Test func lateAnswersNeverReplaceEdits() {
    let late: [(PlanStep, Action)] = [
      (.load(path: "p.json"), .planLoaded(Samples.oddPlan(), path: "p.json")),
      (.openRun(id: "r"), .runOpened(id: "r", plan: Samples.oddPlan(), adopt: true)),
    ]
    for (step, answer) in late {
      for (isEdited, isUndone) in [(false, false), (true, false), (true, true)] {
        var state = Samples.state()
        _ = state.take(step)
        if isEdited { state.document.edit("x") { $0.edits[Samples.mlp(0)] = Samples.narrow } }
        if isUndone { type(&state, "u") }
        let before = state.document
        _ = update(&state, answer)
        #expect((state.document == before) == isEdited, "\(step)")
        #expect((state.notice?.kind == .warning) == isEdited)
        // A second answer to one question is none.
        let after = state.document
        _ = update(&state, answer)
        #expect(state.document == after)
      }
      var state = Samples.state()
      _ = state.take(step)
      _ = state.take(.load(path: "newer.json"))
      let before = state.document
      _ = update(&state, answer)
      #expect(state.document == before, "an answer that a newer question has replaced")
    }
  }

  @Test func editsMadeWhileSavingAreAskedAboutBeforeLeaving() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan(), path: "p.json")
    state.document.edit("x") { $0.seed = 1 }
    press(&state, "q", "s")
    let saved = state.plan
    state.document.edit("y") { $0.seed = 2 }
    _ = update(&state, .planSaved(saved, path: "p.json"))
    #expect(!state.isFinished && state.overlay == .confirm(.unsaved(.quit)))
  }

  /// A graft whose teacher is gone is looked at and sampled, but neither edited nor trained.
  @Test func aGraftWithoutItsTeacherIsLookedAt() {
    var state = Samples.state(Samples.large)
    state.document = PlanDocument(plan: Samples.oddPlan())
    state.missingTeacher = "/models/teacher.pt"
    let before = state
    #expect(state.status(of: Samples.attention(1)).phase == .trained)
    #expect(ExplorerView.frame(state).text().contains("a graft without its teacher"))
    for key: Key in [.enter, "a", "x", "J", "=", "w", "W", "d", "f", "D", "M", "E"] {
      #expect(press(&state, key).isEmpty)
      #expect(state.notice?.text.contains("/models/teacher.pt") == true, "\(key)")
      state.notice = nil
      #expect(state == before)
    }
    guard case .startPreview(1, state.plan?, let weights, _, _)? = press(&state, "s").first else {
      Issue.record("not sampled")
      return
    }
    #expect(weights.sources.isEmpty)
    press(&state, "q")
    #expect(state.isFinished)
  }

  // MARK: - Starting

  @Test func theLastSessionIsOffered() {
    let plan = Opening(model: "demo", plan: "/x/p.json")
    var state = Samples.state()
    state.overlays = [.confirm(.lastSession(plan))]
    #expect(ExplorerView.frame(state).text().contains("/x/p.json"))
    #expect(
      press(&state, "y") == [
        .findAnalysis(again: false), .readLibrary, .loadPlan(path: "/x/p.json"),
      ])
    _ = update(&state, .planLoaded(Samples.oddPlan(), path: "/x/p.json"))
    #expect(state.document.path == "/x/p.json" && state.showing == plan)

    state = Samples.state()
    state.overlays = [.confirm(.lastSession(plan))]
    #expect(press(&state, "n") == state.firstEffects())
    #expect(state.plan.isEmpty && state.overlays.isEmpty)

    state.overlays = [.confirm(.lastSession(Opening(model: "demo", run: "r3")))]
    #expect(press(&state, "y").last == .openRun(id: "r3", adopt: true))
    _ = update(&state, .runOpened(id: "r3", plan: Samples.oddPlan(), adopt: true))
    #expect(state.showing == Opening(model: "demo", run: "r3"))

    let other = Opening(model: "/m.pt", plan: "/x/p.json")
    state = Samples.state()
    state.overlays = [.confirm(.lastSession(other))]
    #expect(press(&state, "y").isEmpty && state.isFinished && state.next == other)
  }

  @Test func unsavedEditsAreTakenUp() throws {
    var killed = Samples.state()
    killed.document = PlanDocument(plan: Samples.oddPlan(), path: "/x/p.json")
    #expect(killed.unsaved == nil)
    killed.document.edit("narrow MLP") { $0.edits[Samples.mlp(0)] = Samples.narrow }
    let unsaved = try #require(killed.unsaved)
    func offered() -> AppState {
      var state = Samples.state()
      state.overlays = [.confirm(.recover(unsaved, file: "f"))]
      return state
    }
    var state = offered()
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("p.json") && text.contains("narrow MLP"))
    press(&state, "d")
    #expect(ExplorerView.frame(state).text().contains("0.mlp"))
    press(&state, .escape)
    #expect(press(&state, "y").contains(.removeUnsaved(file: "f")))
    #expect(state.plan == killed.plan && state.document.savedPlan == killed.document.savedPlan)
    #expect(state.document.path == "/x/p.json" && state.document.isModified)
    // Should this explorer be killed as well, the edits still have their titles.
    #expect(state.unsaved?.steps == ["narrow MLP"])
    type(&state, "u")
    #expect(!state.document.isModified)

    state = offered()
    #expect(press(&state, "n") == state.firstEffects() && state.plan.isEmpty)
    // Only a second question deletes them.
    state = offered()
    #expect(press(&state, "x").isEmpty)
    #expect(ExplorerView.frame(state).text().contains("Delete 1 unsaved change of p.json"))
    #expect(press(&state, "n").isEmpty && state.overlays == offered().overlays)
    press(&state, "x")
    #expect(press(&state, "y").first == .removeUnsaved(file: "f") && state.plan.isEmpty)
    #expect(state.overlays.isEmpty)
  }
}

/// Chains and measurements from the explorer.
@Suite struct ChainFormTests {
  @Test func oneFormQueuesTheChain() {
    var state = Samples.state()
    state.document = PlanDocument(plan: Samples.oddPlan())
    press(&state, "D")
    #expect(ExplorerView.frame(state).text().contains("four runs in the queue"))
    type(&state, "50")
    press(&state, .tab, .tab, .tab)
    type(&state, "20")
    guard case .startChain(let plan, let report, _)? = press(&state, .enter).first else {
      Issue.record("\(state.overlay as Any)")
      return
    }
    #expect(plan.stage1.steps == 50 && plan.stage2.steps == 20 && state.plan == plan)
    #expect(report == ReportRequest())
    _ = update(&state, .chainQueued(name: "hyena-odd"))
    #expect(!state.runs.isLaunching && state.notice?.text.contains("w saves them") == true)
  }

  /// A measurement runs in the background, and its result is shown when it is there.
  @Test func reportsAreStartedAndShown() {
    var state = Samples.busy(Samples.small, step: 800, state: .done)
    press(&state, "M")
    type(&state, "20")
    #expect(
      press(&state, .enter) == [
        .startReport(
          ReportRequest(runs: ["r3"], samples: 20, steps: 25), name: "hyena-odd", writesPage: true)
      ])
    _ = update(&state, .reportStarted(id: "m1"))
    var record = Samples.record("m1", "hyena-odd", .running, kind: .report)
    _ = update(&state, .runsScanned([record] + state.runs.records))
    #expect(state.runs.listed.contains { $0.id == "m1" })
    record.state = .done
    let effects = update(&state, .runsScanned([record] + state.runs.records.dropFirst()))
    #expect(effects.count == 2 && effects.last == .readReport(id: "m1"))
    guard case .announce(let announcement) = effects.first else {
      Issue.record("\(effects)")
      return
    }
    #expect(announcement.text == "hyena-odd is done")
    _ = update(
      &state, .reportRead(title: "report of x", lines: ["agreement 93 %", "/r/report.html"]))
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("agreement 93 %") && text.contains("/r/report.html"))
    press(&state, .escape, "r", "k")
    #expect(press(&state, .enter) == [.readReport(id: "m1")])
  }

  /// The list and the header of runs tell the time left for a chain.
  @Test func chainsTellTheTimeLeft() {
    var state = Samples.busy(Samples.large)
    for index in state.runs.records.indices.prefix(1) {
      state.runs.records[index].chain = ChainPlace(id: "c", index: 0, count: 2)
    }
    var next = Samples.record("r4", "hyena-odd", .queued, total: 0, kind: .finetune)
    next.chain = ChainPlace(id: "c", index: 1, count: 2)
    (next.rate, next.secondsLeft) = (nil, nil)
    state.runs.records.insert(next, at: 0)
    press(&state, "r")
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("0 of 2 of the chain done") && text.contains("~01:54"))
  }
}
