import Foundation
import Plans
import Runs
import Testing

/// Reports and comparisons of real runs.
@Suite struct ReportTests {
  private struct Row: Decodable {
    let name: String
    let run: String?
    let stage: Int?
    let heldOutFirst, heldOutLast, agreement, frechetDistance: Double?
    let forwardMilliseconds, forwardRatio: Double?
    let isOnParetoFront: Bool
  }

  private struct Report: Decodable {
    struct Entry: Decodable {
      struct Measurements: Decodable {
        struct Settings: Decodable { let samples, steps: Int }
        let settings: Settings
        let judgedNote: String?
      }
      let measurements: Measurements?
    }
    let runs: [Entry]
    let comparison: [Row]
  }

  /// Both stages, what is computed once and kept, and what the page holds.
  @Test func bothStages() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 4)
    let first: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    let second: RunSummary = try scratch.espalier(
      "finetune", "plan.json", "--from", first.run, "--json"
    ).json()

    // Nothing is measured without being asked for.
    let known: [Row] = try scratch.espalier("compare", first.run, second.run, "--json").json()
    #expect(known.map(\.stage) == [nil, 1, 2] && known.allSatisfy { $0.agreement == nil })
    #expect(known[1].heldOutLast == first.meanHeldOutLast && known[0].run == nil)
    #expect(!scratch.exists(first.run + "/report.json"))

    let outcome = try scratch.espalier(
      "report", first.run, second.run, "--output", "page.html", "--samples", "10", "--steps", "1",
      "--images", "2", "--json")
    #expect(outcome.code == 0, "\(outcome.complaint)")
    let report: Report = try outcome.json()
    #expect(report.runs.allSatisfy { $0.measurements?.settings.samples == 10 })
    #expect(report.comparison.allSatisfy { $0.agreement != nil && $0.forwardRatio != nil })
    #expect(report.comparison[0].forwardRatio == 1)
    let page = try scratch.text("page.html")
    #expect(page.components(separatedBy: "data:image/png;base64,").count == 9)
    for text in [
      "Comparison", "graft, before stage 2", "after stage 1", "disc", "Fréchet distance",
    ] {
      #expect(page.contains(text), "\(text)")
    }
    // The images and the judge's numbers come after the worker's own file.
    let files = try FileManager.default.contentsOfDirectory(atPath: first.run + "/tensorboard")
    #expect(files.count == 2 && files.allSatisfy { $0.hasPrefix("events.out.tfevents.") })

    // What is known stays: the very same numbers, also without samples being named.
    let kept = try scratch.bytes(first.run + "/report.json")
    let again: [Row] = try scratch.espalier("compare", first.run, "--measure", "--json").json()
    #expect(try scratch.bytes(first.run + "/report.json") == kept)
    #expect(again[1].frechetDistance == report.comparison[1].frechetDistance)
    #expect(try scratch.espalier("compare", first.run).output.contains("× "))
    #expect(try scratch.espalier("compare", first.run, "--markdown").output.hasPrefix("| run |"))

    // Another number of samples is another measurement; the time of a pass is not.
    let other: [Row] = try scratch.espalier(
      "compare", first.run, "--measure", "--samples", "20", "--json"
    ).json()
    #expect(other[1].forwardMilliseconds == again[1].forwardMilliseconds)
    #expect(other[1].frechetDistance != again[1].frechetDistance)
  }

  /// A model without a judge has a report that says why parts are missing.
  @Test func withoutJudge() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 2)
    let run: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    for companion in ["judge.safetensors", "autoencoder.safetensors"] {
      try FileManager.default.removeItem(atPath: "\(scratch.path)/\(companion)")
    }
    let outcome = try scratch.espalier("report", run.run, "--output", "page.html")
    #expect(outcome.code == 0 && outcome.output == "page.html: 1 run\n", "\(outcome.complaint)")
    let page = try scratch.text("page.html")
    #expect(
      page.contains("No agreement and no Fréchet distance: there is no judge beside the model"))
    #expect(page.contains("No images: the folder of the model has no autoencoder"))
    #expect(page.contains("forward pass, batch 1"))
  }

  @Test func refusals() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan(steps: 2)
    let request = JobRequest(
      job: .analyze(AnalyzeRequest(modelPath: "demo")), name: "demo", codeVersion: "0",
      modelHash: "0")
    let other = try RunDirectory.create(root: scratch.runs, job: request)
    try scratch.expectRefusal(
      ["report", "nothing", "--output", "page.html"],
      mentions: ["no run begins or ends with 'nothing'"])
    try scratch.expectRefusal(
      ["report", other.path, "--output", "page.html"], mentions: ["trains nothing"])
    try scratch.expectRefusal(["compare", other.id], mentions: ["trains nothing"])
    try scratch.expectRefusal(["report", "x"], code: 2, mentions: ["--output or --json"])
    try scratch.expectRefusal(
      ["report", "x", "--output", "no/page.html"], mentions: ["no/page.html"])
    try scratch.expectRefusal(
      ["compare", "x", "--samples", "20"], code: 2, mentions: ["--measure"])
  }
}
