import Foundation
import Plans
import Runs
import TestSupport
import Testing

import Explorer

/// The explorer lives with whatever lies in its run directories.
@Suite struct DamagedRunsTests {
  /// Every number of a run's files replaced by extremes: read, followed, compared, drawn.
  @Test(arguments: ["run.json", "events.jsonl", "worker.json"])
  func damagedRunsAreDrawn(name: String) throws {
    let scratch = try Scratch()
    let plan = Samples.oddPlan()
    let run = try RunDirectory.create(
      root: scratch.path,
      job: JobRequest(
        job: .distill(planPath: "plan.json"), name: "odd", createdAt: Samples.now - 200,
        codeVersion: "0", modelHash: "feedbeef", queue: QueuePlace(priority: 1)), plan: plan)
    let lock = try run.claim()
    defer { _ = lock }
    let site = plan.sites[0]
    let events: [EventKind] = [
      .started(pid: 1, totalSteps: 8), .progress(done: 1, total: 9, label: "encoding images"),
      .heldOut(step: 0, losses: [site: 2]),
      .step(step: 2, total: 8, loss: 0.5, losses: [site: 0.25], rate: 2, secondsLeft: 3),
      .checkpointed(step: 2, path: "checkpoints/latest.safetensors"),
      .progress(done: 4, total: 8, label: "measuring at step"),
    ]
    for kind in events { try run.append(Event(kind, time: Samples.now - 5)) }
    let path = "\(run.path)/\(name)"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    for damaged in Damage.of(text, values: 6) {
      try Data(damaged.utf8).write(to: URL(fileURLWithPath: path))
      let work = FileWork(
        launcher: try RunLauncher(root: scratch.path, executable: "/bin/false"),
        model: Samples.model, codeVersion: "0")
      var state = Samples.state(Samples.large)
      var actions = work.look(now: Date(timeIntervalSince1970: Samples.now))
      actions += work.perform(.openRun(id: run.id, adopt: false))
      actions += work.perform(.readRuns(ids: [run.id, run.id]))
      actions += work.perform(.readLog(id: run.id))
      for action in actions { _ = update(&state, action) }
      #expect(state.runs.records.map(\.id) == [run.id])
      _ = ExplorerView.frame(state)
      press(&state, "t", "r")
      _ = ExplorerView.frame(state)
    }
  }
}
