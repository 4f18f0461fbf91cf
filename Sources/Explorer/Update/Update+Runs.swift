import Plans
import Runs

extension AppState {
  /// Starts, pauses or cancels a training, or changes how its losses are drawn.
  mutating func distil(_ command: Command, argument: String?) -> [Effect] {
    switch command {
    case .distil, .finetune:
      let kind: Job.Kind = command == .distil ? .distill : .finetune
      overlays.append(.form(.training(kind, of: plan, beside: runs.aliveTraining)))
    case .pause:
      return runs.focusRecord.map { togglePause($0) } ?? []
    case .cancel:
      if let record = runs.focusRecord { overlays.append(.confirm(.cancelRun(id: record.id))) }
    case .series:
      if let argument {
        guard let series = ChartSettings.Series(rawValue: argument) else {
          notice = .warning("series takes slot, mean or all, not \(argument)")
          return []
        }
        chart.series = series
        return []
      }
      let all = ChartSettings.Series.allCases
      let index = all.firstIndex(of: chart.series) ?? 0
      chart.series = all[(index + 1) % all.count]
    case .scale:
      chart.isLogarithmic.toggle()
    case .plot:
      return openPlot(argument)
    case .runs:
      openRuns(argument)
    default:
      break
    }
    return []
  }

  private mutating func togglePause(_ record: RunSummary) -> [Effect] {
    if record.state == .paused || record.state == .frozen {
      notice = .note("asked \(record.name) to go on")
      return [.control(id: record.id, .resume)]
    }
    notice = .note("asked \(record.name) to pause after its step")
    return [.control(id: record.id, .pause)]
  }

  /// Stores the form's numbers in the plan and asks for the worker.
  mutating func startTraining(_ kind: Job.Kind, _ values: [String: Double]) -> [Effect] {
    let isQueued = values["queue"] == 1
    let weights =
      kind == .finetune ? (isQueued ? comingWeights : nil) ?? trainedWeights?.runID : nil
    let name = kind == .finetune ? "finetuning" : "distillation"
    document.edit("settings of the \(name)") { $0.take(values, of: kind) }
    do {
      try plan.validate()
    } catch {
      notice = .failure("\(error)")
      return []
    }
    runs.isLaunching = true
    notice = .note("starting the worker …")
    return [.startTraining(plan, kind: kind, weightsFrom: weights, isQueued: isQueued)]
  }

  /// The followed distillation while it is not over, when its weights will fit the plan.
  private var comingWeights: String? {
    guard let record = runs.focusRecord, record.kind == .distill, record.isAlive,
      let trained = runs.focus?.plan,
      plan.sites.contains(where: { plan.agrees(with: trained, at: $0) })
    else { return nil }
    return record.id
  }

  /// Acts in the list of runs.
  mutating func performInRuns(_ command: Command) -> [Effect] {
    guard case .runs(var pane) = overlay else { return [] }
    let listed = runs.listed
    let index = listed.firstIndex { $0.id == pane.selection }
    let selected = index.map { listed[$0] }
    switch command {
    case .next:
      pane.selection = listed.isEmpty ? nil : listed[min((index ?? -1) + 1, listed.count - 1)].id
      replaceTop(.runs(pane))
    case .previous:
      pane.selection = listed.isEmpty ? nil : listed[max((index ?? 1) - 1, 0)].id
      replaceTop(.runs(pane))
    case .accept:
      guard let selected else { return [] }
      overlays.removeLast()
      return goTo(.openRun(id: selected.id))
    case .pause:
      return selected.map { togglePause($0) } ?? []
    case .cancel:
      if let selected { overlays.append(.confirm(.cancelRun(id: selected.id))) }
    case .mark:
      if let selected { markRun(selected, in: pane) }
    case .compare:
      return [.readRuns(ids: runsToCompare(in: pane))]
    case .retry:
      guard let selected else { return [] }
      overlays.append(
        .prompt(
          Prompt(
            purpose: .retry(id: selected.id),
            field: TextField(selected.state == .failed ? "0.5" : "1"))))
    case .log:
      guard let selected else { return [] }
      overlays.append(.log(LogPage(id: selected.id)))
      return [.readLog(id: selected.id)]
    case .raise, .lower:
      guard let selected, selected.turn != nil, let priority = selected.place?.priority else {
        return []
      }
      return [.setPriority(id: selected.id, priority + (command == .raise ? 1 : -1))]
    default:
      overlays.removeLast()
    }
    return []
  }

  /// Takes in what became of jobs.
  mutating func receiveRunFact(_ action: Action) -> [Effect] {
    switch action {
    case .runsScanned(let records):
      let isFirst = !runs.isScanned
      let before = runs.focusRecord?.state
      runs.records = records
      runs.isScanned = true
      runs.stopping.formIntersection(records.filter(\.isAlive).map(\.id))
      if isFirst && runs.focus == nil && !runs.isLaunching { return reattach() }
      if let after = runs.focusRecord, let before, before != after.state {
        announce(after)
        if after.state == .done { return refreshComparison() + renewPreview(hasEnded: true) }
      }
      return refreshComparison()
    case .runOpened(let id, let opened, let adopt):
      if adopt {
        document = PlanDocument(plan: opened)
        dropSelection()
      }
      var focus = FocusedRun(id: id, plan: opened)
      if let old = runs.focus, old.id == id { focus.history = old.history }
      runs.focus = focus
      notice = .note("following \(runs.record(id)?.name ?? id)")
    case .runsRead(let read):
      receiveCompared(read)
    case .runOpenFailed(let reason), .controlFailed(let reason):
      notice = .failure(reason)
    case .historyRead(let id, let history):
      guard runs.focus?.id == id else { return [] }
      let before = runs.focus?.history.summary.checkpoint
      runs.focus?.history = history
      if let now = history.summary.checkpoint, now != before {
        if before != nil { preview.checkpointsSince += 1 }
        let listing: [Effect] = overlays.contains(.images) ? [.readCheckpoints(id: id)] : []
        return listing + renewPreview(hasEnded: false)
      }
    case .checkpointsRead(let id, let steps):
      if runs.focus?.id == id { runs.checkpoints = steps }
    case .picturesSaved(let path): notice = .note("saved \(path)")
    case .trainingStarted(let id, let plan, let kind):
      runs.isLaunching = false
      runs.focus = FocusedRun(id: id, plan: plan)
      let what = kind == .finetune ? "finetuning the model" : "distilling \(plan.extent)"
      notice = .note("\(what) in the background")
      return [.followRun(id: id)]
    case .trainingQueued(let name):
      runs.isLaunching = false
      notice = .note("\(name) waits in the queue: r lists the runs")
    case .logRead(let id, let lines):
      if case .log(var page) = overlay, page.id == id {
        page.receive(lines, width: LogView.room(size).columns)
        replaceTop(.log(page))
      }
    case .trainingFailed(let reason):
      runs.isLaunching = false
      notice = .failure(reason)
    default:
      break
    }
    return []
  }

  private mutating func announce(_ record: RunSummary) {
    switch record.state {
    case .queued, .running, .frozen: break
    case .paused:
      notice =
        record.pauseReason.map { .warning("\(record.name) waits: \($0)") }
        ?? .note("\(record.name) is paused; p goes on")
    case .done: notice = .note("\(record.name) is done; s samples the grafted model")
    case .cancelled: notice = .note("\(record.name) was cancelled at \(record.progressText)")
    case .failed: notice = .failure("\(record.name) failed: \(record.end?.text ?? "")")
    case .lost:
      notice = .failure(
        "\(record.name) is lost: its worker ended at \(record.progressText); r lists the runs, where R takes it up again"
      )
    }
  }

  /// Finds the work of an explorer that was here before.
  private mutating func reattach() -> [Effect] {
    let mine = runs.records.filter {
      $0.isTraining && $0.modelHash == model.contentHash
    }
    let alive = mine.filter(\.isAlive)
    if let alive = alive.first(where: { $0.state != .queued }) ?? alive.first {
      let isUntouched = document.path == nil && plan.isEmpty && document.done.isEmpty
      return [.openRun(id: alive.id, adopt: isUntouched)]
    }
    let effects = followMatchingRun()
    if effects.isEmpty, let latest = mine.first, plan.isEmpty {
      notice = .note(
        "the last training, \(latest.name), is \(latest.state.name): r lists the runs")
    }
    return effects
  }

  /// Follows the newest training of what the plan changes, else the newest that bears its name, so that
  /// its losses and marks show.
  mutating func followMatchingRun() -> [Effect] {
    let mine = runs.records.filter { $0.isTraining && $0.modelHash == model.contentHash }
    let same = mine.filter { $0.changes == plan.changes && $0.step > 0 }
    let match = same.first ?? mine.first { $0.name == plan.name }
    guard let match, !plan.isEmpty else {
      guard runs.focus != nil else { return [] }
      runs.focus = nil
      return [.followRun(id: nil)]
    }
    return [.openRun(id: match.id, adopt: false)]
  }
}
