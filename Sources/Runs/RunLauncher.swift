import Files
import Foundation
import Plans

/// Creates runs and starts their workers and the queue runner.
package final class RunLauncher {
  /// The directory of all runs.
  package let root: String
  private let executable: String
  /// Child processes not yet reaped; the queue runner has no run.
  package private(set) var children: [(pid: Int32, run: RunDirectory?)] = []

  /// Throws why a job cannot be done, before its run exists.
  private let requirements: (JobRequest, GraftPlan?) throws -> Void

  /// Makes a launcher.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - executable: The program to start; nil selects the current program.
  ///   - requirements: Throws why a job cannot be done.
  /// - Throws: `FileError` when the path of the current program is unknown.
  package init(
    root: String, executable: String? = nil,
    requirements: @escaping (JobRequest, GraftPlan?) throws -> Void = { _, _ in }
  ) throws {
    (self.root, self.requirements) = (root, requirements)
    self.executable = try executable ?? Self.currentExecutable()
  }

  /// Creates a run and starts its worker or, for a queued run, a queue runner if none is active.
  ///
  /// - Returns: The new run.
  /// - Throws: As `RunDirectory.create` does, why the job cannot be done, and `FileError` when the program cannot
  ///   be started; no run is created then.
  package func launch(_ request: JobRequest, plan: GraftPlan? = nil) throws -> RunDirectory {
    try require(request, plan: plan)
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

  /// Throws why a job cannot be done.
  func require(_ request: JobRequest, plan: GraftPlan?) throws {
    try RunDirectory.require(request, plan)
    try requirements(request, plan)
  }

  /// Starts the worker of a waiting run.
  ///
  /// - Returns: Whether it was started; false if the run is no longer waiting or locked by another
  ///   process.
  /// - Throws: `FileError` when it cannot be started or belongs to another user.
  func begin(_ run: RunDirectory) throws -> Bool {
    guard let lock = try run.lock() else { return false }
    guard run.summary().state == .queued else { return false }
    try start(run, lock)
    return true
  }

  /// Starts a new worker of a run that ended unsuccessfully.
  ///
  /// - Parameters:
  ///   - run: The run.
  ///   - change: Change of the learning rates of its plan; nil for none.
  ///   - step: Step of the kept checkpoint to resume from; nil selects the latest.
  ///   - engine: Engine from now on; nil keeps it.
  /// - Throws: `FileError` when the run is active or done, has no rate or no such checkpoint, or
  ///   belongs to another user; `PlanError` for an invalid rate; `FileError` when the disk fails.
  package func retry(
    _ run: RunDirectory, _ change: RateChange? = nil, step: Int? = nil,
    engine: EngineChange? = nil
  ) throws {
    guard let lock = try run.lockForWorker() else {
      try run.requireUnsuccessful()
      throw run.busy
    }
    if try mustWait(run) {
      try run.prepareRetry(change, step: step, engine: engine, isWaiting: true)
      try run.append(Event(.resumed(step: 0)))
      try wakeQueue()
      return
    }
    try run.prepareRetry(change, step: step, engine: engine)
    try start(run, lock)
    // Marks the run as active, also for queued runs that depend on it. Of a linked one the other end
    // says so.
    if try run.openLink() == nil {
      try run.append(Event(.resumed(step: run.summary().checkpoint?.step ?? 0)))
    }
    try wakeQueue()
  }

  /// Whether a run that never began comes after one that is not done.
  private func mustWait(_ run: RunDirectory) throws -> Bool {
    guard run.worker() == nil, let before = try run.request().queue?.after, !before.isEmpty else {
      return false
    }
    var store = RunStore(root: root)
    store.look()
    return before.contains { store.summary($0)?.state != .done }
  }

  /// Starts `espalier runs drain` in the background if a waiting run can start and no queue runner
  /// is active.
  ///
  /// - Returns: The process ID; nil if none was started.
  /// - Throws: `FileError` when the program cannot be started.
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

  /// Whether a waiting run can start without intervention.
  private var hasTurns: Bool {
    var store = RunStore(root: root)
    store.look()
    return store.waiting.contains { $0.turn?.isBlocked == false }
  }

  /// Reaps child processes that have ended, without blocking.
  ///
  /// - Returns: The runs of the workers among them.
  package func collect() -> [RunDirectory] {
    var ended: [RunDirectory] = []
    children.removeAll { child in
      guard waitpid(child.pid, nil, WNOHANG) != 0 else { return false }
      if let run = child.run { ended.append(run) }
      return true
    }
    return ended
  }

  /// Starts `executable worker RUN_DIR` with output to the run's log and the inherited lock.
  ///
  /// - Throws: `FileError` when it cannot be started or, so that no run seems to wait for ever, not be recorded.
  func start(_ run: RunDirectory, _ lock: FileLock) throws {
    if run.worker() != nil { try run.dropRequests() }
    let words = ["worker", run.path]
    let pid = try withExtendedLifetime(lock) {
      try DetachedProcess.start(
        executable, words, environment: try run.environment(), log: run.logPath,
        inherited: lock.descriptor)
    }
    // The worker records itself too; recorded here, it is known even if it dies immediately.
    do {
      if let identity = ProcessIdentity(child: pid, startedAs: [executable] + words) {
        try run.record(identity)
      }
    } catch {
      kill(pid, SIGKILL)
      waitpid(pid, nil, 0)
      throw error
    }
    children.append((pid, run))
  }

  /// Path of the current program.
  private static func currentExecutable() throws -> String {
    guard
      let path = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
    else {
      throw FileError("/proc/self/exe: cannot be read, which starting workers needs; mount /proc")
    }
    return path
  }
}

extension RunDirectory {
  /// Creates a run in `root`, which is created if it is missing, without starting a worker.
  ///
  /// The directory is created atomically with its request, its plan and an empty event log.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - job: The request.
  ///   - name: Display name of the run; nil selects that of `job`.
  ///   - plan: The plan of a training, saved as `planPath`.
  /// - Returns: The new run.
  /// - Throws: `FileError` when the disk is full or read-only, `PlanError` for an invalid plan,
  ///   `FileError` for missing training data.
  package static func create(
    root: String, job: JobRequest, name: String? = nil, plan: GraftPlan? = nil
  ) throws -> RunDirectory {
    var request = job
    if let name { request.name = name }
    try require(request, plan)
    return try make(root: root, job: request, plan: plan).run
  }

  /// Creates a run that is locked from the start.
  fileprivate static func make(
    root: String, job request: JobRequest, plan: GraftPlan?
  ) throws -> (run: RunDirectory, lock: FileLock) {
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
        throw FileError(
          "\(run.path): cannot be made (\(String(cString: strerror(errno)))); try again")
      }
      return (run, lock)
    } catch {
      try? FileManager.default.removeItem(atPath: draft.path)
      throw error
    }
  }

  /// Throws for a training without data or loss.
  fileprivate static func require(_ request: JobRequest, _ plan: GraftPlan?) throws {
    // The data of a queued run may exist when it starts.
    if request.job.kind.isTraining, request.queue == nil, let missing = plan?.data?.missingPath {
      throw FileError(
        "\(missing): no such file or folder, though the plan trains on it; set another by"
          + " 'espalier plan set PLAN --data PATH', or --data shapes for the procedural images")
    }
    if case .finetune = request.job { try plan?.requireFinetunable() }
  }

  /// Unique name that sorts by time.
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
