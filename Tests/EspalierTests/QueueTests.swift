import Files
import Foundation
import Plans
import Runs
import Testing

/// Runs that wait for their turn, from the command line and with real workers.
@Suite struct QueueTests {
  private func path(_ outcome: Outcome) throws -> RunDirectory {
    try #require(outcome.code == 0, "\(outcome.complaint)")
    return try RunDirectory.open(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
  }

  private func row(_ run: RunDirectory, _ scratch: Scratch) throws -> QueueRow {
    let rows: [QueueRow] = try scratch.espalier("runs", "--json").json()
    return try #require(rows.first { $0.id == run.id })
  }

  private struct QueueRow: Decodable {
    let id, state: String
    let queuePosition, priority: Int?
    let waitsFor: String?
  }

  /// Both stages in one go: the second takes the weights that the first one leaves.
  @Test func stageTwoAfterStageOne() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: 30, batch: 2) { $0.data = data }
    let hook = #"echo "$ESPALIER_OUTCOME" >> told"#
    let first = try path(try scratch.espalier("distill", "plan.json", "--queue"))
    let second = try path(
      try scratch.espalier("finetune", "plan.json", "--after", first.id, "--on-done", hook))
    #expect(try second.request().job == .finetune(planPath: "plan.json", weights: [first.id]))
    let outcome = try scratch.espalier("runs", "wait", second.id, first.id, "--json")
    let reports: [RunSummary] = try outcome.json()
    #expect(outcome.code == 0 && reports.map(\.state) == ["done", "done"])
    #expect(reports[1].run == first.path)
    #expect(!second.history().messages.contains { $0.contains("fresh") })
    let (one, two) = (first.summary(), second.summary())
    #expect(try #require(one.lastEventTime) <= (try #require(two.startedAt)) + 1)
    try wait(for: "the hook") { scratch.exists("told") }
    #expect(try scratch.text("told") == "done\n")
    try wait(for: "the runner's end") { !QueueRunner.isAtWork(root: scratch.runs) }
    // Nothing waits any more.
    let drained = try scratch.espalier("runs", "drain")
    #expect(drained.code == 0 && drained.output.contains("drained"))
    try scratch.expectRefusal(["runs", "drain", "--stop"], mentions: ["no runner works"])
  }

  /// While one goes on the others wait in their order; what can never begin says why.
  @Test func turns() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: 5_000_000, batch: 2) { $0.data = data }
    let busy = try path(try scratch.espalier("distill", "plan.json", "--detach"))
    try scratch.tinyPlan(steps: 4, batch: 2) { $0.data = data }
    let low = try path(try scratch.espalier("distill", "plan.json", "--queue"))
    let high = try path(
      try scratch.espalier("distill", "plan.json", "--queue", "--priority", "1"))
    let raised = try path(try scratch.espalier("distill", "plan.json", "--queue"))
    let blocked = try path(
      try scratch.espalier("distill", "plan.json", "--after", low.id, "--after", busy.id))
    #expect(try row(high, scratch).queuePosition == 1)
    #expect(try row(low, scratch).queuePosition == 2)
    #expect(try scratch.espalier("runs", "priority", raised.id, "7").code == 0)
    #expect(try row(raised, scratch).queuePosition == 1 && row(raised, scratch).priority == 7)
    #expect(try row(blocked, scratch).waitsFor == "after \(low.id)")
    #expect(try row(low, scratch).state == "queued")

    // Enough of the one that goes on: the queue is worked on, all but what came after it.
    try wait(for: "a checkpoint") { busy.summary().checkpoint != nil }
    #expect(try scratch.espalier("runs", "cancel", busy.id).code == 0)
    #expect(
      try scratch.espalier("runs", "wait", low.id, high.id, raised.id).code == 0)
    #expect(try scratch.espalier("runs", "wait", blocked.id).code == 5)
    #expect(try scratch.espalier("runs", "wait", busy.id).code == 3)
    let begins = try [raised, high, low].map { try #require($0.summary().startedAt) }
    #expect(begins == begins.sorted())
    #expect(
      try row(blocked, scratch).waitsFor
        == "\(busy.id), which must be done before, is cancelled; 'espalier runs retry \(busy.id)'"
        + " takes that one up again")
    struct Shown: Decodable { let queuePosition: Int, waitsFor: String }
    let shown: Shown = try scratch.espalier("runs", "show", blocked.id, "--json").json()
    #expect(shown.queuePosition == 1 && shown.waitsFor.contains("runs retry"))
    try wait(for: "the runner's end") { !QueueRunner.isAtWork(root: scratch.runs) }
    for verb in ["pause", "resume"] {
      try scratch.expectRefusal(
        ["runs", verb, blocked.id],
        mentions: ["waits in the queue", "'espalier runs cancel \(blocked.id)' takes it out"])
    }

    // What a waiting run needs stays; the rest goes.
    struct Cleaned: Decodable { let removed: [String], bytes: Int }
    let none: Cleaned = try scratch.espalier(
      "runs", "clean", "--done", "--cancelled", "--older-than", "1d", "--json"
    ).json()
    #expect(none.removed.isEmpty && none.bytes == 0)
    let some: Cleaned = try scratch.espalier(
      "runs", "clean", "--done", "--cancelled", "--json"
    ).json()
    #expect(Set(some.removed) == [high.id, raised.id] && some.bytes > 0)
    #expect(
      Set(RunDirectory.list(root: scratch.runs)) == [busy, low, blocked])
    #expect(try scratch.espalier("runs", "cancel", blocked.id).output.contains("out of the queue"))
    try scratch.expectRefusal(["runs", "clean"], code: 2, mentions: ["--done"])
  }

  /// A run whose request cannot be read goes with `--damaged` alone, and not while it is locked.
  @Test func damagedRunsAreCleaned() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: 5_000_000, batch: 2) { $0.data = data }
    let first = try path(try scratch.espalier("distill", "plan.json", "--detach"))
    func queued() throws -> RunDirectory {
      try path(try scratch.espalier("distill", "plan.json", "--after", first.id))
    }
    defer { _ = try? first.cancel(hard: true) }
    let (sound, broken, held) = (try queued(), try queued(), try queued())
    for run in [broken, held] { try Data("{".utf8).write(to: URL(filePath: run.requestPath)) }
    struct Cleaned: Decodable { let removed: [String] }
    func clean(_ option: String) throws -> [String] {
      let found: Cleaned = try scratch.espalier("runs", "clean", option, "--json").json()
      return found.removed
    }
    #expect(try clean("--lost").isEmpty)
    let lock = try #require(try FileLock.take(held.lockPath))
    #expect(try clean("--damaged") == [broken.id])
    withExtendedLifetime(lock) {}
    let left = RunDirectory.list(root: scratch.runs).map(\.id)
    #expect(left.contains(sound.id) && left.contains(held.id) && !left.contains(broken.id))
  }

  /// Frozen, asked, killed, retried with half the rate.
  @Test func steering() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: 5_000_000, batch: 2) { $0.data = data }
    let run = try path(
      try scratch.espalier(
        "distill", "plan.json", "--detach", "--on-done", #"echo "$ESPALIER_OUTCOME" >> told"#))
    try wait(for: "a checkpoint") { run.summary().checkpoint != nil }
    #expect(try scratch.espalier("runs", "pause", run.id, "--now").code == 0)
    try wait(for: "the stop") { run.summary().state == .frozen }
    #expect(try row(run, scratch).state == "frozen")
    let step = run.summary().step
    #expect(try scratch.espalier("runs", "resume", run.id).code == 0)
    try wait(for: "more steps") { run.summary().step > step }
    // A frozen worker cannot hear: asked while it stands still, it wakes up for its end.
    #expect(try scratch.espalier("runs", "pause", run.id, "--now").code == 0)
    #expect(try scratch.espalier("runs", "cancel", run.id).code == 0)
    try wait(for: "the end") { run.summary().state == .cancelled }
    try wait(for: "the hook") { scratch.exists("told") }

    let plan = try GraftPlan.load(path: run.planPath)
    let retried = try scratch.espalier("runs", "retry", run.id, "--rate-factor", "0.5")
    #expect(retried.code == 0, "\(retried.complaint)")
    let slower = try GraftPlan.load(path: run.planPath)
    #expect(slower.stage1.learningRate == plan.stage1.learningRate / 2)
    #expect(slower.continues(plan))
    try wait(for: "the checkpoint's step") {
      run.history().messages.contains { $0.hasPrefix("resumed at step") }
    }
    let half = "retried with stage1.learning_rate 0.004 instead of 0.008"
    #expect(run.history().messages.contains(half), "\(run.history().messages)")
    let refused = try scratch.espalier("runs", "retry", run.id)
    #expect(refused.code == 1 && refused.complaint.contains("is running, expected one that"))

    let worker = try #require(run.worker())
    #expect(try scratch.espalier("runs", "cancel", run.id, "--hard").code == 0)
    #expect(!worker.isAlive && run.summary().state == .cancelled)
    #expect(run.summary().end?.text.hasPrefix("killed at step") == true)
    try wait(for: "the second hook") {
      run.history().messages.count { $0.hasSuffix("has ended: exit code 0") } == 2
    }
    #expect(try scratch.text("told") == "cancelled\ncancelled\n")
    try scratch.expectRefusal(
      ["runs", "retry", run.id, "--rate-factor", "0"], code: 2, mentions: ["positive"])
  }

  @Test func timeIsUp() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: 5_000_000, batch: 2) { $0.data = data }
    let outcome = try scratch.espalier("distill", "plan.json", "--timeout", "3s")
    #expect(outcome.code == 1)
    let run = try #require(RunDirectory.list(root: scratch.runs).first)
    let history = run.history()
    #expect(
      history.summary.end?.text.contains("its time was up at step \(history.summary.step)") == true)
    #expect(history.summary.end?.text.contains("'espalier runs retry \(run.id)'") == true)
    #expect(history.summary.checkpoint?.step == history.summary.step)

    // Why it failed is told by every command.
    struct Shown: Decodable {
      let state: String, ending: String?, loss: Double?, checkpoint: String?
    }
    let shown: Shown = try scratch.espalier("runs", "show", run.shortID, "--json").json()
    #expect(shown.state == "failed" && shown.ending == history.summary.end?.text)
    #expect(shown.loss == history.meanLoss.last?.value && shown.checkpoint == run.latestPath)
    let followed = try scratch.espalier("runs", "follow", run.id, "--json")
    #expect(try followed.code == 1 && followed.json(Shown.self).ending == shown.ending)
    #expect(try scratch.espalier("runs").output.contains("(\(try #require(shown.ending)))"))
  }

  @Test func durations() throws {
    let scratch = try Scratch()
    for (arguments, option) in [
      (["distill", "plan.json", "--timeout", "5"], "--timeout"),
      (["runs", "cancel", "x", "--grace", "1h30m"], "--grace"),
      (["runs", "clean", "--done", "--older-than", "week"], "--older-than"),
    ] {
      try scratch.expectRefusal(
        arguments, code: 2, mentions: [option, "expected a duration such as 90m"])
    }
  }
}
