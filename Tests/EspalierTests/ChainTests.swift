import Foundation
import Plans
import Runs
import Testing

/// `espalier chain` with real workers.
@Suite struct ChainTests {
  private static let quick = ["--samples", "10", "--steps", "1", "--images", "2"]

  @Test func bothStagesAreTrainedMeasuredAndReported() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let outcome = try scratch.run(
      ["chain", "plan.json", "--output", "page.html", "--json"] + Self.quick)
    #expect(outcome.code == 0, "\(outcome.complaint)")
    let rows: [RunSummary] = try outcome.json()
    #expect(rows.map(\.state) == Array(repeating: "done", count: 4))
    let page = try String(contentsOfFile: scratch.path + "/page.html", encoding: .utf8)
    #expect(page.contains("2 of 2 replaced slots have weights, from"))
    // Its finetuning holds the weights of the plan now.
    let sampled = try scratch.espalier(
      "sample", "model.safetensors", "--plan", "plan.json", "--weights", "matching", "--npz",
      "x.npz",
      "--count", "1", "--steps", "1")
    #expect(sampled.code == 0 && sampled.complaint.contains("2 of 2 replaced slots have weights"))
  }

  /// What fails stops the rest with a reason; resumed, it lets the rest go on.
  @Test func aFailureStopsTheRestUntilItIsResumed() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    _ = try scratch.tinyLatents { _ in .nan }
    let outcome = try scratch.run(["chain", "plan.json", "--data", "data"] + Self.quick)
    #expect(outcome.code == 1)
    #expect(outcome.complaint.contains("the chain has stopped, distill is failed"))
    let runs = RunDirectory.list(root: scratch.runs)
    let first = try #require(try runs.first { try $0.request().job.kind == .distill })
    let listed = try scratch.espalier("runs", "list")
    #expect(listed.output.contains("\(first.id), which must be done before, is failed"))
    _ = try scratch.tinyLatents()
    let resumed = try scratch.espalier("runs", "resume", first.id)
    #expect(resumed.code == 0, "\(resumed.complaint)")
    let last = try #require(try runs.first { try $0.request().job.kind == .report })
    let waited = try scratch.espalier("runs", "wait", first.id)
    #expect(waited.code == 0, "\(waited.complaint)")
    try wait(for: "the report") { last.summary().state.isEnded }
    #expect(last.summary().state == .done)
    #expect(scratch.exists(last.path + "/report.html"))
  }

  /// Weights that only some slots have are refused without a yes, and named.
  @Test func mixturesNeedAYes() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let distilled = try scratch.espalier("distill", "plan.json", "--json")
    #expect(distilled.code == 0, "\(distilled.complaint)")
    let changed = try scratch.espalier(
      "plan", "set", "plan.json", "--blocks", "0", "--operator", "hyena_x")
    #expect(changed.code == 0, "\(changed.complaint)")
    for arguments in [
      ["finetune", "plan.json", "--from", "matching"],
      [
        "sample", "model.safetensors", "--plan", "plan.json", "--weights", "matching", "--npz",
        "x.npz",
      ],
      ["report", "plan.json", "--json"],
    ] {
      try scratch.expectRefusal(
        arguments,
        mentions: [
          "2 of 3 replaced slots have weights, from", "fresh: 0.attention", "--allow-mixture",
        ])
    }
    let mixed = try scratch.espalier(
      "finetune", "plan.json", "--from", "matching", "--allow-mixture", "--json")
    #expect(mixed.code == 0, "\(mixed.complaint)")
    #expect(mixed.complaint.contains("fresh: 0.attention"))
    let run: RunSummary = try mixed.json()
    let shown = try scratch.espalier("runs", "show", RunDirectory.open(run.run).id)
    #expect(shown.output.contains("2 of 3 replaced slots have weights, from"))
    // That run holds all of them now.
    let again = try scratch.espalier("finetune", "plan.json", "--from", "matching", "--json")
    #expect(again.code == 0 && again.complaint.contains("3 of 3 replaced slots have weights"))
    // Weights of the same name, or for another model, are none.
    let other = try scratch.tinyModel("other.safetensors", learnSigma: false)
    _ = try scratch.espalier("plan", "new", "tiny.json", "--model", other, "--name", "tiny")
    _ = try scratch.espalier("plan", "set", "tiny.json", "--blocks", "1", "--operator", "hyena_x")
    try scratch.expectRefusal(
      ["finetune", "tiny.json", "--from", RunDirectory.open(run.run).id],
      mentions: ["trained another model"])
  }
}
