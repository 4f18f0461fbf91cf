import Dispatch
import Files
import Foundation
import Runs
import Synchronization

/// Why a job ended before its last step.
package enum JobInterruption: Error {
  /// A cancel request or a termination signal.
  case cancelled
  /// The time that the worker was given has passed.
  case timedOut
}

/// A worker's connection to its run directory: events out, requests in.
package final class JobContext: Sendable {
  package let run: RunDirectory
  private let state = Mutex(Progress())
  /// The same events for TensorBoard, of a training.
  private let tensorBoard: TensorBoardLog?
  /// Seconds between two tries to write to a full disk.
  private let roomInterval: TimeInterval

  private struct Progress {
    var step = 0
    var controlOffset: UInt64 = 0
    var isCancelled = false
    var isPaused = false
    var lacksRoom = false
    /// Whether an event was written since the last heartbeat.
    var hasSpoken = false
    /// Whether TensorBoard's files are written no more.
    var lacksTensorBoard = false
    var deadline: ContinuousClock.Instant?
  }

  /// Opens the context; a run that was started before skips the requests made for its last worker.
  package init(run: RunDirectory, roomInterval: TimeInterval = 3) {
    self.run = run
    tensorBoard = (try? run.request())?.job.kind.isTraining == true ? TensorBoardLog(run: run) : nil
    self.roomInterval = roomInterval
    let summary = run.summary()
    guard summary.isStarted || summary.end != nil else { return }
    var controls: UInt64 = 0
    _ = run.readControls(after: &controls)
    let start = controls
    state.withLock { $0.controlOffset = start }
  }

  /// Appends an event to the log and, where it has something to plot, to the one for TensorBoard, when
  /// there is room for it on the disk.
  ///
  /// A training does not need TensorBoard: files that cannot be written are said once and given up.
  ///
  /// - Throws: `RunError` if it cannot be written, `JobInterruption` while it waits for room.
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

  /// Says that the worker lives, unless it has said something anyway; what room is left on a full disk is
  /// kept for its last words.
  func emitHeartbeat() {
    let isDue = state.withLock { state in
      defer { state.hasSpoken = false }
      return !state.hasSpoken && !state.lacksRoom
    }
    if isDue { try? run.append(Event(.heartbeat(step: step))) }
  }

  /// Asks the job to stop at its next step, as a signal does.
  package func cancel() { state.withLock { $0.isCancelled = true } }

  /// Gives the job some seconds from now on, after which it stops at its next step.
  package func limit(to seconds: Double) {
    state.withLock { $0.deadline = .now + .seconds(seconds) }
  }

  /// Does something that writes files; while the disk is full, pauses the run and tries again.
  ///
  /// - Parameter body: May be called many times; what fails must leave things as they were.
  /// - Returns: What `body` returns.
  /// - Throws: What `body` throws for any other reason, `JobInterruption` while it waits.
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
    (error as? FileError)?.isDiskFull ?? (error as? RunError)?.isDiskFull ?? false
  }

  /// To be called between steps: notes the step, waits while paused.
  ///
  /// - Throws: `JobInterruption` after a cancel request or the end of the job's time.
  package func checkpoint(step: Int) throws {
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
        case .cancel: state.isCancelled = true
        }
      }
      if state.isCancelled { return (state.isPaused, .cancelled) }
      let isLate = state.deadline.map { $0 <= .now } ?? false
      return (state.isPaused, isLate ? .timedOut : nil)
    }
  }

  /// The step that the job last reported.
  var step: Int { state.withLock { $0.step } }
}

/// Reports progress at most a few times a second, and the less often the longer it goes on.
///
/// `fraction` of the time that has passed lies between two reports, at most `longest` seconds, so that the
/// log of a training grows by some thousand steps and then by at most one line in ten seconds.
struct Throttle {
  private let start: Double
  private var last: Double?
  private let clock: () -> Double

  private static let shortest = 0.2
  private static let longest = 10.0
  private static let fraction = 1.0 / 2000

  /// Makes a throttle that lets the first report through.
  ///
  /// - Parameter clock: Seconds that only grow.
  init(clock: @escaping () -> Double = Throttle.uptime) {
    (start, self.clock) = (clock(), clock)
  }

  /// Seconds since the machine was started, which setting the clock does not change.
  static func uptime() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

  /// Whether it is time again.
  mutating func isDue() -> Bool {
    let now = clock()
    let interval = min(Self.longest, max(Self.shortest, (now - start) * Self.fraction))
    guard last.map({ now - $0 >= interval }) ?? true else { return false }
    last = now
    return true
  }
}
