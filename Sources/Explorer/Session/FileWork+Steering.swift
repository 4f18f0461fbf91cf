import Foundation
import Plans
import Runs

extension FileWork {
  /// Puts a training into the queue and sees to it that a runner works on that.
  func queueTraining(
    _ plan: GraftPlan, _ kind: Job.Kind, _ weightsFrom: String?
  ) -> Action {
    do {
      var place = QueuePlace()
      var job = Job.distill(planPath: "plan.json")
      if kind == .finetune {
        let source = weightsFrom.flatMap { store.run($0) }
        if let source, !source.summary().state.isEnded {
          place.after = [source.id]
          job = .finetune(planPath: "plan.json", weights: [source.id])
        } else {
          job = .finetune(planPath: "plan.json", weights: try weights(of: weightsFrom))
        }
      }
      let run = try RunDirectory.create(
        root: root, job: request(job, plan.name, plan, queue: place), plan: plan)
      store.add(run)
      try startRunner()
      return .trainingQueued(name: plan.name)
    } catch {
      return .trainingFailed("\(error)")
    }
  }

  /// Starts the worker of a run, which is collected when it ends.
  func startWorker(_ run: RunDirectory) throws {
    let pid = try WorkerLauncher.start(executable: executable, run: run)
    children.append((pid: pid, run: run.id))
  }

  private func startRunner() throws {
    if let pid = try QueueRunner.start(root: root, executable: executable) {
      children.append((pid: pid, run: ""))
    }
  }

  /// Does what was asked of a run.
  func steer(_ effect: Effect) -> [Action] {
    do {
      switch effect {
      case .control(let id, let control): try ask(control, of: try find(id))
      case .killRun(let id):
        let run = try find(id)
        // The command for its end may take long.
        Thread.detachNewThread { _ = try? run.cancel(hard: true) }
      case .retryRun(let id, let factor):
        let run = try find(id)
        try run.prepareRetry(factor == 1 ? nil : .factor(factor))
        try startWorker(run)
        try startRunner()
      case .setPriority(let id, let priority): try find(id).setPriority(priority)
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
      throw RunError("the run \(id) is no longer in \(root); r lists the others")
    }
    return run
  }

  private func ask(_ control: Control, of run: RunDirectory) throws {
    let worker = run.worker()
    if control == .cancel, worker == nil, run.summary().state == .queued {
      try run.cancel()
      return
    }
    try run.append(control)
    // One that is frozen must wake up to hear it.
    if control != .pause, let worker, worker.isAlive { try worker.signal(SIGCONT) }
  }
}
