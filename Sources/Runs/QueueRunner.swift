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
  private let root, executable: String
  private let jobs: Int
  private let interval: useconds_t
  private var states: RunStates
  /// Workers of this runner.
  private var workers: [RunDirectory: Int32] = [:]

  /// Makes a runner that waits for nobody yet.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - executable: The program that is started as a worker.
  ///   - jobs: Trainings that may go on at once, those that were started directly included.
  ///   - interval: Microseconds between two looks.
  package init(root: String, executable: String, jobs: Int = 1, interval: useconds_t = 200_000) {
    (self.root, self.executable, self.jobs) = (root, executable, jobs)
    self.interval = interval
    states = RunStates(root: root)
  }

  /// Runs what waits until nothing is left that could begin; looks at the queue once more after giving
  /// the lock back, so that whoever saw it held was not deceived.
  ///
  /// - Parameters:
  ///   - isStopping: Whether to start nothing more and only wait for what runs.
  ///   - report: Called with a line about each run that begins or ends.
  /// - Returns: Whether this process got the lock; without it another one does the work.
  /// - Throws: `RunError` when the lock or a worker cannot be had.
  package func drain(
    isStopping: () -> Bool = { false }, report: (String) -> Void = { _ in }
  ) throws -> Bool {
    var hasRun = false
    repeat {
      guard let lock = try Self.lock(root) else { return hasRun }
      defer { close(lock) }
      hasRun = true
      try work(isStopping, report)
    } while !isStopping() && hasTurns
    return true
  }

  /// Whether something waits that will begin by itself.
  private var hasTurns: Bool { WaitingRun.list(states.look()).contains { !$0.isBlocked } }

  private func work(_ isStopping: () -> Bool, _ report: (String) -> Void) throws {
    while true {
      collect(report)
      let runs = states.look()
      let waiting = WaitingRun.list(runs)
      let busy = runs.count { $0.isTraining && $0.state != .queued && !$0.state.isEnded }
      let next = waiting.first { $0.obstacle == nil }
      if isStopping() || next == nil {
        if workers.isEmpty && (isStopping() || waiting.allSatisfy(\.isBlocked)) { return }
      } else if let next, busy < jobs {
        let run = try RunDirectory.open("\(root)/\(next.id)")
        workers[run] = try WorkerLauncher.start(executable: executable, run: run)
        report("\(run.id): begins")
        continue
      }
      usleep(interval)
    }
  }

  /// Takes in workers that have ended.
  private func collect(_ report: (String) -> Void) {
    for (run, pid) in workers where WorkerLauncher.reap(pid) {
      workers[run] = nil
      var follower = RunFollower(run)
      let state = follower.poll().state
      if !follower.history.isStarted && follower.history.end == nil {
        try? run.finish(.failed, run.gaveUp)
      } else if state == .lost {
        run.performHook(outcome: state.name)
      }
      report("\(run.id): \(run.status().state.name)")
    }
  }

  // MARK: - The lock

  private static func lockPath(_ root: String) -> String { "\(root)/.runner.lock" }
  private static func identityPath(_ root: String) -> String { "\(root)/.runner.json" }

  /// Takes the root's lock; nil while another process has it.
  private static func lock(_ root: String) throws -> Int32? {
    try AtomicFile.makeDirectory(root)
    let descriptor = open(lockPath(root), O_RDWR | O_CREAT | O_CLOEXEC, 0o666)
    guard descriptor >= 0 else {
      throw RunError(
        "\(lockPath(root)): cannot be opened (\(String(cString: strerror(errno)))); check the disk")
    }
    guard lockf(descriptor, F_TLOCK, 0) == 0 else {
      close(descriptor)
      return nil
    }
    let own = ProcessIdentity(pid: getpid())
    try AtomicFile.write(try JSONEncoder().encode(own), to: identityPath(root))
    return descriptor
  }

  /// The process that runs the queue now; nil when none does.
  package static func current(root: String) -> ProcessIdentity? {
    guard let bytes = try? AtomicFile.read(identityPath(root), limit: 1 << 16),
      let found = try? JSONDecoder().decode(ProcessIdentity.self, from: Data(bytes)),
      found.isAlive
    else { return nil }
    return found
  }

  /// Starts `espalier runs drain` in the background if something waits; it ends at once where another
  /// runner has the lock.
  ///
  /// - Returns: The process number, to be collected; nil when nothing waits.
  /// - Throws: `RunError` when the program cannot be started.
  @discardableResult
  package static func start(root: String, executable: String, jobs: Int = 1) throws -> Int32? {
    guard WaitingRun.list(root: root).contains(where: { !$0.isBlocked }) else { return nil }
    return try WorkerLauncher.spawn(
      executable, ["runs", "drain", "--runs", root, "--jobs", "\(jobs)"],
      log: "\(root)/.runner.log")
  }
}
