import Plans
import Runs

extension AppState {
  /// Starts, pauses or cancels a training, or changes how its losses are drawn.
  mutating func distil(_ command: Command, argument: String?) -> [Effect] {
    switch command {
    case .distil, .finetune:
      let kind: Job.Kind = command == .distil ? .distill : .finetune
      overlays.append(
        .form(
          .training(
            kind, of: plan, beside: runs.aliveTraining,
            sources: kind == .finetune ? weightSources : [],
            others: runs.records.filter { $0.isTraining && $0.isAlive }.map { runs.title($0) },
            engines: engines)))
    case .chain:
      overlays.append(.form(.chain(of: plan, engines: engines)))
    case .report:
      overlays.append(.form(.report(of: weights.runs)))
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

  mutating func togglePause(_ record: RunSummary) -> [Effect] {
    if record.state == .paused || record.state == .frozen {
      notice = .note("asked \(record.name) to go on")
      return [.control(id: record.id, .resume)]
    }
    notice = .note("asked \(record.name) to pause after its step")
    return [.control(id: record.id, .pause)]
  }

  /// Makes the form's settings part of the plan and asks for the worker; a form that is refused stays
  /// open and leaves the plan as it was.
  mutating func startTraining(_ kind: Job.Kind, _ form: Form) -> [Effect] {
    var next = plan
    do {
      try next.take(form)
    } catch {
      return refuse(form, "\(error)")
    }
    let weights = kind == .finetune ? weights(for: form) : PlanWeights()
    guard agrees(to: weights) else { return [] }
    overlays.removeLast()
    let name = kind == .finetune ? "finetuning" : "distillation"
    let isEdited = document.edit("settings of the \(name)") { $0 = next }
    runs.isLaunching = true
    runs.launchEdit = isEdited ? next : nil
    notice = .note("starting the worker …")
    var options = RunOptions(form)
    options.after = runs.records.filter {
      $0.isTraining && $0.isAlive && runs.title($0) == form.text(RunOptions.after)
    }.map(\.id)
    return [.startTraining(plan, kind: kind, weights: weights, options: options)]
  }

  /// Makes the settings of a chain's form part of the plan and queues its runs.
  mutating func startChain(_ form: Form) -> [Effect] {
    var next = plan
    do {
      try next.take(form)
    } catch {
      return refuse(form, "\(error)")
    }
    overlays.removeLast()
    let isEdited = document.edit("settings of both stages") { $0 = next }
    runs.isLaunching = true
    runs.launchEdit = isEdited ? next : nil
    notice = .note("queueing the runs …")
    return [.startChain(plan, report: form.reportRequest, options: RunOptions(form))]
  }

  /// Whether a run that builds the library or searches has ended since the runs were read before.
  private func hasSearchEnded(since old: [RunSummary]) -> Bool {
    let alive = Set(
      old.filter { ($0.kind == .library || $0.kind == .search) && $0.isAlive }.map(\.id))
    return runs.records.contains { alive.contains($0.id) && !$0.isAlive }
  }

  /// What a started training tells about the plan.
  private mutating func confirmLaunch(_ text: String) {
    let isEdited = runs.launchEdit != nil && document.isModified
    notice = .note(isEdited ? "\(text); its settings are now in the plan, w saves them" : text)
    (runs.isLaunching, runs.launchEdit) = (false, nil)
  }

  /// Takes in what became of jobs.
  mutating func receiveRunFact(_ action: Action) -> [Effect] {
    switch action {
    case .runsScanned(let records):
      let isFirst = !runs.isScanned
      let before = runs.focusRecord?.state
      let old = runs.records
      runs.records = records
      runs.isScanned = true
      refreshRunList(before: old)
      let stopping = runs.stopping
      runs.stopping.formIntersection(records.filter(\.isAlive).map(\.id))
      if isFirst && runs.focus == nil && !runs.isLaunching { return reattach() }
      var announced = isFirst ? [] : announceEnds(since: old, except: stopping)
      if hasSearchEnded(since: old) { announced.append(.readLibrary) }
      if let after = runs.focusRecord, let before, before != after.state {
        announce(after)
        if after.state == .done {
          return announced + refreshComparison() + renewPreview(hasEnded: true)
        }
      }
      if let id = runs.awaitedReport, let record = runs.record(id), record.state.isEnded {
        runs.awaitedReport = nil
        guard record.state == .done else {
          notice = .failure(
            "\(record.name): \(record.remark ?? "the report is \(record.state.name)")")
          return announced + refreshComparison()
        }
        return announced + refreshComparison() + [.readReport(id: id)]
      }
      return announced + refreshComparison()
    case .runOpened(let id, let opened, let adopt):
      if adopt {
        guard replace(after: .openRun(id: id), with: PlanDocument(plan: opened, run: id)) else {
          return []
        }
      }
      var focus = FocusedRun(id: id, plan: opened)
      if let old = runs.focus, old.id == id { focus.history = old.history }
      runs.focus = focus
      // What led here, such as a plan that was opened, has been said already.
      if adopt || notice == nil {
        notice = .note("following \(runs.record(id)?.name ?? id)")
      }
    case .runsRead(let read): receiveCompared(read)
    case .runsReadOn(let read): receiveCompared(read, isNew: false)
    case .runsRemoved(let ids, let problem):
      let count = Format.count(ids.count, "run")
      notice = problem.map { .failure("removed \(count); \($0)") } ?? .note("removed \(count)")
    case .runOpenFailed(let reason), .controlFailed(let reason):
      notice = .failure(reason)
    case .historyRead(let id, let history):
      guard runs.focus?.id == id else { return [] }
      let before = runs.focus?.history.summary.checkpoint
      let known = runs.focus?.history.messages ?? []
      if let text = history.messages.last(where: { $0.hasPrefix("warning: ") }),
        !known.contains(text)
      {
        notice = .warning(text)
      }
      runs.focus?.history = history
      if let now = history.summary.checkpoint, now != before {
        if before != nil { preview.checkpointsSince += 1 }
        let listing: [Effect] = overlays.contains(.images) ? [.readCheckpoints(id: id)] : []
        return listing + renewPreview(hasEnded: false)
      }
    case .checkpointsRead(let id, let steps):
      if weights.runSources.first?.id == id { runs.checkpoints = steps }
    case .picturesSaved(let path): notice = .note("saved \(path)")
    case .trainingStarted(let id, let plan, let kind):
      runs.focus = FocusedRun(id: id, plan: plan)
      let what = kind == .finetune ? "finetuning the model" : "distilling \(plan.extent)"
      confirmLaunch("\(what) in the background")
      return [.followRun(id: id)]
    case .trainingQueued(let name):
      confirmLaunch("\(name) waits in the queue: r lists the runs")
    case .chainQueued(let name):
      confirmLaunch("\(name): distil, finetune, measure and report wait in the queue")
    case .reportStarted(let id):
      runs.awaitedReport = id
      notice = .note("measuring in the background; the result is shown when it is there")
    case .reportRead(let title, let lines):
      if overlay == nil || keyContext == .runs {
        overlays.append(.text(TextPage(title: title, lines: lines)))
      } else {
        notice = .note("\(title) is there: r lists the runs, ⏎ shows it")
      }
    case .setRead(let id, let lines, let sheet):
      if case .text(var page) = overlay, page.run == id {
        page.lines = lines
        page.picture = sheet.map(Picture.init) ?? page.picture
        replaceTop(.text(page))
      }
    case .logRead(let id, let lines):
      if case .log(var page) = overlay, page.id == id {
        page.receive(lines, width: LogView.room(size).columns)
        replaceTop(.log(page))
      }
    case .trainingFailed(let reason):
      // Nothing was started, so the plan is what it was before, unless it was edited since.
      if let edit = runs.launchEdit, document.done.last?.after == edit, plan == edit {
        document.revoke()
      }
      (runs.isLaunching, runs.launchEdit) = (false, nil)
      notice = .failure(reason)
    default:
      break
    }
    return []
  }

  private mutating func announce(_ record: RunSummary) {
    switch record.state {
    case .queued, .starting, .pending, .running, .frozen: break
    case .unreachable, .detached:
      notice = .warning("\(record.name) is \(record.stateText)")
    case .paused:
      notice =
        record.pauseReason.map { .warning("\(record.name) waits: \($0)") }
        ?? .note("\(record.name) is paused; p goes on")
    case .done: notice = .note("\(record.name) is done; s samples the grafted model")
    case .cancelled: notice = .note("\(record.name) was cancelled at \(record.progressText)")
    case .failed: notice = .failure("\(record.name) failed: \(record.end?.text ?? "")")
    case .lost:
      notice = .failure(
        "\(record.name) is lost: its worker ended \(record.placeText); r lists the runs, where R takes it up again"
      )
    }
  }

  /// Follows a run of the plan, or says that others go on; no run is opened by itself.
  private mutating func reattach() -> [Effect] {
    let effects = followMatchingRun()
    if effects.isEmpty, overlays.isEmpty, notice == nil, let alive = runs.aliveTraining {
      notice = .note("\(alive.name) is \(alive.state.name): r lists the runs")
    }
    return effects
  }

  /// Follows a run that trains or trained what the plan changes, so that its losses show: one that goes
  /// on, else the one that provides weights.
  mutating func followMatchingRun() -> [Effect] {
    let same = runs.records.filter {
      $0.isTraining && $0.modelHash == model.contentHash && $0.changes == plan.changes
    }
    let source = weights.runSources.first?.id
    let match =
      same.first { $0.isAlive && $0.state != .queued }?.id ?? source ?? same.first?.id
    guard let match, !plan.isEmpty else {
      guard runs.focus != nil else { return [] }
      runs.focus = nil
      return [.followRun(id: nil)]
    }
    if runs.focus?.id != match { runs.focus = nil }
    return [.openRun(id: match, adopt: false)]
  }
}
