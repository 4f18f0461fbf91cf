import Files
import Foundation
import Plans
import Runs

/// Runs: following, steering and starting them.
extension FileWork {
  /// Keeps the losses of a run from now on, instead of those of the last one.
  func follow(_ id: String?) -> [Action] {
    followed = id
    store.follow(Set(compared + [id].compactMap(\.self)), limit: Self.readLimit)
    guard let id, let history = store.history(id) else { return [] }
    return [.historyRead(id: id, history)]
  }

  /// Reads plans and losses of runs for a comparison.
  func readRuns(_ ids: [String]) -> [Action] {
    compared = ids
    store.follow(Set(compared + [followed].compactMap(\.self)), limit: Self.readLimit)
    return [readCompared()]
  }

  /// What is known of the compared runs; long logs are read on by later looks.
  func readCompared() -> Action {
    do {
      return .runsRead(
        try compared.map { id in
          guard let run = store.run(id) else {
            throw FileError("the run \(id) is no longer in \(root)")
          }
          var known = FocusedRun(id: id, plan: try GraftPlan.load(path: run.planPath))
          known.history = store.history(id) ?? RunHistory()
          return known
        })
    } catch {
      return .runOpenFailed("\(error)")
    }
  }

  /// Removes runs, all but those that must stay.
  func removeRuns(_ ids: [String]) -> [Action] {
    var (removed, problem) = ([String](), String?.none)
    for id in ids {
      do {
        try find(id).remove(among: store.summaries)
        removed.append(id)
      } catch {
        problem = problem ?? "\(error)"
      }
    }
    looks = 0
    return [.runsRemoved(ids: removed, problem: problem)]
  }

  func openRun(_ id: String, adopt: Bool) -> [Action] {
    guard let run = store.run(id) else {
      return [.runOpenFailed("the run \(id) is no longer in \(root)")]
    }
    do {
      let plan = try GraftPlan.load(path: run.planPath)
      if adopt, plan.model.contentHash != model.contentHash {
        return [.planOfOtherModel(.openRun(id: id), Opening(model: plan.model.path, run: id))]
      }
      try check(plan, at: run.planPath)
      return [.runOpened(id: id, plan: plan, adopt: adopt)] + follow(id)
    } catch {
      return [.runOpenFailed("\(error)")]
    }
  }

  /// Does what was asked of a run.
  func steer(_ effect: Effect) -> [Action] {
    do {
      switch effect {
      case .control(let id, .pause): try find(id).pause()
      case .control(let id, .resume): try find(id).goOn()
      case .control(let id, .cancel): try find(id).requestCancellation()
      case .killRun(let id), .control(let id, .kill):
        let run = try find(id)
        // The command for its end may take long.
        Thread.detachNewThread { _ = try? run.cancel(hard: true) }
      case .retryRun(let id, _, _, _) where store.summary(id)?.state == .detached:
        try launcher.attach(try find(id))
      case .retryRun(let id, let factor, let step, let engine):
        let run = try find(id)
        if let engine = engine?.name, let kind = store.summary(id)?.kind {
          try check(engine, kind, try GraftPlan.load(path: run.planPath))
        }
        try launcher.retry(run, factor == 1 ? nil : .factor(factor), step: step, engine: engine)
      case .raisePriority(let id, let amount): try find(id).raisePriority(by: amount)
      case .annotateRuns(let ids, let change):
        for id in ids { try find(id).annotate { try change.apply(to: &$0) } }
        looks = 0
      case .readLog(let id): return [.logRead(id: id, lines: try find(id).lastLines())]
      default: break
      }
      return []
    } catch {
      return [.controlFailed("\(error)")]
    }
  }

  private func find(_ id: String) throws -> RunDirectory {
    guard let run = store.run(id) else {
      throw FileError("the run \(id) is no longer in \(root); r lists the others")
    }
    return run
  }

  // MARK: - Starting

  /// Starts a training, or puts it into the queue and sees to it that a runner works on that.
  func startTraining(
    _ plan: GraftPlan, _ kind: Job.Kind, _ weights: PlanWeights, _ options: RunOptions
  ) -> Action {
    do {
      if let engine = options.engine { try check(engine, kind, plan) }
      var job = Job.distill(planPath: "plan.json")
      var place =
        options.isQueued ? QueuePlace(priority: options.priority, after: options.after) : nil
      if kind == .finetune {
        // A run that is not over provides what it has when the training begins.
        let coming = weights.runs.filter { store.run($0)?.summary().state.isEnded == false }
        place?.after += coming.filter { !options.after.contains($0) }
        job = .finetune(
          planPath: "plan.json",
          weights: try paths(of: weights, expecting: options.isQueued ? coming : []))
      }
      let run = try start(
        job, name: plan.name, plan: plan, queue: place, weights: weights, options: options)
      return options.isQueued
        ? .trainingQueued(name: plan.name) : .trainingStarted(id: run.id, plan: plan, kind: kind)
    } catch {
      return .trainingFailed("\(error)")
    }
  }

  /// Queues both stages of a plan, measurements and a report.
  func startChain(_ plan: GraftPlan, _ report: ReportRequest, _ options: RunOptions) -> Action {
    do {
      if let engine = options.engine {
        for kind in [Job.Kind.distill, .finetune] { try check(engine, kind, plan) }
      }
      let template = JobRequest(
        job: .distill(planPath: "plan.json"), name: plan.name, codeVersion: codeVersion,
        seed: plan.seed, modelHash: model.contentHash, precision: options.precision,
        engine: options.engine)
      let chain = try launcher.launchChain(
        plan, like: template, priority: options.priority, report: placed(report))
      for run in chain { store.add(run) }
      return .chainQueued(name: plan.name)
    } catch {
      return .trainingFailed("\(error)")
    }
  }

  /// Starts measurements of trained grafts.
  func startReport(_ request: ReportRequest, _ name: String, writesPage: Bool) -> Action {
    do {
      let request = try placed(request)
      let run = try start(writesPage ? .report(request) : .measure(request), name: name, plan: nil)
      return .reportStarted(id: run.id)
    } catch {
      return .controlFailed("\(error)")
    }
  }

  /// The request with the whole path of its page.
  ///
  /// - Throws: `FileError` if no page can be written there.
  private func placed(_ request: ReportRequest) throws -> ReportRequest {
    var placed = request
    placed.page = request.page.map { AtomicFile.absolute(Self.expand($0)) }
    if let page = placed.page { try AtomicFile.requireDestination(page) }
    return placed
  }

  /// Reads what a measurement has found.
  func readReport(_ id: String) -> Action {
    do {
      let history = try find(id).history()
      return .reportRead(
        title: "report of \(store.summary(id)?.name ?? id)",
        lines: history.messages + [history.summary.end?.text ?? ""])
    } catch {
      return .controlFailed("\(error)")
    }
  }

  /// The files of weights, checked once more against the plans that the runs recorded; those of
  /// `coming` runs are named by their identifiers.
  func paths(of weights: PlanWeights, expecting coming: [String] = []) throws -> [String] {
    try libraryPaths(of: weights)
      + weights.runs.map { id in
        let run = try find(id)
        guard let sites = weights.sources.first(where: { $0.id == id })?.sites,
          let recorded = try? GraftPlan.load(path: run.planPath),
          recorded.model.contentHash == model.contentHash,
          sites.allSatisfy({ weights.changes.agree(with: recorded.changes, at: $0) })
        else {
          throw FileError(
            "\(run.path): no longer has the plan that its weights were chosen by; choose them again"
          )
        }
        return coming.contains(id) ? id : try run.trainedWeights()
      }
  }

  /// Makes a run and starts its worker, or puts it into the queue.
  func start(
    _ job: Job, name: String, plan: GraftPlan?, queue: QueuePlace? = nil,
    weights: PlanWeights = PlanWeights(), options: RunOptions = RunOptions()
  ) throws -> RunDirectory {
    let request = JobRequest(
      job: job, name: name, codeVersion: codeVersion, seed: plan?.seed ?? 0,
      modelHash: model.contentHash, queue: queue, timeout: options.timeout, onDone: options.onDone,
      precision: options.precision, origins: weights.sources.isEmpty ? nil : weights.origins,
      engine: options.engine)
    let run = try launcher.launch(request, plan: plan)
    store.add(run)
    return run
  }
}

extension RunAnnotationChange {
  /// Makes the change.
  fileprivate func apply(to annotation: inout RunAnnotation) throws(FileError) {
    switch self {
    case .note(let text): try annotation.setNote(text)
    case .tags(let added, let removed): try annotation.setTags(adding: added, removing: removed)
    }
  }
}
