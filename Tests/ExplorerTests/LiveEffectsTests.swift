import Explorer
import Foundation
import Pictures
import Plans
import Runs
import Search
import Synchronization
import Testing

/// The real outside world on temporary directories, with a shell script in the worker's place.
@Suite final class LiveEffectsTests {
  private let folder: String
  private let root: String
  private var works: [FileWork] = []

  init() throws {
    folder = NSTemporaryDirectory() + "espalier-explorer-\(UUID().uuidString)"
    root = folder + "/runs"
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
  }

  /// Collects workers and runners: one that stays behind as a zombie hides the end of every later child from
  /// the test runner, and tests in processes of their own would wait for ever.
  deinit {
    for child in works.flatMap(\.launcher.children) {
      kill(child.pid, SIGKILL)
      waitpid(child.pid, nil, 0)
    }
    try? FileManager.default.removeItem(atPath: folder)
  }

  /// A program that is started as `PROGRAM worker RUN_DIR`.
  private func script(_ body: String) throws -> String {
    let path = folder + "/worker.sh"
    let text = "#!/bin/sh\nrun=$2\nevents=$run/events.jsonl\n" + body
    try Data(text.utf8).write(to: URL(filePath: path))
    try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
    // A process that another test starts meanwhile may hold the file open for writing for a moment, and
    // the kernel runs no such file; it gives a read lease on it as soon as nobody does.
    let (setLease, readLease): (Int32, Int32) = (1024, 0)
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    defer { close(descriptor) }
    while fcntl(descriptor, setLease, readLease) != 0, errno == EAGAIN { usleep(1000) }
    return path
  }

  private func work(_ executable: String = "/bin/false", model: ModelReference = Samples.model)
    -> FileWork
  {
    guard let launcher = try? RunLauncher(root: root, executable: executable) else {
      preconditionFailure("/proc is missing")
    }
    let work = FileWork(
      launcher: launcher, model: model, codeVersion: "test", state: folder + "/state",
      library: folder + "/library")
    works.append(work)
    return work
  }

  /// The library and finished searches as they lie on disk; a plan's weights are found in it, and missing ones are told.
  @Test func theLibraryIsRead() throws {
    let work = work()
    let empty = work.perform(.readLibrary)
    #expect(empty == [.libraryRead(ReplacementCosts([]), [])])
    let library = OperatorLibrary(modelHash: Samples.model.contentHash, root: folder + "/library")
    let recipe = OperatorLibrary.Recipe(
      steps: 40, batchSize: 8, learningRate: 1e-3, ridgeSamples: 48, seed: 0, data: "d")
    var entry = OperatorLibrary.Entry(
      slot: Samples.attention(3), spec: Samples.gated, recipe: recipe)
    entry.score = .init(
      Estimate(value: 0.25, standardError: 0.125), samples: 4, guidance: 2, sampler: "ddim25",
      seed: 0)
    entry.timing = .init(
      saving: 0.5, teacher: 8,
      conditions: .init(
        processor: OperatorLibrary.TimingConditions.processorName, threads: 2, batch: 2,
        precision: "fp32"))
    let key = library.key(Samples.attention(3), Samples.gated, recipe)
    try FileManager.default.createDirectory(
      atPath: library.folder, withIntermediateDirectories: true)
    try library.update(entry, key: key)
    let header = #"{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}"#
    try (Data([UInt8(header.utf8.count)]) + Data(count: 7) + Data(header.utf8) + Data(count: 4))
      .write(to: URL(filePath: library.path(key)))
    // A search that is done, with the plan of its only row.
    var plan = Samples.oddPlan(27)
    plan.name = "found"
    let run = try RunDirectory.create(
      root: root,
      job: JobRequest(
        job: .search(SearchRequest(planPath: "plan.json", measure: "time", budgets: [0.8])),
        name: "best", codeVersion: "test", modelHash: Samples.model.contentHash), plan: plan)
    try plan.save(to: run.resolve("plan-1-1.json"))
    try SearchReport(
      measure: "time", teacherSeconds: 8, candidates: 1, solveMilliseconds: 1, front: [],
      budgets: [
        .init(
          fraction: 0.8,
          rows: [
            .init(
              origin: "search", changes: [], sum: 0.5,
              errors: [Estimate(value: 0.5, standardError: 0.25)], fraction: 0.75,
              plan: "plan-1-1.json")
          ], rankAgreement: nil, neighborLoss: 0, recoveryAgreement: nil)
      ]
    ).write(in: run.path)
    try run.append(Event(.started(pid: 1, totalSteps: 0)))
    try run.append(Event(.finished(outcome: .done, text: "1 budgets")))
    guard case .libraryRead(let costs, let searches) = work.perform(.readLibrary).first else {
      Issue.record("nothing was read")
      return
    }
    #expect(costs.candidates.map(\.loss) == [0.25] && costs.teacherSeconds == 8)
    #expect(costs.trained == [.slot(Samples.attention(3), Samples.gated): 40])
    #expect(searches.map(\.name) == ["best"])
    #expect(searches.first?.rows.first?.changes == plan.changes)
    // A preview takes the operator's file.
    var state = Samples.state()
    state.library.costs = costs
    state.document.edit("one") { $0.edits[Samples.attention(3)] = Samples.gated }
    let started = work.perform(
      .startPreview(
        generation: 1, plan: state.plan, weights: state.weights, settings: PreviewSettings()))
    guard case .previewStarted(_, let id) = started.first else {
      Issue.record("no preview: \(started)")
      return
    }
    guard case .preview(let request) = try RunDirectory.open("\(root)/\(id)").request().job else {
      Issue.record("another job")
      return
    }
    #expect(request.weights == [library.path(key)])
    // Without the file the preview fails with a sentence.
    unlink(library.path(key))
    let failed = work.perform(
      .startPreview(
        generation: 2, plan: state.plan, weights: state.weights, settings: PreviewSettings()))
    guard case .previewEnded(2, let problem?) = failed.first else {
      Issue.record("it was started all the same")
      return
    }
    #expect(problem.contains("no longer has the operator of 3.attention"))
  }

  /// Looks until a wanted fact is there, for at most some seconds of looks.
  private func look(_ work: FileWork, until wanted: (Action) -> Bool) -> [Action] {
    var seen: [Action] = []
    for _ in 0..<6000 {
      let actions = work.look(now: Date())
      seen += actions
      if actions.contains(where: wanted) { return seen }
      usleep(10_000)
    }
    return seen
  }

  private static func isEnded(_ action: Action) -> Bool {
    if case .runsScanned(let records) = action, let record = records.first {
      return !record.isAlive
    }
    return false
  }

  // MARK: - Plans

  @Test func plansAreSavedOnceAndReadBack() throws {
    let work = work()
    let path = folder + "/p.json"
    let plan = Samples.oddPlan()
    #expect(
      work.perform(.savePlan(plan, path: path, overwrite: false))
        == [.planSaved(plan, path: path)])
    #expect(
      work.perform(.savePlan(plan, path: path, overwrite: false))
        == [.planExists(path: path, present: plan)])
    #expect(
      work.perform(.savePlan(plan, path: path, overwrite: true))
        == [.planSaved(plan, path: path)])
    #expect(work.perform(.loadPlan(path: path)) == [.planLoaded(plan, path: path)])
    // Another program changes the file: it is asked before that is lost.
    var other = plan
    other.seed += 1
    try other.save(to: path)
    let save = Effect.savePlan(plan, path: path, overwrite: false, known: plan)
    #expect(work.perform(save) == [.planExists(path: path, present: other)])
    #expect(try GraftPlan.load(path: path) == other)
    try plan.save(to: path)
    #expect(work.perform(save) == [.planSaved(plan, path: path)])
  }

  /// Of two explorers that save to one new file at once, one is told that it exists.
  @Test func twoExplorersNeverWriteOverEachOther() throws {
    for round in 0..<20 {
      let path = folder + "/new-\(round).json"
      let plans = (0..<4).map { number in
        var plan = Samples.oddPlan()
        plan.seed = UInt64(number)
        return plan
      }
      let works = plans.map { _ in work() }
      let answers = Mutex<[Action]>([])
      DispatchQueue.concurrentPerform(iterations: 4) { index in
        let actions = works[index].perform(.savePlan(plans[index], path: path, overwrite: false))
        answers.withLock { $0 += actions }
      }
      let saved = answers.withLock { $0 }.compactMap { answer in
        if case .planSaved(let plan, _) = answer { plan } else { nil }
      }
      let present = try GraftPlan.load(path: path)
      #expect(saved == [present])
    }
    // Two that have read one file: the second to save is asked.
    let path = folder + "/shared.json"
    let known = Samples.oddPlan()
    try known.save(to: path)
    var (one, other) = (known, known)
    (one.seed, other.seed) = (1, 2)
    #expect(
      work().perform(.savePlan(one, path: path, overwrite: false, known: known))
        == [.planSaved(one, path: path)])
    #expect(
      work().perform(.savePlan(other, path: path, overwrite: false, known: known))
        == [.planExists(path: path, present: one)])
  }

  /// A file that another program changes is noticed while it is shown.
  @Test func changesOnDiskAreNoticed() throws {
    let path = folder + "/p.json"
    try Samples.oddPlan().save(to: path)
    let work = work()
    _ = work.perform(.keepSession(Opening(model: "demo", plan: path)))
    func changes() -> [Action] {
      (0..<11).flatMap { _ in work.look(now: Date()) }.filter {
        $0 == .planChangedOnDisk(path: path)
      }
    }
    #expect(changes().isEmpty)
    #expect(
      work.perform(
        .savePlan(Samples.oddPlan(9), path: path, overwrite: false, known: Samples.oddPlan()))
        == [.planSaved(Samples.oddPlan(9), path: path)])
    #expect(changes().isEmpty)
    try Samples.oddPlan(11).save(to: path)
    #expect(changes().count == 1 && changes().isEmpty)
    try FileManager.default.removeItem(atPath: path)
    #expect(changes().count == 1 && changes().isEmpty)
  }

  /// Unsaved edits are offered once their explorer is gone, and removed when they were saved.
  @Test func unsavedEditsAreKept() throws {
    let state = folder + "/state"
    func found() -> [UnsavedPlan] { RecoveryFile.abandoned(state: state).map(\.unsaved) }
    var plan = Samples.oddPlan()
    plan.data = DataSettings(path: "images", in: folder)
    let unsaved = UnsavedPlan(
      opening: Opening(model: "demo", plan: folder + "/p.json"), plan: plan,
      saved: Samples.oddPlan(9), steps: ["one", "two"])
    do {
      let explorer = FileWork(
        launcher: try RunLauncher(root: root, executable: "/bin/false"), model: Samples.model,
        codeVersion: "test", state: state)
      let failures = explorer.perform(.keepUnsaved(unsaved))
      let offered = found()
      #expect(failures.isEmpty && offered.isEmpty, "nobody is offered the edits of a living one")
      withExtendedLifetime(explorer) {}
    }
    #expect(found() == [unsaved])
    let offered = RecoveryFile.abandoned(state: state)
    #expect(found().isEmpty, "while it is offered to one, it is not to another")
    #expect(work().perform(.removeUnsaved(file: try #require(offered.first?.file))).isEmpty)
    withExtendedLifetime(offered) {}
    #expect(found().isEmpty)
    let other = work()
    _ = other.perform(.keepUnsaved(unsaved))
    _ = other.perform(.keepUnsaved(nil))
    let left = try FileManager.default.contentsOfDirectory(atPath: state + "/recovery")
    #expect(left.isEmpty)

    #expect(LastSession.read(state: state) == nil)
    try plan.save(to: folder + "/p.json")
    #expect(other.perform(.keepSession(unsaved.opening)).isEmpty)
    #expect(LastSession.read(state: state) == unsaved.opening)
    try FileManager.default.removeItem(atPath: folder + "/p.json")
    #expect(LastSession.read(state: state) == nil)
  }

  @Test func unusablePlansAreRefusedInOneSentence() throws {
    let path = folder + "/p.json"
    try Samples.oddPlan().save(to: path)
    var other = Samples.model
    other.contentHash = "else"
    let attempts: [(FileWork, Effect)] = [
      (work(), .loadPlan(path: folder + "/missing.json")),
      (work(), .savePlan(Samples.oddPlan(), path: folder + "/no/such/p.json", overwrite: false)),
      (work(), .savePlan(Samples.oddPlan(), path: folder, overwrite: true)),
    ]
    for (work, effect) in attempts {
      let actions = work.perform(effect)
      guard let action = actions.first, actions.count == 1 else {
        Issue.record("\(actions)")
        continue
      }
      switch action {
      case .planLoadFailed(let reason), .planSaveFailed(let reason):
        #expect(reason.contains(folder) && !reason.contains("\n"))
      default: Issue.record("\(action)")
      }
    }
  }

  /// A plan, or a run, of another model is not refused but brings its model, by content and not by name.
  @Test func plansOfOtherModelsBringTheirModel() throws {
    let path = folder + "/p.json"
    try Samples.oddPlan().save(to: path)
    var other = Samples.model
    other.contentHash = "else"
    let work = work(model: other)
    #expect(
      work.perform(.loadPlan(path: path)) == [
        .planOfOtherModel(.load(path: path), Opening(model: "demo", plan: path))
      ])
    let run = try RunDirectory.create(
      root: root,
      job: JobRequest(
        job: .distill(planPath: "plan.json"), name: "far", codeVersion: "test",
        modelHash: Samples.model.contentHash), plan: Samples.oddPlan())
    _ = work.look(now: Date())
    #expect(
      work.perform(.openRun(id: run.id, adopt: true)) == [
        .planOfOtherModel(.openRun(id: run.id), Opening(model: "demo", run: run.id))
      ])
  }

  /// How things are drawn outlives the explorer; a file that is damaged counts for nothing.
  @Test func theLayoutIsKept() throws {
    var state = Samples.busy(Samples.small)
    press(&state, "P", "X", "b", "e", "e", .escape, "t", "r", ">", "o", .escape)
    state.pane = .losses
    #expect(work().perform(.keepLayout(KeptLayout(state))).isEmpty)
    var next = Samples.busy(Samples.small)
    next.restore(KeptLayout.read(state: folder + "/state"))
    #expect(next.chart == state.chart && next.pane == .losses)
    press(&next, "r")
    guard case .runs(let pane) = next.overlay else {
      Issue.record("no list")
      return
    }
    #expect(pane.order.isDescending && pane.order.column != RunOrder.newest.column)
    // A budget that nobody could type counts for nothing.
    let path = folder + "/state/layout.json"
    for (text, kept) in [("flops 80", Budget("flops 80")), ("flops -5", nil), ("flops 1e300", nil)]
    {
      state.budget = Budget("flops 96")
      _ = work().perform(.keepLayout(KeptLayout(state)))
      let stored = try String(contentsOfFile: path, encoding: .utf8)
      #expect(stored.contains("flops 96"))
      try stored.replacing("flops 96", with: text).write(
        toFile: path, atomically: true, encoding: .utf8)
      next.restore(KeptLayout.read(state: folder + "/state"))
      #expect(next.budget == kept && next.pane == .losses)
    }
    try Data("{".utf8).write(to: URL(filePath: path))
    #expect(KeptLayout.read(state: folder + "/state") == nil)
    next.restore(nil)
    #expect(next.chart == state.chart)
  }

  /// What another explorer offers for completion: models, folders, and the shipped one.
  @Test func namesOfModelsAreCompleted() throws {
    for name in ["a.pt", "a.json", "b.safetensors"] {
      try Data().write(to: URL(filePath: "\(folder)/\(name)"))
    }
    func names(_ text: String, _ kind: FileKind) -> [String] {
      guard case .filesListed(_, let paths)? = work().perform(.listFiles(text, kind)).first else {
        return []
      }
      return paths.map { String($0.dropFirst(folder.count + 1)) }
    }
    #expect(names(folder + "/a", .model) == ["a.pt"])
    #expect(names(folder + "/", .model).contains("b.safetensors"))
    #expect(names(folder + "/a", .plan) == ["a.json"])
    #expect(work().perform(.listFiles("de", .model)) == [.filesListed(text: "de", ["demo"])])
  }

  // MARK: - Distillation

  @Test func distillationRunsInItsOwnDirectory() throws {
    let worker = try script(
      """
      echo '{"v":1,"t":1,"kind":"started","pid":'$$',"total_steps":2}' >> $events
      for step in 1 2; do
        echo '{"v":1,"t":2,"kind":"step","step":'$step',"total":2,"loss":0.5,"losses":{"1.attention":0.25},"rate":3,"seconds_left":1}' >> $events
      done
      echo '{"v":1,"t":3,"kind":"finished","outcome":"done","text":"ok"}' >> $events
      """)
    let work = work(worker)
    var plan = GraftPlan(named: "one", model: Samples.model)
    plan.edits[Samples.attention(1)] = Samples.hyena
    guard
      case .trainingStarted(let id, let started, .distill)? =
        work.perform(.startTraining(plan, kind: .distill)).first
    else {
      Issue.record("not started")
      return
    }
    #expect(started == plan)
    let followed = work.perform(.followRun(id: id))
    #expect(try GraftPlan.load(path: "\(root)/\(id)/plan.json") == plan)
    let seen = followed + look(work, until: Self.isEnded)
    let records = seen.compactMap { action in
      if case .runsScanned(let records) = action { records.first } else { nil }
    }
    #expect(records.last?.state == .done)
    #expect(records.last?.name == "one" && records.last?.step == 2 && records.last?.total == 2)
    #expect(records.last?.loss == 0.5)
    let history = seen.compactMap { action in
      if case .historyRead(id, let history) = action { history } else { nil }
    }.last
    #expect(history?.losses[.slot(Samples.attention(1))]?.map(\.value) == [0.25, 0.25])

    // Another explorer finds it and opens its plan and losses.
    let other = self.work()
    _ = look(other, until: Self.isEnded)
    let opened = other.perform(.openRun(id: id, adopt: true))
    #expect(opened.first == .runOpened(id: id, plan: plan, adopt: true))
    guard case .historyRead(_, let reread)? = opened.last else {
      Issue.record("no history")
      return
    }
    #expect(reread.losses[.slot(Samples.attention(1))]?.count == 2)
  }

  /// Finetuning takes the operators that a distillation left.
  @Test func finetuningStartsFromADistillation() throws {
    let worker = try script(
      """
      echo '{"v":1,"t":1,"kind":"started","pid":'$$',"total_steps":2}' >> $events
      touch $run/checkpoints/operators.safetensors
      echo '{"v":1,"t":3,"kind":"finished","outcome":"done","text":"ok"}' >> $events
      """)
    let work = work(worker)
    let plan = Samples.oddPlan()
    func start(_ kind: Job.Kind, from id: String?) throws -> String {
      let actions = work.perform(
        .startTraining(plan, kind: kind, weights: Self.weights(of: plan, from: id)))
      guard case .trainingStarted(let id, plan, kind)? = actions.first else {
        throw PlanError(key: nil, "\(actions)")
      }
      _ = look(work, until: Self.isEnded)
      return id
    }
    let first = try start(.distill, from: nil)
    let second = try RunDirectory.open("\(root)/\(try start(.finetune, from: first))")
    let operators = "\(root)/\(first)/checkpoints/operators.safetensors"
    #expect(
      try second.request().job == .finetune(planPath: "plan.json", weights: [operators]))
    let third = try RunDirectory.open("\(root)/\(try start(.finetune, from: nil))")
    #expect(try third.request().job == .finetune(planPath: "plan.json", weights: []))
  }

  /// The queue's runner is the program itself; here a script that only says so.
  @Test func queuedTrainingsWait() throws {
    let work = work(try script("echo \"$@\" >> \(folder)/calls"))
    let plan = Samples.oddPlan()
    #expect(
      work.perform(.startTraining(plan, kind: .distill, options: Self.queued))
        == [.trainingQueued(name: "hyena-odd")])
    let first = try #require(RunDirectory.list(root: root).first)
    #expect(
      work.perform(
        .startTraining(
          plan, kind: .finetune, weights: Self.weights(of: plan, from: first.id),
          options: Self.queued))
        == [.trainingQueued(name: "hyena-odd")])
    let second = try #require(RunDirectory.list(root: root).first { $0 != first })
    #expect(try second.request().job == .finetune(planPath: "plan.json", weights: [first.id]))
    #expect(try second.request().queue == QueuePlace(after: [first.id]))
    #expect(work.perform(.raisePriority(id: second.id, by: 3)).isEmpty)
    func records(_ wanted: ([RunSummary]) -> Bool) -> [RunSummary] {
      for action in look(
        work, until: { if case .runsScanned(let all) = $0 { wanted(all) } else { false } }
      ).reversed() {
        if case .runsScanned(let all) = action { return all }
      }
      return []
    }
    let queued = records { $0.contains { $0.turn != nil && $0.place?.priority == 3 } }
    #expect(queued.first { $0.id == second.id }?.turn?.position == 1)
    #expect(queued.first { $0.id == second.id }?.waitReason == "after \(first.id)")
    #expect(queued.first { $0.id == first.id }?.turn?.position == 2)
    #expect(work.perform(.control(id: first.id, .cancel)).isEmpty)
    let left = records { $0.contains { $0.state == .cancelled } }
    #expect(left.first { $0.id == second.id }?.turn?.isBlocked == true)
    // Taken up again it has a worker at once.
    #expect(work.perform(.retryRun(id: first.id, rateFactor: 0.5)).isEmpty)
    let rate = try GraftPlan.load(path: first.planPath).stage1.learningRate
    #expect(rate == plan.stage1.learningRate / 2)
    for _ in 0..<3000
    where !((try? String(contentsOfFile: folder + "/calls", encoding: .utf8)) ?? "").contains(
      "worker \(first.path)")
    {
      usleep(10_000)
    }
    let calls = try String(contentsOfFile: folder + "/calls", encoding: .utf8)
    #expect(
      calls.contains("runs drain --runs \(root) --jobs 1") && calls.contains("worker \(first.path)")
    )
    guard case .logRead(_, let lines)? = work.perform(.readLog(id: first.id)).first else {
      Issue.record("no log")
      return
    }
    #expect(lines.contains { $0.hasSuffix("cancelled: cancelled before it began") })
    guard case .controlFailed? = work.perform(.retryRun(id: second.id, rateFactor: 1)).first else {
      Issue.record("a waiting run was taken up again")
      return
    }
  }

  @Test func deadWorkersAreLostAndNotSteered() throws {
    let worker = try script(
      """
      echo '{"v":1,"t":1,"kind":"started","pid":'$$',"total_steps":9}' >> $events
      kill -9 $$
      """)
    let work = work(worker)
    guard
      case .trainingStarted(let id, _, _)? =
        work.perform(.startTraining(Samples.oddPlan(), kind: .distill)).first
    else {
      Issue.record("not started")
      return
    }
    let seen = look(work, until: Self.isEnded)
    guard case .runsScanned(let records)? = seen.last(where: Self.isEnded) else {
      Issue.record("never ended")
      return
    }
    #expect(records.first?.state == .lost)
    for control in Control.allCases where control != .kill {
      guard case .controlFailed(let reason)? = work.perform(.control(id: id, control)).first else {
        Issue.record("a dead worker was asked to \(control.rawValue)")
        continue
      }
      #expect(reason.contains("is lost, expected a running one"))
    }
    guard case .controlFailed? = work.perform(.control(id: "nothing", .pause)).first else {
      Issue.record("a run that is not there was controlled")
      return
    }
  }

  @Test func workersThatCannotStartAreReported() {
    let work = work(folder + "/nothing")
    guard
      case .trainingFailed(let reason)? =
        work.perform(.startTraining(Samples.oddPlan(), kind: .distill)).first
    else {
      Issue.record("started")
      return
    }
    #expect(reason.contains("nothing"))
  }

  /// A run whose plan was changed after its weights were chosen is refused.
  @Test func weightsAreCheckedOnceMoreAtTheStart() throws {
    let work = work(try script("touch $run/checkpoints/operators.safetensors"))
    var plan = Samples.oddPlan()
    guard
      case .trainingStarted(let id, _, _)? =
        work.perform(.startTraining(plan, kind: .distill)).first
    else {
      Issue.record("not started")
      return
    }
    let weights = Self.weights(of: plan, from: id)
    plan.edits[Samples.attention(1)] = OperatorSpec("hyena_x", ["short_filter_order": 5])
    try plan.save(to: "\(root)/\(id)/plan.json")
    guard
      case .trainingFailed(let reason)? =
        work.perform(.startTraining(Samples.oddPlan(), kind: .finetune, weights: weights)).first
    else {
      Issue.record("started")
      return
    }
    #expect(reason.contains("no longer has the plan"))
  }

  private static var queued: RunOptions {
    var options = RunOptions()
    options.isQueued = true
    return options
  }

  /// Weights of a run that trained the very plan.
  private static func weights(of plan: GraftPlan, from id: String?) -> PlanWeights {
    let records = id.map { id in
      [Samples.trained(Samples.record(id, plan.name, .done, step: 2), plan)]
    }
    return PlanWeights(of: plan, runs: records ?? [])
  }

  // MARK: - Previews

  @Test func previewsBringTheirPictures() throws {
    let picture = Samples.picture(3)
    try picture.write(to: folder + "/teacher.png")
    let worker = try script(
      """
      grep -q '"class_label" *: *4' $run/run.json || exit 1
      grep -q 'plan.json' $run/run.json || exit 1
      cp \(folder)/teacher.png $run/samples/teacher.png
      echo '{"v":1,"t":1,"kind":"started","pid":'$$',"total_steps":2}' >> $events
      echo '{"v":1,"t":1,"kind":"progress","done":1,"total":2,"label":"x"}' >> $events
      echo '{"v":1,"t":1,"kind":"sampled","role":"teacher","path":"samples/teacher.png","class_label":4,"seed":0}' >> $events
      echo '{"v":1,"t":3,"kind":"finished","outcome":"done","text":"ok"}' >> $events
      """)
    let work = work(worker)
    var settings = PreviewSettings()
    settings.classLabel = 4
    let started = work.perform(
      .startPreview(
        generation: 7, plan: Samples.oddPlan(), weights: PlanWeights(), settings: settings))
    guard case .previewStarted(7, _)? = started.first else {
      Issue.record("\(started)")
      return
    }
    let end = Action.previewEnded(generation: 7, problem: nil)
    let seen = look(work) { $0 == end }
    #expect(seen.contains(.previewSampled(generation: 7, .teacher, picture)))
    #expect(seen.contains(end))
  }

  @Test func failedPreviewsSayWhy() throws {
    let worker = try script("echo 'no such weights' >&2; exit 1")
    let work = work(worker)
    _ = work.perform(
      .startPreview(
        generation: 1, plan: nil, weights: PlanWeights(), settings: PreviewSettings()))
    let seen = look(work) { if case .previewEnded = $0 { true } else { false } }
    guard case .previewEnded(1, let problem?)? = seen.last else {
      Issue.record("\(seen)")
      return
    }
    #expect(problem.contains("no such weights"))
  }

  /// The queue in front of all this hands results over and finishes on closing.
  @Test func effectsArePerformedInOrder() throws {
    let effects = LiveEffects(
      launcher: try RunLauncher(root: root, executable: "/bin/false"), model: Samples.model,
      codeVersion: "test")
    let first = folder + "/a.json"
    effects.perform(.savePlan(Samples.oddPlan(), path: first, overwrite: false))
    effects.perform(.savePlan(Samples.oddPlan(), path: first, overwrite: false))
    effects.close()
    let saves = effects.takeActions().filter { action in
      switch action {
      case .planSaved, .planExists: true
      default: false
      }
    }
    #expect(
      saves == [
        .planSaved(Samples.oddPlan(), path: first),
        .planExists(path: first, present: Samples.oddPlan()),
      ])
    #expect(effects.takeActions().isEmpty)
  }
}
