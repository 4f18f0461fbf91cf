import Files
import Foundation

/// The states of all runs below a root, read again only where something was appended.
struct RunStates {
  let root: String
  private var tails: [RunDirectory: Tail] = [:]

  private struct Tail {
    var follower: RunFollower?
    var size: Int64 = -1
    var state = RunState.queued
    var request: JobRequest?
  }

  init(root: String) { self.root = root }

  /// What the queue needs to know of every run, as it is now.
  mutating func look() -> [QueueEntry] {
    let runs = RunDirectory.list(root: root)
    let present = Set(runs)
    tails = tails.filter { present.contains($0.key) }
    return runs.compactMap { run in
      let tail = tail(of: run)
      return QueueEntry(run, tail.request, tail.state)
    }
  }

  private mutating func tail(of run: RunDirectory) -> Tail {
    var tail = tails.removeValue(forKey: run) ?? Tail()
    var status = stat()
    let size = stat(run.eventsPath, &status) == 0 ? Int64(status.st_size) : 0
    if !tail.state.isEnded || tail.size != size {
      var follower = tail.follower ?? RunFollower(run)
      tail.state = follower.poll().state
      // The curves of an ended run may be long.
      tail.follower = tail.state.isEnded ? nil : follower
      tail.size = size
      tail.request = try? run.request()
    }
    tails[run] = tail
    return tail
  }
}

/// Starts the waiting runs of a run root one after the other.
///
/// Of several processes that try, the kernel's lock on `.runner.lock` in the root lets one through.
package final class QueueRunner {
  private let launcher: RunLauncher
  private let jobs: Int
  private let interval: useconds_t
  private var states: RunStates
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
    states = RunStates(root: launcher.root)
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
      && WaitingRun.list(states.look()).contains(where: isStartable)
    unlink(Self.stopPath(root))
    if let first = refused.min(by: { $0.key < $1.key }) { throw first.value }
    return true
  }

  /// Whether a waiting run will begin by itself.
  private func isStartable(_ run: WaitingRun) -> Bool { !run.isBlocked && refused[run.id] == nil }

  private func work(_ isStopping: () -> Bool, _ report: (String) -> Void) {
    while true {
      collect(report)
      let runs = states.look()
      let waiting = WaitingRun.list(runs).filter(isStartable)
      let busy = runs.count { $0.isTraining && $0.state != .queued && !$0.state.isEnded }
      let next = waiting.first { $0.obstacle == nil }
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
      report("\(run.id): \(run.status().state.name)")
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
