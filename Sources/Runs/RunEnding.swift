import Foundation

extension RunDirectory {
  /// Writes the run's last event and performs its hook.
  ///
  /// - Throws: `RunError` when the event cannot be written; the hook is performed all the same.
  package func finish(_ outcome: RunOutcome, _ text: String) throws {
    defer { performHook(outcome: outcome.rawValue) }
    try append(Event(.finished(outcome: outcome, text: text)))
  }

  /// Runs the command that the run was made with, if any, and notes how it ended.
  ///
  /// The command gets `ESPALIER_RUN`, the run's directory, and `ESPALIER_OUTCOME`, and prints to the
  /// run's log.
  ///
  /// - Parameter outcome: `done`, `cancelled`, `failed` or `lost`.
  package func performHook(outcome: String) {
    guard let command = (try? request())?.onDone else { return }
    var text: String
    do {
      let pid = try WorkerLauncher.spawn(
        "/bin/sh", ["-c", command],
        settings: ["ESPALIER_RUN": path, "ESPALIER_OUTCOME": outcome], log: logPath)
      var status: Int32 = 0
      while waitpid(pid, &status, 0) < 0, errno == EINTR {}
      let signal = status & 0x7f
      text = signal == 0 ? "exit code \((status >> 8) & 0xff)" : "signal \(signal)"
    } catch {
      text = "\(error)"
    }
    try? append(Event(.message("the command for the run's end has ended: \(text)")))
  }

  /// Whether the run was cancelled in the queue, before any worker began.
  package var isWithdrawn: Bool {
    guard (try? request())?.queue != nil else { return false }
    let summary = summary()
    return !summary.isStarted && summary.end != nil
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

  /// Asks the run's worker to stop, and kills it when it was asked before.
  ///
  /// - Parameter hard: Whether to kill it at once.
  /// - Returns: What has been done.
  /// - Throws: `RunError` when the run has ended or the worker cannot be reached.
  @discardableResult
  package func cancel(hard: Bool = false) throws -> Cancellation {
    let status = summary()
    guard !status.state.isEnded else {
      throw RunError(
        "\(path): is \(status.state.name), expected a running one; 'espalier runs' lists them")
    }
    guard let worker = worker() else {
      // A worker that is being started right now obeys the request.
      try append(Control.cancel)
      try finish(.cancelled, "cancelled before it began")
      return .withdrawn
    }
    guard hard || isCancelRequested(since: status.startedAt) else {
      try append(Control.cancel)
      // One that is frozen, or just about to be, must wake up to hear it.
      if worker.isAlive { try worker.signal(SIGCONT) }
      return .asked
    }
    // First the event, so that the run is never taken for lost.
    let kept = status.checkpoint.map { "its last checkpoint is of step \($0.step)" }
    let text = "killed at step \(status.step); \(kept ?? "there is no checkpoint yet")"
    try append(Event(.finished(outcome: .cancelled, text: text)))
    if worker.isAlive { try worker.signal(SIGKILL) }
    while worker.isAlive { usleep(2_000) }
    performHook(outcome: RunOutcome.cancelled.rawValue)
    return .killed
  }

  /// Whether the run's present worker, begun at some time, was asked to stop.
  package func isCancelRequested(since start: Double?) -> Bool {
    var offset: UInt64 = 0
    return readControlRecords(after: &offset)
      .contains { $0.request == .cancel && $0.time >= start ?? 0 }
  }
}
