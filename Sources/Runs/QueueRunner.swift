import Files
import Foundation

/// Starts the waiting runs of a run root one after the other.
///
/// Of several processes that try, the kernel's lock on `.runner.lock` in the root lets one through.
package final class QueueRunner {
  private let launcher: RunLauncher
  private let jobs: Int
  private let interval: useconds_t
  private var store: RunStore
  /// How many workers of this runner are at work.
  private var workers = 0
  /// Runs that cannot be started, such as those of other users, with the reason.
  private var refused: [String: any Error] = [:]
  private var root: String { launcher.root }

  /// Makes a runner that waits for nobody yet.
  ///
  /// - Parameters:
  ///   - launcher: Starts the workers.
  ///   - jobs: Trainings that may go on at once, those that were started directly included.
  ///   - interval: Microseconds between two looks.
  package init(_ launcher: RunLauncher, jobs: Int = 1, interval: useconds_t = 200_000) {
    (self.launcher, self.jobs, self.interval) = (launcher, jobs, interval)
    store = RunStore(root: launcher.root)
  }

  /// Runs what waits until nothing is left that could begin; looks at the queue once more after giving
  /// the lock back, so that whoever saw it held was not deceived.
  ///
  /// - Parameters:
  ///   - isStopping: Whether to start nothing more and only wait for what runs.
  ///   - report: Called with a line about each run that begins, ends or cannot begin.
  /// - Returns: Whether this process got the lock; without it another one does the work.
  /// - Throws: `FileError` when the lock cannot be had; in the end, why the first of the runs that
  ///   could not be started was not.
  package func drain(
    isStopping: () -> Bool = { false }, report: (String) -> Void = { _ in }
  ) throws -> Bool {
    var hasRun = false
    repeat {
      guard let lock = try FileLock.take(Self.lockPath(root)) else { return hasRun }
      hasRun = true
      unlink(Self.stopPath(root))
      RunDirectory.removeLeftovers(root: root)
      withExtendedLifetime(lock) {
        work({ isStopping() || access(Self.stopPath(self.root), F_OK) == 0 }, report)
      }
    } while !isStopping() && access(Self.stopPath(root), F_OK) != 0
      && !startable().isEmpty
    unlink(Self.stopPath(root))
    if let first = refused.min(by: { $0.key < $1.key }) { throw first.value }
    return true
  }

  /// The waiting runs that will begin by themselves, as of now.
  private func startable() -> [RunSummary] {
    store.look()
    return store.waiting.filter { $0.turn?.isBlocked == false && refused[$0.id] == nil }
  }

  private func work(_ isStopping: () -> Bool, _ report: (String) -> Void) {
    while true {
      collect(report)
      let waiting = startable()
      let busy = store.summaries.count { $0.isTraining && $0.state != .queued && !$0.state.isEnded }
      let next = waiting.first { $0.turn?.obstacle == nil }
      if isStopping() || waiting.isEmpty {
        if workers == 0 { return }
      } else if let next, busy < jobs, begin(next.id, report) {
        continue
      }
      usleep(interval)
    }
  }

  private func begin(_ id: String, _ report: (String) -> Void) -> Bool {
    do {
      guard try launcher.begin(try RunDirectory.open("\(root)/\(id)")) else { return false }
      workers += 1
      report("\(id): begins")
    } catch {
      refused[id] = error
      report("\(id): cannot begin: \(error)")
    }
    return true
  }

  /// Takes in workers that have ended.
  private func collect(_ report: (String) -> Void) {
    for run in launcher.collect() {
      workers -= 1
      try? run.settle()
      report("\(run.id): \(run.summary().state.name)")
    }
  }

  private static func lockPath(_ root: String) -> String { "\(root)/.runner.lock" }
  private static func stopPath(_ root: String) -> String { "\(root)/.runner.stop" }

  /// Whether a process runs the queue now.
  package static func isAtWork(root: String) -> Bool { FileLock.isHeld(lockPath(root)) }

  /// Asks the process that runs the queue to start nothing more.
  ///
  /// - Throws: `RunError` when none does, `FileError` when the disk fails.
  package static func stop(root: String) throws {
    guard isAtWork(root: root) else {
      throw RunError("\(root): no runner works on the queue; there is nothing to stop")
    }
    try AtomicFile.write(Data(), to: stopPath(root), followingLinks: false)
  }
}
