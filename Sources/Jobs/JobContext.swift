import Dispatch
import Files
import Foundation
import Runs
import Synchronization

/// Reason why a job stopped before its last step.
package enum JobInterruption: Error {
  /// A cancel request or a termination signal.
  case cancelled
  /// The time limit of the worker has passed.
  case timedOut
}

/// Connection of a worker to its run directory: writes events, reads requests.
package final class JobContext: Sendable {
  package let run: RunDirectory
  private let state = Mutex(Progress())
  /// TensorBoard log of a training.
  private let tensorBoard: TensorBoardLog?
  /// Seconds between attempts to write to a full disk.
  private let roomInterval: TimeInterval

  private struct Progress {
    var step = 0
    var controlOffset: UInt64 = 0
    var isCancelled = false
    var isPaused = false
    var lacksRoom = false
    /// Whether an event was written since the last heartbeat.
    var hasSpoken = false
    /// Whether writing TensorBoard files has been given up.
    var lacksTensorBoard = false
    var deadline: ContinuousClock.Instant?
    /// Whether the log is written elsewhere.
    var isMuted = false
  }

  /// Opens the context.
  package init(run: RunDirectory, roomInterval: TimeInterval = 3) {
    self.run = run
    tensorBoard = (try? run.request())?.job.kind.isTraining == true ? TensorBoardLog(run: run) : nil
    self.roomInterval = roomInterval
  }

  /// Appends an event to the log and, if it has values to plot, to the TensorBoard log; waits while
  /// the disk is full.
  ///
  /// TensorBoard files are optional: a failure is reported once and further writes are skipped.
  ///
  /// - Throws: `FileError` if it cannot be written, `JobInterruption` while waiting for space.
  package func emit(_ kind: EventKind) throws {
    let event = Event(kind)
    if !state.withLock({ $0.lacksTensorBoard }) {
      do {
        try whenRoom { try tensorBoard?.add(event) }
      } catch let interruption as JobInterruption {
        throw interruption
      } catch {
        state.withLock { $0.lacksTensorBoard = true }
        try append(Event(.message("no more event files for TensorBoard: \(error)")))
      }
    }
    try append(event)
  }

  private func append(_ event: Event) throws {
    try whenRoom { try run.append(event) }
    state.withLock { $0.hasSpoken = true }
  }

  /// Writes a heartbeat unless an event was written since the last one; writes none to a full disk,
  /// so that space remains for the final event.
  package func emitHeartbeat() {
    state.withLock { state in
      defer { state.hasSpoken = false }
      guard !state.isMuted else { return }
      if state.lacksRoom {
        // Needs no space, and shows other hosts that the worker is alive.
        utimes(run.eventsPath, nil)
      } else if !state.hasSpoken {
        try? run.append(Event(.heartbeat(step: state.step)))
      }
    }
  }

  /// Ends the heartbeat, because another process writes the log from now on.
  func mute() { state.withLock { $0.isMuted = true } }

  /// Whether the heartbeat has ended.
  var isMuted: Bool { state.withLock { $0.isMuted } }

  /// Gives TensorBoard the events after an offset that another process has written, and advances it.
  func plot(after offset: inout UInt64) {
    guard let tensorBoard, !state.withLock({ $0.lacksTensorBoard }) else { return }
    do {
      for event in run.readEvents(after: &offset) { try tensorBoard.add(event) }
    } catch {
      state.withLock { $0.lacksTensorBoard = true }
      print("no more event files for TensorBoard: \(error)")
    }
  }

  /// Requests the job to stop at its next step, as a signal does.
  package func cancel() { state.withLock { $0.isCancelled = true } }

  /// Whether the job was requested to stop by `cancel`.
  var isCancelled: Bool { state.withLock { $0.isCancelled } }

  /// Sets a time limit in seconds from now, after which the job stops at its next step.
  package func limit(to seconds: Double) {
    // About a century or more, and NaN, mean no limit.
    guard seconds < 3e9 else { return }
    state.withLock { $0.deadline = .now + .seconds(seconds) }
  }

  /// Calls `body`, which writes files; while the disk is full, pauses the run and retries.
  ///
  /// - Parameter body: May be called several times; a failed call must leave no changes.
  /// - Returns: The result of `body`.
  /// - Throws: Other errors of `body`, `JobInterruption` while waiting.
  package func whenRoom<Result>(_ body: () throws -> Result) throws -> Result {
    var isAnnounced = false
    while true {
      do {
        let result = try body()
        guard isAnnounced else { return result }
        state.withLock { $0.lacksRoom = false }
        run.reserveRoomForLastWords()
        try? run.append(Event(.resumed(step: step)))
        return result
      } catch let error where Self.isDiskFull(error) {
        state.withLock { $0.lacksRoom = true }
        run.releaseRoomForLastWords()
        if !isAnnounced {
          try? run.append(Event(.paused(step: step, reason: "disk full")))
          isAnnounced = true
        }
        let end = ContinuousClock.now + .seconds(roomInterval)
        repeat {
          if let interruption = poll(step: step).interruption { throw interruption }
          Thread.sleep(forTimeInterval: 0.02)
        } while ContinuousClock.now < end
      }
    }
  }

  private static func isDiskFull(_ error: any Error) -> Bool {
    (error as? FileError)?.isDiskFull ?? false
  }

  /// Called between steps: records the step and waits while paused.
  ///
  /// - Throws: `JobInterruption` after a cancel request or the time limit, `FileError` if a mapped
  ///   file was truncated.
  package func checkpoint(step: Int) throws {
    try MappedFile.requireIntact()
    let first = poll(step: step)
    if let interruption = first.interruption { throw interruption }
    guard first.paused else { return }
    try emit(.paused(step: step))
    while true {
      Thread.sleep(forTimeInterval: 0.05)
      let now = poll(step: step)
      if let interruption = now.interruption { throw interruption }
      if !now.paused { break }
    }
    try emit(.resumed(step: step))
  }

  private func poll(step: Int) -> (paused: Bool, interruption: JobInterruption?) {
    state.withLock { state in
      state.step = step
      for control in run.readControls(after: &state.controlOffset) {
        switch control {
        case .pause: state.isPaused = true
        case .resume: state.isPaused = false
        case .cancel, .kill: state.isCancelled = true
        }
      }
      if state.isCancelled { return (state.isPaused, .cancelled) }
      let isLate = state.deadline.map { $0 <= .now } ?? false
      return (state.isPaused, isLate ? .timedOut : nil)
    }
  }

  /// The last reported step.
  var step: Int { state.withLock { $0.step } }
}

/// Limits progress reports to a few per second, with an interval that grows with the elapsed time.
///
/// The interval is `fraction` of the elapsed time, at most `longest` seconds, so that the log of a
/// training has some thousand steps and then at most one line per ten seconds.
package struct Throttle {
  private let start: Double
  private var last: Double?
  private let clock: () -> Double

  private static let shortest = 0.2
  private static let longest = 10.0
  private static let fraction = 1.0 / 2000

  /// Makes a throttle whose first report is due.
  package init(clock: @escaping () -> Double = Throttle.uptime) {
    (start, self.clock) = (clock(), clock)
  }

  /// Monotonic seconds since the machine was started.
  package static func uptime() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

  /// Whether a report is due.
  package mutating func isDue() -> Bool {
    let now = clock()
    let interval = min(Self.longest, max(Self.shortest, (now - start) * Self.fraction))
    guard last.map({ now - $0 >= interval }) ?? true else { return false }
    last = now
    return true
  }
}
