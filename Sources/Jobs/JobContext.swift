import Dispatch
import Foundation
import Runs
import Synchronization

/// Why a job ended before its last step.
package enum JobInterruption: Error {
  /// A cancel request or a termination signal.
  case cancelled
}

/// A worker's connection to its run directory: events out, requests in.
package final class JobContext: Sendable {
  package let run: RunDirectory
  private let state = Mutex(Progress())
  /// The same events for TensorBoard, of a training.
  private let tensorBoard: TensorBoardLog?

  private struct Progress {
    var step = 0
    var controlOffset: UInt64 = 0
    var isCancelled = false
    var isPaused = false
  }

  /// Opens the context; a run that was started before skips the requests made for its last worker.
  package init(run: RunDirectory) {
    self.run = run
    tensorBoard = (try? run.request())?.job.isTraining == true ? TensorBoardLog(run: run) : nil
    var (events, controls): (UInt64, UInt64) = (0, 0)
    let wasStarted = run.readEvents(after: &events).contains {
      if case .started = $0.kind { true } else { false }
    }
    guard wasStarted else { return }
    _ = run.readControls(after: &controls)
    let start = controls
    state.withLock { $0.controlOffset = start }
  }

  /// Appends an event to the log and, where it has something to plot, to the one for TensorBoard.
  ///
  /// - Throws: `RunError` if it cannot be written.
  package func emit(_ kind: EventKind) throws {
    let event = Event(kind)
    try tensorBoard?.add(event)
    try run.append(event)
  }

  /// Asks the job to stop at its next step, as a signal does.
  package func cancel() { state.withLock { $0.isCancelled = true } }

  /// To be called between steps: notes the step, waits while paused.
  ///
  /// - Throws: `JobInterruption.cancelled` after a cancel request.
  package func checkpoint(step: Int) throws {
    let wasPaused = poll(step: step)
    if wasPaused.cancelled { throw JobInterruption.cancelled }
    guard wasPaused.paused else { return }
    try emit(.paused(step: step))
    while true {
      Thread.sleep(forTimeInterval: 0.05)
      let now = poll(step: step)
      if now.cancelled { throw JobInterruption.cancelled }
      if !now.paused { break }
    }
    try emit(.resumed(step: step))
  }

  private func poll(step: Int) -> (paused: Bool, cancelled: Bool) {
    state.withLock { state in
      state.step = step
      for control in run.readControls(after: &state.controlOffset) {
        switch control {
        case .pause: state.isPaused = true
        case .resume: state.isPaused = false
        case .cancel: state.isCancelled = true
        }
      }
      return (state.isPaused, state.isCancelled)
    }
  }

  /// The step that the job last reported.
  var step: Int { state.withLock { $0.step } }
}

/// Reports progress at most a few times a second.
struct Throttle {
  private var last = Date.distantPast
  private let interval: TimeInterval

  init(interval: TimeInterval = 0.2) { self.interval = interval }

  /// Whether it is time again.
  mutating func isDue() -> Bool {
    let now = Date()
    guard now.timeIntervalSince(last) >= interval else { return false }
    last = now
    return true
  }
}
