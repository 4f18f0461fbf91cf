import Files
import Foundation
import Plans

/// Makes runs, and starts what works on them: their workers, and the runner of the queue.
package final class RunLauncher {
  /// The directory of all runs.
  package let root: String
  private let executable: String
  /// Processes that were started from here and not yet collected; the runner of the queue has no run.
  package private(set) var children: [(pid: Int32, run: RunDirectory?)] = []

  /// Makes a launcher.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - executable: The program that is started; nil for the one that runs now.
  /// - Throws: `RunError` when the system does not tell which program that is.
  package init(root: String, executable: String? = nil) throws {
    self.root = root
    self.executable = try executable ?? Self.currentExecutable()
  }

  /// Makes a run and starts its worker or, if it has a place in the queue, sees to it that a runner works
  /// on that.
  ///
  /// - Returns: The new run.
  /// - Throws: As `RunDirectory.create` does, and `RunError` when the program cannot be started; there is
  ///   no new run then.
  package func launch(_ request: JobRequest, plan: GraftPlan? = nil) throws -> RunDirectory {
    let (run, lock) = try RunDirectory.make(root: root, job: request, plan: plan)
    do {
      if request.queue == nil { try start(run, lock) }
    } catch {
      withExtendedLifetime(lock) { try? FileManager.default.removeItem(atPath: run.path) }
      throw error
    }
    if request.queue != nil { try wakeQueue() }
    return run
  }

  /// Starts the worker of a run that has waited for its turn.
  ///
  /// - Returns: Whether it was started; not if the run waits no longer or another process is at it.
  /// - Throws: `RunError` when it cannot be started or belongs to another user.
  func begin(_ run: RunDirectory) throws -> Bool {
    guard let lock = try run.lock() else { return false }
    guard run.summary().state == .queued else { return false }
    try start(run, lock)
    return true
  }

  /// Starts another worker of a run that has ended, though not well.
  ///
  /// - Parameters:
  ///   - run: The run.
  ///   - change: How the rates of its plan change, which its checkpoint accepts; nil leaves them.
  ///   - step: Which of the checkpoints that are kept it goes on from; nil is the latest.
  /// - Throws: `RunError` when the run goes on, is done, has no rate or no such checkpoint, or belongs to
  ///   another user; `PlanError` for an impossible rate; `FileError` when the disk fails.
  package func retry(
    _ run: RunDirectory, _ change: RateChange? = nil, step: Int? = nil
  ) throws {
    guard let lock = try run.lock() else {
      try run.requireUnsuccessful()
      throw run.busy
    }
    try run.prepareRetry(change, step: step)
    try start(run, lock)
    // From now on it is a run that goes on, also for those of the queue that wait for it.
    try run.append(Event(.resumed(step: run.summary().checkpoint?.step ?? 0)))
    try wakeQueue()
  }

  /// Starts `espalier runs drain` in the background if something waits that can begin and no runner is at
  /// work.
  ///
  /// - Returns: The process number; nil where none was needed.
  /// - Throws: `RunError` when the program cannot be started.
  @discardableResult
  package func wakeQueue(jobs: Int = 1) throws -> Int32? {
    guard !QueueRunner.isAtWork(root: root),
      hasTurns
    else { return nil }
    let pid = try DetachedProcess.start(
      executable, ["runs", "drain", "--runs", root, "--jobs", "\(jobs)"],
      environment: ProcessInfo.processInfo.environment, log: "\(root)/.runner.log")
    children.append((pid, nil))
    return pid
  }

  /// Whether a run waits that will begin by itself.
  private var hasTurns: Bool {
    var store = RunStore(root: root)
    store.look()
    return store.waiting.contains { $0.turn?.isBlocked == false }
  }

  /// Collects processes that have ended since the last call, so that they do not stay behind as zombies;
  /// never waits.
  ///
  /// - Returns: The runs whose workers they were.
  package func collect() -> [RunDirectory] {
    var ended: [RunDirectory] = []
    children.removeAll { child in
      guard waitpid(child.pid, nil, WNOHANG) != 0 else { return false }
      if let run = child.run { ended.append(run) }
      return true
    }
    return ended
  }

  /// Starts `executable worker RUN_DIR`, which prints to the run's log and inherits its lock.
  private func start(_ run: RunDirectory, _ lock: FileLock) throws {
    if run.worker() != nil { try run.dropRequests() }
    let words = ["worker", run.path]
    let pid = try withExtendedLifetime(lock) {
      try DetachedProcess.start(
        executable, words, environment: try run.environment(), log: run.logPath,
        inherited: lock.descriptor)
    }
    children.append((pid, run))
    // The worker notes itself too; noted here, it is known even if it dies at once.
    if let identity = ProcessIdentity(child: pid, startedAs: [executable] + words) {
      try? run.record(identity)
    }
  }

  /// The file of the program that runs now.
  private static func currentExecutable() throws -> String {
    guard
      let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    else {
      throw RunError("/proc/self/exe: cannot be read, which starting workers needs; mount /proc")
    }
    return path
  }
}

extension RunDirectory {
  /// Makes a new run under `root`, which is made too if it is missing, and leaves it as it is.
  ///
  /// The directory appears with its request, its plan and an empty event log, or not at all.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - job: What the worker shall do.
  ///   - name: The run's name for people, if not the one in `job`.
  ///   - plan: The plan of a distillation, saved as `planPath`.
  /// - Returns: The new run.
  /// - Throws: `FileError` when the disk is full or read-only, `PlanError` for an invalid plan,
  ///   `RunError` for data to train on that are not there.
  package static func create(
    root: String, job: JobRequest, name: String? = nil, plan: GraftPlan? = nil
  ) throws -> RunDirectory {
    var request = job
    if let name { request.name = name }
    return try make(root: root, job: request, plan: plan).run
  }

  /// Makes a new run, which is locked from the beginning.
  fileprivate static func make(
    root: String, job request: JobRequest, plan: GraftPlan?
  ) throws -> (run: RunDirectory, lock: FileLock) {
    // One that waits in the queue may find them when its turn comes.
    if request.job.kind.isTraining, request.queue == nil, let missing = plan?.data?.missingPath {
      throw RunError(
        "\(missing): no such file or folder, though the plan trains on it; set another by"
          + " 'espalier plan set PLAN --data PATH', or --data shapes for the procedural images")
    }
    try AtomicFile.makeDirectory(root)
    let run = RunDirectory(path: "\(root)/\(newID(request))")
    let draft = RunDirectory(path: "\(root)/.\(run.id).tmp")
    do {
      try AtomicFile.makeDirectory(draft.path)
      guard let lock = try FileLock.take(draft.lockPath) else { throw run.busy }
      try AtomicFile.makeDirectory(draft.checkpointsPath)
      try AtomicFile.makeDirectory(draft.samplesPath)
      try plan?.save(to: draft.planPath)
      try draft.writeRequest(request)
      if request.queue != nil { try draft.keepEnvironment() }
      try AtomicFile.write(Data(), to: draft.eventsPath)
      try AtomicFile.write(Data(), to: draft.controlPath)
      guard rename(draft.path, run.path) == 0 else {
        throw RunError(
          "\(run.path): cannot be made (\(String(cString: strerror(errno)))); try again")
      }
      return (run, lock)
    } catch {
      try? FileManager.default.removeItem(atPath: draft.path)
      throw error
    }
  }

  /// A name that sorts by time and never repeats.
  private static func newID(_ request: JobRequest) -> String {
    var seconds = time_t(min(max(0, request.createdAt), FileNumber.times.upperBound))
    var parts = tm()
    gmtime_r(&seconds, &parts)
    let stamp = String(
      format: "%04d%02d%02d-%02d%02d%02d", Int(parts.tm_year) + 1900, parts.tm_mon + 1,
      parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec)
    let suffix = String(UInt32.random(in: .min ... .max), radix: 36)
    return "\(stamp)-\(request.job.kind.rawValue)-\(suffix)"
  }
}
