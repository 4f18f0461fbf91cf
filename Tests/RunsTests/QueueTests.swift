import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// The order of the queue, and what a person does to runs that wait, end or are taken up again.
@Suite struct QueueTests {
  private func entry(
    _ id: String, _ state: RunState = .queued, priority: Int = 0, after: [String] = [],
    at time: Double = 0, waits: Bool = true
  ) -> RunSummary {
    var summary = RunSummary(id: id, createdAt: time, state: state)
    summary.place = waits ? QueuePlace(priority: priority, after: after) : nil
    return summary
  }

  /// Those that wait, in the order of their turns.
  private func waiting(_ runs: [RunSummary]) -> [RunSummary] {
    var runs = runs
    runs.takeTurns()
    return runs.filter { $0.turn != nil }.sorted {
      ($0.turn?.position ?? 0) < ($1.turn?.position ?? 0)
    }
  }

  @Test func priorityThenAge() {
    let waiting = self.waiting([
      entry("new", at: 3), entry("urgent", priority: 2, at: 2), entry("old", at: 1),
      entry("later", priority: -1, at: 0), entry("direct", waits: false), entry("busy", .running),
      entry("done", .done),
    ])
    #expect(waiting.map(\.id) == ["urgent", "old", "new", "later"])
    #expect(waiting.allSatisfy { $0.turn?.obstacle == nil && $0.waitsFor == nil })
  }

  @Test func whatMustBeDoneBefore() {
    let waiting = self.waiting([
      entry("a", .done), entry("b", .running), entry("c", .failed),
      entry("1", after: ["a"]), entry("2", after: ["a", "b"]), entry("3", after: ["b", "c"]),
      entry("4", after: ["gone"]), entry("5", after: ["1"]),
    ])
    #expect(
      waiting.map(\.turn?.reason) == [
        nil, "after b", "c, which must be done before, is failed",
        "gone, which must be done before, is gone", "after 1",
      ])
    #expect(
      waiting.map(\.waitsFor) == [
        nil, "after b",
        "c, which must be done before, is failed; 'espalier runs retry c' takes that one up again",
        "gone, which must be done before, is gone;"
          + " 'espalier runs cancel 4' takes this one out of the queue", "after 1",
      ])
    #expect(waiting.map(\.turn?.isBlocked) == [false, false, true, true, false])
    for state: RunState in [.cancelled, .lost] {
      let blocked = self.waiting([entry("a", state), entry("b", after: ["a"])])
      #expect(blocked.first?.turn?.isBlocked == true)
    }
  }

  /// Extreme priorities are compared without arithmetic.
  @Test func extremePriorities() {
    let waiting = self.waiting([
      entry("least", priority: .min, at: 1), entry("most", priority: .max, at: 2), entry("none"),
    ])
    #expect(waiting.map(\.id) == ["most", "none", "least"])
  }

  // MARK: - Files

  private func lined(_ root: String) -> [RunSummary] {
    var store = RunStore(root: root)
    store.look()
    return store.waiting
  }

  private func run(_ scratch: Scratch, queue: QueuePlace?, onDone: String? = nil) throws
    -> RunDirectory
  {
    try RunDirectory.create(
      root: scratch.path + "/runs",
      job: JobRequest(
        job: .distill(planPath: "plan.json"), name: "test", codeVersion: "0", modelHash: "c0ffee",
        queue: queue, timeout: 7200, onDone: onDone))
  }

  @Test func placesAreKept() throws {
    let scratch = try Scratch()
    let first = try run(scratch, queue: QueuePlace(priority: 3, after: ["x"]), onDone: "true")
    let request = try first.request()
    #expect(request.queue == QueuePlace(priority: 3, after: ["x"]))
    #expect(request.timeout == 7200 && request.onDone == "true")
    try first.setPriority(-4)
    #expect(try first.request().queue == QueuePlace(priority: -4, after: ["x"]))
    #expect(lined(first.root).map(\.place?.priority) == [-4])
    let direct = try run(scratch, queue: nil)
    #expect(throws: FileError.self) { try direct.setPriority(1) }
  }

  /// Cancelling what waits needs no worker; the command for its end is told so.
  @Test func withdrawing() throws {
    let scratch = try Scratch()
    let waiting = try run(
      scratch, queue: QueuePlace(),
      onDone: #"echo "$ESPALIER_OUTCOME" > "$ESPALIER_RUN/told"; exit 3"#)
    #expect(try waiting.cancel() == .withdrawn)
    #expect(waiting.summary().state == .cancelled && !waiting.summary().isStarted)
    #expect(try String(contentsOfFile: waiting.path + "/told", encoding: .utf8) == "cancelled\n")
    #expect(waiting.history().messages == ["the command for the run's end has ended: exit code 3"])
    #expect(lined(waiting.root).isEmpty)
    #expect(throws: FileError.self) { try waiting.cancel() }
    // Taken up again it begins at once.
    try waiting.prepareRetry()
    #expect(try waiting.request().queue == nil)
  }

  @Test func whatIsDoneStaysDone() throws {
    let scratch = try Scratch()
    let run = try run(scratch, queue: nil)
    try run.append(Event(.started(pid: 1, totalSteps: 1)))
    try run.finish(.done, "all")
    #expect(throws: FileError.self) { try run.prepareRetry(.factor(0.5)) }
    #expect(throws: FileError.self) { try run.cancel(hard: true) }
    #expect(run.size() > 0)
    try run.remove()
    #expect(RunDirectory.list(root: run.root).isEmpty)
    #expect(try FileManager.default.contentsOfDirectory(atPath: run.root).isEmpty)
  }

  @Test func weightsOfARunAreFoundLate() throws {
    let scratch = try Scratch()
    let (first, second) = (try run(scratch, queue: nil), try run(scratch, queue: QueuePlace()))
    #expect(try second.weightsPath("/a/b.safetensors") == "/a/b.safetensors")
    #expect(throws: FileError.self) { try second.weightsPath(first.id) }
    let operators = first.checkpointsPath + "/operators.safetensors"
    try Data().write(to: URL(fileURLWithPath: operators))
    #expect(try second.weightsPath(first.id) == operators)
    #expect(throws: FileError.self) { try second.weightsPath("nothing") }
  }
}
