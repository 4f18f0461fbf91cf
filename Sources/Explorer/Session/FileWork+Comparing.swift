import Foundation
import Plans
import Runs

extension FileWork {
  /// Reads plans and events of runs for a comparison; what was read of the same runs before is kept.
  func readRuns(_ ids: [String]) -> [Action] {
    compared = compared.filter { ids.contains($0.key) }
    var read: [FocusedRun] = []
    for id in ids {
      guard let run = watcher.run(id) else {
        return [.runOpenFailed("the run \(id) is no longer in \(root)")]
      }
      do {
        var follower = compared[id] ?? RunFollower(run)
        compared[id] = nil
        _ = follower.poll()
        var known = FocusedRun(id: id, plan: try GraftPlan.load(path: run.planPath))
        known.history = follower.history
        compared[id] = follower
        read.append(known)
      } catch {
        return [.runOpenFailed("\(error)")]
      }
    }
    return [.runsRead(read)]
  }
}
