import Files
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
      _ = try start(job, name: plan.name, plan: plan, queue: place)
      return .trainingQueued(name: plan.name)
    } catch {
      return .trainingFailed("\(error)")
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
      case .retryRun(let id, let factor):
        try launcher.retry(try find(id), factor == 1 ? nil : .factor(factor))
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
      throw FileError("the run \(id) is no longer in \(root); r lists the others")
    }
    return run
  }
}
