import Files
import Foundation

/// Starts the waiting runs of a root in their order.
///
/// A file lock on `.runner.lock` in the root admits one process.
package final class QueueRunner {
  private let launcher: RunLauncher
  private let jobs: Int
  private let interval: useconds_t
  private var store: RunStore
  /// Number of running workers of this runner.
  private var workers = 0
  /// Runs that cannot be started, such as those of other users, with the reason.
  private var refused: [String: any Error] = [:]
  private var root: String { launcher.root }

  /// Makes a runner.
  ///
  /// - Parameters:
  ///   - launcher: Starts the workers.
  ///   - jobs: Maximum number of concurrent trainings, including those started directly.
  ///   - interval: Polling interval in microseconds.
  package init(_ launcher: RunLauncher, jobs: Int = 1, interval: useconds_t = 200_000) {
    (self.launcher, self.jobs, self.interval) = (launcher, jobs, interval)
    store = RunStore(root: launcher.root)
  }

  /// Runs the queue until no waiting run can start; checks the queue again after releasing the
  /// lock, because a run may have been queued while it was held.
  ///
  /// - Parameters:
  ///   - isStopping: Whether to start no further runs and only wait for running ones.
  ///   - report: Called with a line about each run that starts, ends or cannot start.
  /// - Returns: Whether this process acquired the lock; otherwise another one runs the queue.
  /// - Throws: `FileError` when locking fails; at the end, the error of the first run that could
  ///   not be started.
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

  /// Waiting runs that can start without intervention.
  private func startable() -> [RunSummary] {
    store.look()
    return store.waiting.filter { $0.turn?.isBlocked == false && refused[$0.id] == nil }
  }

  private func work(_ isStopping: () -> Bool, _ report: (String) -> Void) {
    while true {
      collect(report)
      let waiting = startable()
      let busy = store.summaries.count {
        $0.isQueueable && $0.state != .queued && !$0.state.isEnded
      }
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

  /// Reaps workers that have ended.
  private func collect(_ report: (String) -> Void) {
    for run in launcher.collect() {
      workers -= 1
      try? run.settle()
      report("\(run.id): \(run.summary().state.name)")
    }
  }

  private static func lockPath(_ root: String) -> String { "\(root)/.runner.lock" }
  private static func stopPath(_ root: String) -> String { "\(root)/.runner.stop" }

  /// Whether a process runs the queue.
  package static func isAtWork(root: String) -> Bool { FileLock.isHeld(lockPath(root)) }

  /// Requests the process that runs the queue to start no further runs.
  ///
  /// - Throws: `FileError` when there is none, or the disk fails.
  package static func stop(root: String) throws {
    guard isAtWork(root: root) else {
      throw FileError("\(root): no runner works on the queue; there is nothing to stop")
    }
    try AtomicFile.write(Data(), to: stopPath(root), followingLinks: false)
  }
}
