import Foundation
import Jobs
import Plans
import Runs
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
