import Foundation
import Plans
import Runs
import Testing

/// Stage 2 from the command line, with real workers.
@Suite struct FinetuneTests {
  private func model(_ run: RunDirectory) throws -> Data {
    try Data(contentsOf: URL(fileURLWithPath: run.checkpointsPath + "/model.safetensors"))
  }

  private func history(_ run: RunDirectory) -> RunHistory {
    var follower = RunFollower(run, keepsCurves: true)
    _ = follower.poll()
    return follower.history
  }

  /// A plan's way through both stages, and what takes the result.
  @Test func bothStages() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 30, batch: 4)
    let first: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    let distilled = try RunDirectory.open(first.run)
    let outcome = try scratch.espalier(
      "finetune", "plan.json", "--from", String(distilled.id.prefix(20)), "--json")
    let second: RunSummary = try outcome.json()
    #expect(!outcome.complaint.contains("warning"))
    #expect(outcome.code == 0 && second.state == "done" && second.step == 30)
    #expect(second.heldOut.isEmpty)
    let change = (try #require(second.meanHeldOutFirst), try #require(second.meanHeldOutLast))
    #expect(change.1 < change.0)
    let run = try RunDirectory.open(second.run)
    let operators = distilled.checkpointsPath + "/operators.safetensors"
    #expect(
      try run.request().job == .finetune(planPath: "plan.json", weights: [operators]))
    #expect(!history(run).messages.contains { $0.contains("fresh") })

    let rows: [RunRow] = try scratch.espalier("runs", "--json").json()
    #expect(Set(rows.map(\.kind)) == ["distill", "finetune"])
    #expect(try scratch.espalier("runs", "show", run.id).output.contains("held-out "))
    let result = "\(run.path)/checkpoints/model.safetensors"
    for arguments in [
      ["sample", result, "--npz", "x.npz", "--count", "1", "--steps", "1"],
      ["finetune", "plan.json", "--from", result, "--from", run.path, "--detach"],
    ] {
      let outcome = try scratch.run(arguments)
      #expect(outcome.code == 0, "\(outcome.complaint)")
    }
    let known = [run, distilled]
    let again = try #require(
      RunDirectory.list(root: scratch.runs).first {
        !known.contains($0) && (try? $0.request().job.kind) == .finetune
      })
    try wait(for: "the end") { again.summary().state == .done }
    // It begins where the other ended.
    #expect(history(again).meanHeldOut.first?.value == change.1)

    // Without weights the operators are fresh, and say so.
    let unasked = try scratch.espalier("finetune", "plan.json", "--json")
    #expect(
      unasked.complaint.contains("0 of 2 replaced slots have weights; fresh: 0.mlp, 1.attention"))
    #expect(unasked.complaint.contains("'--from matching' takes them"))
    let fresh: RunSummary = try unasked.json()
    #expect(
      history(try RunDirectory.open(fresh.run)).messages == ["untrained: 0.mlp, 1.attention"])
    #expect(fresh.meanHeldOutFirst != second.meanHeldOutFirst)
  }

  /// Killed again and again, wherever it stands, and taken up each time, a run ends in the very bytes of
  /// an undisturbed one, although the weights that it started from are gone.
  @Test(arguments: [TrainedParameters.all, .lora])
  func killedRunsEndLikeUndisturbedOnes(trained: TrainedParameters) throws {
    let scratch = try Scratch()
    let steps = 150
    try scratch.tinyPlan(steps: steps, batch: 2, checkpointEvery: 7) {
      $0.stage1.steps = 3
      $0.stage2.trained = trained
      $0.stage2.loraRank = 2
    }
    let start: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    let operators = scratch.path + "/operators.safetensors"
    try FileManager.default.copyItem(
      atPath: start.run + "/checkpoints/operators.safetensors", toPath: operators)
    let whole: RunSummary = try scratch.espalier(
      "finetune", "plan.json", "--from", operators, "--json"
    ).json()
    let undisturbed = try RunDirectory.open(whole.run)

    let detached = try scratch.espalier(
      "finetune", "plan.json", "--from", operators, "--detach")
    let run = try RunDirectory.open(
      detached.output.trimmingCharacters(in: .whitespacesAndNewlines))
    var kills = 0
    var reached = 0
    while reached < 110 {
      try wait(for: "a later checkpoint") {
        (history(run).summary.checkpoint?.step ?? 0) > reached || run.summary().state == .done
      }
      guard run.summary().state != .done else { break }
      // Somewhere between two checkpoints, or amid one.
      usleep(useconds_t(1_000 * (kills * 7 % 23)))
      let worker = try #require(run.worker())
      #expect(Foundation.kill(worker.pid, SIGKILL) == 0)
      try wait(for: "the worker's end") { !worker.isAlive }
      kills += 1
      if FileManager.default.fileExists(atPath: operators) {
        try FileManager.default.removeItem(atPath: operators)
      }
      reached = (history(run).summary.checkpoint?.step ?? 0) + 20
      if run.summary().state == .done { break }
      let resumed = try scratch.espalier("runs", "resume", run.id)
      #expect(resumed.code == 0, "\(resumed.complaint)")
    }
    #expect(kills > 1)
    let end: RunSummary = try scratch.espalier("runs", "follow", run.id, "--json").json()
    #expect(end.state == "done" && end.step == steps)
    #expect(try model(run) == model(undisturbed))
    #expect(history(run).meanHeldOut == history(undisturbed).meanHeldOut)
    #expect(history(run).meanLoss.last == history(undisturbed).meanLoss.last)
  }

  /// Both stages take their data alike; operators of other data are warned of.
  @Test func dataOfTheCommandLine() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 2)
    let data = try scratch.tinyLatents().path
    let first: RunSummary = try scratch.espalier(
      "distill", "plan.json", "--data", data, "--json"
    ).json()
    let same = try scratch.espalier(
      "finetune", "plan.json", "--from", first.run, "--data", data, "--detach")
    let origin =
      "2 of 2 replaced slots have weights, from \(try RunDirectory.open(first.run).id), step 2"
    #expect(
      same.code == 0 && same.complaint == "espalier: note: \(origin)\n", "\(same.complaint)")
    let run = try RunDirectory.open(same.output.trimmingCharacters(in: .whitespacesAndNewlines))
    #expect(try GraftPlan.load(path: run.planPath).data?.path == data)
    let other = try scratch.espalier("finetune", "plan.json", "--from", first.run, "--queue")
    #expect(
      other.complaint
        == "espalier: note: \(origin)\nespalier: warning: \(first.run) was trained on \(data), this run takes"
        + " the procedural images; --data \(data) takes the same\n")
    for id in [run.id, try RunDirectory.open(other.output.split(separator: "\n").joined()).id] {
      #expect(try scratch.espalier("runs", "wait", id).code == 0)
    }
  }

  @Test func refusals() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    try scratch.put("{}", "notes.txt")
    try scratch.expectRefusal(
      ["finetune", "plan.json", "--from", "nothing"],
      mentions: ["'nothing' is neither a file nor a run in \(scratch.runs)"])
    try scratch.expectRefusal(
      ["finetune", "model.safetensors"], mentions: ["model.safetensors", "not valid JSON"])
    let text = try scratch.text("plan.json")
    try scratch.put(
      text.replacingOccurrences(of: "\"trained\": \"all\"", with: "\"trained\": \"most\""),
      "bad.json")
    try scratch.expectRefusal(
      ["finetune", "bad.json"], mentions: ["bad.json:", "stage2.trained", "\"lora\""])
    // What only the worker can know is told by the run.
    let outcome = try scratch.espalier("finetune", "plan.json", "--from", "notes.txt")
    #expect(outcome.code == 1 && outcome.complaint.contains("notes.txt: "))
    let model = try scratch.espalier("finetune", "plan.json", "--from", "model.safetensors")
    #expect(model.code == 1 && model.complaint.contains("no operator in it was trained"))
  }
}
