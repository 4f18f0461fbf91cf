import Files
import Foundation

/// Request to a running worker.
package enum Control: String, Codable, CaseIterable, Sendable {
  /// Pause after the current step.
  case pause
  /// Resume.
  case resume
  /// Write a checkpoint and stop.
  case cancel
  /// The worker is being killed.
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

/// Control of a run: pause, resume, cancel, kill, and the end of a run.
extension RunDirectory {
  /// Requests the worker to pause after its step.
  ///
  /// - Throws: `FileError` when the run has no living worker or belongs to another user.
  package func pause() throws {
    _ = try requireWorker()
    try append(Control.pause)
  }

  /// Stops the process of the worker (SIGSTOP), and waits until it is stopped.
  ///
  /// - Throws: `FileError` when the run has no living worker that can be signalled from here.
  package func freeze() throws {
    let worker = try requireWorker()
    if let link = try openLink() {
      throw FileError(
        "\(path): its engine runs at \(link.host), where no process is stopped from here; pause it"
          + " after its step instead")
    }
    try signal(worker, SIGSTOP)
    while worker.presence == .running { usleep(2_000) }
  }

  /// Resumes a paused or frozen worker.
  ///
  /// - Throws: `FileError` when the run has no living worker or belongs to another user.
  package func goOn() throws {
    let worker = try requireWorker()
    // A frozen worker must be continued to read it; on another host that must happen there.
    if worker.isHere { try signal(worker, SIGCONT) }
    try append(Control.resume)
  }

  /// Result of a cancellation.
  package enum Cancellation: String, Sendable {
    /// The run was removed from the queue.
    case withdrawn
    /// The worker was requested to save a checkpoint and stop.
    case asked
    /// The worker was killed.
    case killed
  }

  /// Requests the worker to save a checkpoint and stop, or removes the run from the queue.
  ///
  /// - Returns: The action taken.
  /// - Throws: `FileError` when the run has ended or belongs to another user.
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
    try requireAttached()
    // A process that is starting a worker holds the lock, and the worker will read the request.
    try append(Control.cancel)
    // A worker that is or may become frozen must be continued to read it.
    if let worker = worker(), worker.isAlive { try signal(worker, SIGCONT) }
    return .asked
  }

  /// Requests the worker to stop, and kills it if it was requested before.
  ///
  /// - Returns: The action taken; a killed worker has ended.
  /// - Throws: `FileError` when the run has ended, belongs to another user, or its worker cannot be
  ///   signalled from here.
  @discardableResult
  package func cancel(hard: Bool = false) throws -> Cancellation {
    let isUnderWay = try requireUnfinished() != .queued
    if hard, summary().state == .detached { return try giveUp() }
    guard isUnderWay, hard || hasRequest(.cancel), let worker = worker() else {
      return try requestCancellation()
    }
    if try openLink() != nil {
      // The other end kills the engine.
      try requireAttached()
      try append(Control.kill)
      return .asked
    }
    try require(worker)
    // The request makes the state of the run cancelled instead of lost. A full disk must not
    // prevent killing.
    try? append(Control.kill)
    try worker.kill()
    try settle(isKilled: true)
    return .killed
  }

  /// Ends a run whose engine is elsewhere here, whatever becomes of it there.
  private func giveUp() throws -> Cancellation {
    let isDone: Void? = try withLock {
      guard var link = try openLink() else { return }
      (link.state, link.isSevered) = (.closed, true)
      try write(link)
      guard summary().end == nil else { return }
      let text = "given up at step \(summary().step); it may go on at \(link.host) in \(link.place)"
      try append(Event(.finished(outcome: .cancelled, text: text)))
    }
    guard isDone != nil else { throw busy }
    performHook(outcome: RunOutcome.cancelled.rawValue)
    return .killed
  }

  /// Whether the current worker has received a request.
  package func hasRequest(_ control: Control) -> Bool {
    var offset: UInt64 = 0
    return readControls(after: &offset).contains(control)
  }

  /// Removes requests to an earlier worker.
  func dropRequests() throws {
    try AtomicFile.write(Data(), to: controlPath, followingLinks: false)
  }

  /// State of the run; throws if it has ended.
  private func requireUnfinished() throws -> RunState {
    try requireOwn()
    let state = summary().state
    guard !state.isEnded else {
      throw FileError(
        "\(path): is \(state.name), expected a running one; 'espalier runs' lists them")
    }
    return state
  }

  /// Worker of the run; throws if it has ended or belongs to another user.
  private func requireWorker() throws -> ProcessIdentity {
    let state = try requireUnfinished()
    try requireAttached()
    guard let worker = worker() else {
      let isWaiting = state == .queued && (try? request())?.queue != nil
      throw FileError(
        isWaiting
          ? "\(path): waits in the queue and has no worker yet; 'espalier runs cancel \(id)' takes it"
            + " out, 'espalier runs priority \(id) -- -1' lets others go first"
          : "\(path): has no worker yet; see \(logPath)")
    }
    return worker
  }

  /// Throws if the engine is elsewhere and no worker here passes requests on.
  private func requireAttached() throws {
    guard summary().state == .detached else { return }
    throw FileError(
      "\(path): is detached, so no request reaches its engine; 'espalier runs resume \(id)' follows it"
        + " again")
  }

  /// Sends a signal to the worker.
  private func signal(_ worker: ProcessIdentity, _ number: Int32) throws {
    try require(worker)
    try worker.signal(number)
  }

  /// Throws if the process works on another directory of the same name.
  private func require(_ worker: ProcessIdentity) throws {
    var (named, own) = (stat(), stat())
    guard
      !worker.isHere
        || worker.command.last.map({ stat($0, &named) }) == 0 && stat(path, &own) == 0
          && named.st_dev == own.st_dev && named.st_ino == own.st_ino
    else {
      throw FileError(
        "\(workerPath): names a process that works on another directory; steer that one instead")
    }
  }

  // MARK: - The end

  /// Writes the final event of the run and runs its hook.
  ///
  /// - Throws: `FileError` when the event cannot be written; the hook is run nevertheless.
  package func finish(_ outcome: RunOutcome, _ text: String) throws {
    defer { performHook(outcome: outcome.rawValue) }
    try append(Event(.finished(outcome: outcome, text: text)))
  }

  /// Writes the final event of a run whose worker ended without one, and runs its hook; does
  /// nothing if another process has done so or works on the run.
  ///
  /// - Throws: `FileError` when the event cannot be written.
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

  /// Runs the hook command of the run, if any, and logs its result.
  ///
  /// The environment has `ESPALIER_RUN`, the run directory, and `ESPALIER_OUTCOME`; output goes to
  /// the log of the run.
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
    // The log of a linked run is written at the other end.
    if !hasOpenLink {
      try? append(Event(.message("the command for the run's end has ended: \(text)")))
    }
  }

  /// Text for a worker that ended before its first event, with its last line of output.
  private var gaveUp: String {
    let last = logTail().split(separator: "\n").last.map(String.init) ?? "no reason given"
    return "\(path): the worker gave up (\(last)); see \(logPath)"
  }
}
