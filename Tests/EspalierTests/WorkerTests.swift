import Checkpoints
import Foundation
import Runs
import Testing

/// Workers that are killed, stopped, paused and taken up again, as real processes.
@Suite struct WorkerTests {
  /// Steps of a run that no test waits for.
  private static let endless = 5_000_000

  /// Starts a run in the background and waits for its first checkpoint.
  private func begin(_ scratch: Scratch, steps: Int = endless) throws -> RunDirectory {
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: steps, batch: 4) { $0.data = data }
    let outcome = try scratch.espalier("distill", "plan.json", "--detach")
    try #require(outcome.code == 0, "\(outcome.complaint)")
    let run = try RunDirectory.open(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
    try wait(for: "a checkpoint") { run.summary().checkpoint != nil }
    return run
  }

  private func history(_ run: RunDirectory) -> RunHistory {
    var follower = RunFollower(run, keepsCurves: true)
    _ = follower.poll()
    return follower.history
  }

  /// How often a worker began to work on the run.
  private func starts(_ run: RunDirectory) -> Int {
    var offset: UInt64 = 0
    return run.readEvents(after: &offset).count {
      if case .started = $0.kind { true } else { false }
    }
  }

  private func worker(_ run: RunDirectory) throws -> Int32 {
    let identity = try #require(run.worker())
    try #require(identity.isAlive)
    return identity.pid
  }

  /// Kills a run's worker, which is somebody else's child, and waits for its end.
  private func kill(_ run: RunDirectory, _ signal: Int32) throws {
    let identity = try #require(run.worker())
    #expect(Foundation.kill(identity.pid, signal) == 0)
    try wait(for: "the worker's end") { !identity.isAlive }
  }

  private func operators(_ run: RunDirectory) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: run.checkpointsPath + "/operators.safetensors"))
  }

  /// The step of the checkpoint that a worker would go on from.
  private func savedStep(_ run: RunDirectory) throws -> Int {
    let file = try SafetensorsFile(path: run.checkpointsPath + "/latest.safetensors")
    return try #require(file.metadata["step"].flatMap(Int.init))
  }

  /// The state that the command line tells.
  private func state(_ scratch: Scratch, _ run: RunDirectory) throws -> String {
    let rows: [RunRow] = try scratch.espalier("runs", "--json").json()
    return try #require(rows.first { $0.id == run.id }).state
  }

  /// A killed and a cancelled run, each taken up again, end in the very bytes of an undisturbed one.
  @Test func resumedRunsEndLikeUndisturbedOnes() throws {
    let steps = 400
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: steps, batch: 4) { $0.data = data }
    let whole: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    try #require(whole.state == "done")
    let expected = try operators(try RunDirectory.open(whole.run))

    let run = try begin(scratch, steps: steps)
    try kill(run, SIGKILL)
    #expect(run.summary().state == .lost)
    #expect(try state(scratch, run) == "lost")
    // The kill may have come between a checkpoint and its line in the log.
    let checkpoint = try savedStep(run)
    // What a worker that dies while it writes leaves behind.
    let leftover = run.checkpointsPath + "/.latest.safetensors.1.x.tmp"
    try Data([1]).write(to: URL(fileURLWithPath: leftover))
    // A torn last line of the log, too.
    let log = try FileHandle(forWritingTo: URL(fileURLWithPath: run.eventsPath))
    try log.seekToEnd()
    try log.write(contentsOf: Data(#"{"kind":"st"#.utf8))
    try log.close()

    let resumed = try scratch.espalier("runs", "resume", run.id, "--json")
    #expect(resumed.code == 0, "\(resumed.complaint)")
    // Once more, this time softly.
    try wait(for: "steps after the resumption") {
      (history(run).summary.checkpoint?.step ?? 0) > checkpoint
    }
    #expect(try scratch.espalier("runs", "cancel", run.id).code == 0)
    try wait(for: "the cancelled run's end") { run.summary().state == .cancelled }
    #expect(!FileManager.default.fileExists(atPath: run.checkpointsPath + "/operators.safetensors"))
    #expect(try scratch.espalier("runs", "resume", run.id).code == 0)
    let followed = try scratch.espalier("runs", "follow", run.id, "--json")
    let end: RunSummary = try followed.json()
    #expect(followed.code == 0 && end.state == "done" && end.step == steps)
    #expect(try operators(run) == expected)
    #expect(end.meanHeldOutLast == whole.meanHeldOutLast)
    #expect(starts(run) == 3)
    let resumptions = history(run).messages.filter { $0.hasPrefix("resumed at step") }
    #expect(resumptions.count == 2)
    #expect(resumptions.first == "resumed at step \(checkpoint) from its last checkpoint")
    #expect(!FileManager.default.fileExists(atPath: leftover))
    try scratch.expectRefusal(["runs", "resume", run.id], mentions: [run.id, "is done"])
    try scratch.expectRefusal(["runs", "pause", run.id], mentions: [run.id, "is done"])
  }

  @Test func terminationSavesAndCancels() throws {
    let scratch = try Scratch()
    let run = try begin(scratch)
    try kill(run, SIGTERM)
    #expect(run.summary().state == .cancelled)
    let history = history(run)
    #expect(history.summary.checkpoint?.step == history.summary.step)
    #expect(history.summary.end?.text == "cancelled at step \(history.summary.step)")
    #expect(try state(scratch, run) == "cancelled")
  }

  @Test func pausesAndGoesOn() throws {
    let scratch = try Scratch()
    let run = try begin(scratch)
    defer { try? kill(run, SIGKILL) }
    #expect(try scratch.espalier("runs", "pause", run.id).code == 0)
    try wait(for: "the pause") { run.summary().state == .paused }
    let step = history(run).summary.step
    #expect(try state(scratch, run) == "paused")
    #expect(try scratch.espalier("runs", "resume", run.id).code == 0)
    try wait(for: "more steps") {
      run.summary().state == .running && history(run).summary.step > step
    }
    #expect(starts(run) == 1, "the same worker goes on")
    // A paused run can be cancelled, and a pause does not outlive its worker.
    #expect(try scratch.espalier("runs", "pause", run.id).code == 0)
    try wait(for: "the second pause") { run.summary().state == .paused }
    try kill(run, SIGKILL)
    #expect(try state(scratch, run) == "lost")
    #expect(try scratch.espalier("runs", "resume", run.id).code == 0)
    try wait(for: "a running worker") { run.summary().state == .running }
    #expect(try scratch.espalier("runs", "cancel", run.id).code == 0)
    try wait(for: "the end") { run.summary().state == .cancelled }
  }

  @Test func oneWorkerOwnsARun() throws {
    let scratch = try Scratch()
    let run = try begin(scratch)
    let first = try worker(run)
    let second = try scratch.espalier("worker", run.path)
    #expect(second.code == 1)
    #expect(second.complaint.contains("another process works on this run"))
    #expect(run.worker()?.pid == first && run.summary().state == .running)
    try kill(run, SIGKILL)

    // Many at once: one gets it.
    let contenders = try (0..<6).map { _ in try scratch.start(["worker", run.path]) }
    try wait(for: "a new worker") { starts(run) == 2 }
    let owner = try #require(run.worker()?.pid)
    #expect(contenders.map(\.pid).contains(owner))
    for contender in contenders where contender.pid != owner {
      let outcome = try contender.outcome()
      #expect(outcome.code == 1 && outcome.complaint.contains("another process works on this run"))
    }
    #expect(starts(run) == 2 && run.summary().state == .running)
    #expect(Foundation.kill(owner, SIGTERM) == 0)
    for contender in contenders where contender.pid == owner {
      #expect(try contender.outcome().code == 0)
    }
    #expect(run.summary().state == .cancelled)
  }

  /// Whoever started it may die in any way; an interrupt, which people send, asks it to stop.
  @Test func workerOutlivesItsCommand() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: Self.endless, batch: 4) { $0.data = data }
    func follow() throws -> (RunningCommand, RunDirectory) {
      let known = Set(RunDirectory.list(root: scratch.runs))
      let command = try scratch.start(["distill", "plan.json"])
      var run: RunDirectory?
      try wait(for: "the run") {
        run = RunDirectory.list(root: scratch.runs).first { !known.contains($0) }
        return run.map { $0.summary().checkpoint != nil } ?? false
      }
      return (command, try #require(run))
    }
    for signal in [SIGKILL, SIGHUP, SIGTERM] {
      let (command, run) = try follow()
      Foundation.kill(command.pid, signal)
      #expect(try command.outcome().code == 128 + signal)
      let step = history(run).summary.step
      try wait(for: "steps without the command") { history(run).summary.step > step }
      #expect(run.summary().state == .running)
      try kill(run, SIGKILL)
    }
    let (command, run) = try follow()
    Foundation.kill(command.pid, SIGINT)
    let outcome = try command.outcome()
    #expect(outcome.code == 1 && outcome.output.contains(": cancelled at step"))
    #expect(run.summary().state == .cancelled)
    #expect(history(run).summary.checkpoint?.step == history(run).summary.step)
  }

  /// A follower tells at once that its worker has died, and how to go on.
  @Test func followerTellsOfALostWorker() throws {
    let scratch = try Scratch()
    let run = try begin(scratch)
    let follower = try scratch.start(["runs", "follow", run.id])
    usleep(200_000)
    try kill(run, SIGKILL)
    let outcome = try follower.outcome()
    #expect(outcome.code == 1 && outcome.output.isEmpty)
    let last = outcome.complaint.split(separator: "\n").last ?? ""
    #expect(last.hasPrefix("Error: \(run.path): the worker died at step"))
    #expect(last.contains("'espalier runs resume \(run.id)'"))
  }

  /// A run whose plan was changed under its checkpoint does not go on with the wrong weights.
  @Test func refusesCheckpointOfAnotherPlan() throws {
    let scratch = try Scratch()
    let run = try begin(scratch)
    try kill(run, SIGKILL)
    let plan = try String(contentsOfFile: run.planPath, encoding: .utf8)
    try plan.replacingOccurrences(of: "\"seed\": 0", with: "\"seed\": 1")
      .write(toFile: run.planPath, atomically: true, encoding: .utf8)
    #expect(try scratch.espalier("runs", "resume", run.id).code == 0)
    let outcome = try scratch.espalier("runs", "follow", run.id)
    #expect(outcome.code == 1)
    #expect(outcome.complaint.contains("latest.safetensors: was written for another plan"))
    #expect(try state(scratch, run) == "failed")
  }
}
