import Files
import Foundation

/// What a person can ask of a running worker.
package enum Control: String, Codable, CaseIterable, Sendable {
  /// Wait after the current step.
  case pause
  /// Go on.
  case resume
  /// Write a checkpoint and stop.
  case cancel
  /// The worker is being killed: it did not have to stop by itself.
  case kill
}

/// One line of a run's `control.jsonl`: `{"request":"pause","t":…,"v":1}`.
struct ControlRecord: Codable {
  static let formatVersion = 1

  var version: Int
  var time: Double
  var request: Control

  init(_ request: Control) {
    self.version = Self.formatVersion
    self.time = Date().timeIntervalSince1970
    self.request = request
  }

  private enum CodingKeys: String, CodingKey {
    case version = "v"
    case time = "t"
    case request
  }
}

/// Steering a run: pause, resume, cancel, kill, and what its end brings about.
extension RunDirectory {
  /// Asks the worker to wait after its step.
  ///
  /// - Throws: `RunError` when the run has no living worker or belongs to another user.
  package func pause() throws {
    _ = try requireWorker()
    try append(Control.pause)
  }

  /// Stops the worker's process where it stands (SIGSTOP), and waits until it does.
  ///
  /// - Throws: `RunError` when the run has no living worker that can be signalled from here.
  package func freeze() throws {
    let worker = try requireWorker()
    try signal(worker, SIGSTOP)
    while worker.presence == .running { usleep(2_000) }
  }

  /// Lets a paused or frozen worker go on.
  ///
  /// - Throws: `RunError` when the run has no living worker or belongs to another user.
  package func goOn() throws {
    let worker = try requireWorker()
    // One that is frozen must wake up to hear it; one of another host must be woken up there.
    if worker.isHere { try signal(worker, SIGCONT) }
    try append(Control.resume)
  }

  /// What asking for a run's end has led to.
  package enum Cancellation: String, Sendable {
    /// It waited in the queue, and does so no longer.
    case withdrawn
    /// Its worker was asked to save a checkpoint and stop.
    case asked
    /// Its worker was killed.
    case killed
  }

  /// Asks the run's worker to save a checkpoint and stop, or takes the run out of the queue.
  ///
  /// - Returns: Which of them was done.
  /// - Throws: `RunError` when the run has ended or belongs to another user.
  @discardableResult
  package func requestCancellation() throws -> Cancellation {
    let isWithdrawn =
      try requireUnfinished() == .queued
      && withLock {
        guard summary().state == .queued else { return false }
        try append(Event(.finished(outcome: .cancelled, text: "cancelled before it began")))
        return true
      } == true
    if isWithdrawn {
      performHook(outcome: RunOutcome.cancelled.rawValue)
      return .withdrawn
    }
    // Whoever starts a worker just now holds the lock, and the worker hears the request.
    try append(Control.cancel)
    // One that is frozen, or just about to be, must wake up to hear it.
    if let worker = worker(), worker.isAlive { try signal(worker, SIGCONT) }
    return .asked
  }

  /// Asks the run's worker to stop, and kills it when it was asked before.
  ///
  /// - Parameter hard: Whether to kill it at once.
  /// - Returns: What has been done; a worker that was killed is gone.
  /// - Throws: `RunError` when the run has ended, belongs to another user, or its worker cannot be
  ///   signalled from here.
  @discardableResult
  package func cancel(hard: Bool = false) throws -> Cancellation {
    let isUnderWay = try requireUnfinished() != .queued
    guard isUnderWay, hard || hasRequest(.cancel), let worker = worker() else {
      return try requestCancellation()
    }
    try require(worker)
    // Whoever finds the worker dead takes the run for cancelled, not for lost. A disk without room for
    // the request keeps nobody from killing.
    try? append(Control.kill)
    try worker.kill()
    try settle(isKilled: true)
    return .killed
  }

  /// Whether the present worker was asked for something.
  package func hasRequest(_ control: Control) -> Bool {
    var offset: UInt64 = 0
    return readControls(after: &offset).contains(control)
  }

  /// Forgets what was asked of an earlier worker.
  func dropRequests() throws {
    try AtomicFile.write(Data(), to: controlPath, followingLinks: false)
  }

  /// The state of a run that has not ended.
  private func requireUnfinished() throws -> RunState {
    try requireOwn()
    let state = summary().state
    guard !state.isEnded else {
      throw RunError(
        "\(path): is \(state.name), expected a running one; 'espalier runs' lists them")
    }
    return state
  }

  /// The living worker of a run of this user.
  private func requireWorker() throws -> ProcessIdentity {
    let state = try requireUnfinished()
    guard let worker = worker() else {
      let isWaiting = state == .queued && (try? request())?.queue != nil
      throw RunError(
        isWaiting
          ? "\(path): waits in the queue and has no worker yet; 'espalier runs cancel \(id)' takes it"
            + " out, 'espalier runs priority \(id) -- -1' lets others go first"
          : "\(path): has no worker yet; see \(logPath)")
    }
    return worker
  }

  /// Sends a signal to the run's worker.
  private func signal(_ worker: ProcessIdentity, _ number: Int32) throws {
    try require(worker)
    try worker.signal(number)
  }

  /// Refuses a process that works on another directory of the same name.
  private func require(_ worker: ProcessIdentity) throws {
    var (named, own) = (stat(), stat())
    guard
      !worker.isHere
        || worker.command.last.map({ stat($0, &named) }) == 0 && stat(path, &own) == 0
          && named.st_dev == own.st_dev && named.st_ino == own.st_ino
    else {
      throw RunError(
        "\(workerPath): names a process that works on another directory; steer that one instead")
    }
  }

  // MARK: - The end

  /// Writes the run's last event and performs its hook.
  ///
  /// - Throws: `RunError` when the event cannot be written; the hook is performed all the same.
  package func finish(_ outcome: RunOutcome, _ text: String) throws {
    defer { performHook(outcome: outcome.rawValue) }
    try append(Event(.finished(outcome: outcome, text: text)))
  }

  /// Gives a run whose worker has ended without a last word its end, and performs its hook; nothing if
  /// somebody else has done so or works on the run.
  ///
  /// - Throws: `RunError` when the event cannot be written.
  func settle(isKilled: Bool = false) throws {
    let outcome = try withLock { () -> String? in
      let summary = summary()
      guard summary.end == nil else { return nil }
      if isKilled || hasRequest(.kill) {
        let kept = summary.checkpoint.map { "its last checkpoint is of step \($0.step)" }
        let text = "killed at step \(summary.step); \(kept ?? "there is no checkpoint yet")"
        try append(Event(.finished(outcome: .cancelled, text: text)))
        return RunOutcome.cancelled.rawValue
      }
      guard !summary.isStarted else { return RunState.lost.name }
      try append(Event(.finished(outcome: .failed, text: gaveUp)))
      return RunOutcome.failed.rawValue
    }
    if case let outcome?? = outcome { performHook(outcome: outcome) }
  }

  /// Runs the command that the run was made with, if any, and notes how it ended.
  ///
  /// The command gets `ESPALIER_RUN`, the run's directory, and `ESPALIER_OUTCOME`, and prints to the
  /// run's log.
  ///
  /// - Parameter outcome: `done`, `cancelled`, `failed` or `lost`.
  package func performHook(outcome: String) {
    defer { unlink(environmentPath) }
    guard let command = (try? request())?.onDone else { return }
    var text: String
    do {
      let settings = ["ESPALIER_RUN": path, "ESPALIER_OUTCOME": outcome]
      let pid = try DetachedProcess.start(
        "/bin/sh", ["-c", command], environment: try environment().merging(settings) { $1 },
        log: logPath)
      var status: Int32 = 0
      while waitpid(pid, &status, 0) < 0, errno == EINTR {}
      let signal = status & 0x7f
      text = signal == 0 ? "exit code \((status >> 8) & 0xff)" : "signal \(signal)"
    } catch {
      text = "\(error)"
    }
    try? append(Event(.message("the command for the run's end has ended: \(text)")))
  }

  /// Says that a worker ended before its first event, with the last thing that it printed.
  private var gaveUp: String {
    let last = logTail().split(separator: "\n").last.map(String.init) ?? "no reason given"
    return "\(path): the worker gave up (\(last)); see \(logPath)"
  }
}
