import Files
import Foundation

/// Starts the waiting runs of a run root one after the other.
///
/// Of several processes that try, the kernel's lock on `.runner.lock` in the root lets one through.
package final class QueueRunner {
  private let root, executable: String
  private let jobs: Int
  private let interval: useconds_t
  private var store: RunStore
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
    store = RunStore(root: root)
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
  private var hasTurns: Bool {
    store.look()
    return store.waiting.contains { $0.turn?.isBlocked == false }
  }

  private func work(_ isStopping: () -> Bool, _ report: (String) -> Void) throws {
    while true {
      collect(report)
      store.look()
      let waiting = store.waiting
      let busy = store.summaries.count { $0.isTraining && $0.state != .queued && !$0.state.isEnded }
      let next = waiting.first { $0.turn?.obstacle == nil }
      if isStopping() || next == nil {
        if workers.isEmpty && (isStopping() || waiting.allSatisfy { $0.turn?.isBlocked == true }) {
          return
        }
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
      let summary = run.summary()
      if !summary.isStarted && summary.end == nil {
        try? run.finish(.failed, run.gaveUp)
      } else if summary.state == .lost {
        run.performHook(outcome: summary.state.name)
      }
      report("\(run.id): \(run.summary().state.name)")
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
    var store = RunStore(root: root)
    store.look()
    guard store.waiting.contains(where: { $0.turn?.isBlocked == false }) else { return nil }
    return try WorkerLauncher.spawn(
      executable, ["runs", "drain", "--runs", root, "--jobs", "\(jobs)"],
      log: "\(root)/.runner.log")
  }
}
