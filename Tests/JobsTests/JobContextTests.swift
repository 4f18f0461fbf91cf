import Foundation
import Jobs
import Plans
import Runs
import TensorCore
import Testing

/// A worker's side of the run directory, within this process.
@Suite struct JobContextTests {
  private func withRun(_ body: (RunDirectory) throws -> Void) throws {
    let root = NSTemporaryDirectory() + "/espalier-jobs-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: root) }
    let request = JobRequest(
      job: .distill(planPath: "plan.json"), name: "test", codeVersion: "0", modelHash: "c0ffee")
    try body(try RunDirectory.create(root: root, job: request))
  }

  @Test func runsNameTheGeneratorOfTheEngine() throws {
    try withRun { run in
      let request = try run.request()
      #expect(request.generator == RandomStream.generator)
    }
  }

  @Test func obeysRequestsMadeBeforeItsStart() throws {
    try withRun { run in
      try run.append(Control.cancel)
      let context = JobContext(run: run)
      #expect(throws: JobInterruption.cancelled) { try context.checkpoint(step: 0) }
      #expect(throws: JobInterruption.cancelled) { try context.checkpoint(step: 1) }
    }
  }

  @Test func waitsWhilePaused() async throws {
    try withRun { run in
      let context = JobContext(run: run)
      try run.append(Control.pause)
      let isThrough = DispatchSemaphore(value: 0)
      Thread.detachNewThread {
        try? context.checkpoint(step: 7)
        isThrough.signal()
      }
      var offset: UInt64 = 0
      var kinds: [EventKind] = []
      while kinds.isEmpty {
        kinds += run.readEvents(after: &offset).map(\.kind)
        usleep(1000)
      }
      #expect(kinds == [.paused(step: 7)])
      #expect(isThrough.wait(timeout: .now()) == .timedOut)
      try run.append(Control.resume)
      #expect(isThrough.wait(timeout: .now() + 60) == .success)
      #expect(run.readEvents(after: &offset).map(\.kind) == [.resumed(step: 7)])
    }
  }

  @Test func cancelsWhilePaused() throws {
    try withRun { run in
      let context = JobContext(run: run)
      try run.append(Control.pause)
      try run.append(Control.resume)
      try context.checkpoint(step: 1)
      try run.append(Control.pause)
      try run.append(Control.cancel)
      #expect(throws: JobInterruption.cancelled) { try context.checkpoint(step: 2) }
    }
  }

  /// What TensorBoard shows is no reason to end a training.
  @Test func eventFilesThatCannotBeWrittenAreGivenUp() throws {
    try withRun { run in
      try Data().write(to: URL(fileURLWithPath: run.tensorBoardPath))
      let context = JobContext(run: run)
      for step in 1...3 {
        try context.emit(
          .step(step: step, total: 3, loss: 1, losses: [:], rate: 1, secondsLeft: 0))
        try context.emit(.heldOut(step: step, loss: 1, losses: [:]))
      }
      let history = run.history()
      #expect(history.meanLoss.map(\.step) == [1, 2, 3] && history.meanHeldOut.count == 3)
      #expect(history.messages.count == 1)
      #expect(history.messages.first?.hasPrefix("no more event files for TensorBoard: ") == true)
    }
  }

  /// A worker that says something anyway sends no heartbeat beside it.
  @Test func heartbeatsFillTheSilence() throws {
    try withRun { run in
      let context = JobContext(run: run)
      try context.checkpoint(step: 4)
      context.emitHeartbeat()
      try context.emit(.message("spoken"))
      context.emitHeartbeat()
      context.emitHeartbeat()
      var offset: UInt64 = 0
      #expect(
        run.readEvents(after: &offset).map(\.kind)
          == [.heartbeat(step: 4), .message("spoken"), .heartbeat(step: 4)])
    }
  }

  /// However long a training, its log stays small: some thousand steps at first, then one in ten seconds.
  @Test func logsGrowSlowly() {
    let (start, perSecond) = (1000.0, 10.0)
    var now = start
    var throttle = Throttle { now }
    var times: [Double] = []
    for tick in 0..<Int(2 * 86_400 * perSecond) {
      now = start + Double(tick) / perSecond
      if throttle.isDue() { times.append(now - start) }
    }
    #expect(times.first == 0)
    #expect(times.count { $0 < 400 } > 1000 && times.count { $0 < 3600 } < 8000)
    let longest = zip(times, times.dropFirst()).map { $1 - $0 }.max() ?? 0
    #expect(longest > 9 && longest <= 10.2)
    #expect(times.count < 30_000)
  }

  /// A signal handler cancels from another thread.
  @Test func stopsWhenToldTo() throws {
    try withRun { run in
      let context = JobContext(run: run)
      try context.checkpoint(step: 3)
      context.cancel()
      #expect(throws: JobInterruption.cancelled) { try context.checkpoint(step: 4) }
    }
  }
}
