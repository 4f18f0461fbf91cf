import Checkpoints
import Foundation
import Pictures
import Testing

/// A row of `espalier runs --json`.
struct RunRow: Decodable {
  let id, kind, name, state: String
  let step, total: Int
}

/// What `distill` and `runs show` say of a run.
struct RunSummary: Decodable {
  let run, state: String
  let step, total: Int
  let meanHeldOutFirst, meanHeldOutLast: Double?
  let heldOut: [String: [String: Double]]
}

/// The whole journey without a terminal, and its single steps.
@Suite struct JourneyTests {
  private struct PlanReport: Decodable {
    struct Edit: Decodable {
      let block: Int
      let slot, `operator`, label: String
      let config: [String: Double]
    }
    let name, model: String
    let edits: [Edit]
    let parameters, originalParameters: Int
    let flops, originalFlops: Double
  }

  private struct Verdict: Decodable {
    let valid: Bool
    let withoutEffect: [String]
  }

  private struct ModelReport: Decodable {
    struct Shape: Decodable { let depth, hiddenSize, numClasses: Int }
    let bytes, tensorCount, parameters: Int
    let model: Shape?
    let classNames: [String]
    let plan: String?
    let edits: [String: String]
    let parametersByBlock: [Int]
  }

  @Test func planRoundTrip() throws {
    let scratch = try Scratch()
    let new = try scratch.espalier("plan", "new", "p.json", "--name", "odd hyena", "--json")
    #expect(new.code == 0 && new.complaint.isEmpty)
    let empty: PlanReport = try new.json()
    #expect(empty.name == "odd hyena" && empty.model == "demo" && empty.edits.isEmpty)
    #expect(empty.parameters == empty.originalParameters)

    let set: PlanReport = try scratch.espalier(
      "plan", "set", "p.json", "--blocks", "odd", "--operator", "hyena_x", "--config",
      "short_filter_order=6", "--steps", "7", "--json"
    ).json()
    #expect(set.edits.map(\.block) == Array(stride(from: 1, to: 28, by: 2)))
    #expect(set.edits.allSatisfy { $0.slot == "attention" && $0.operator == "hyena_x" })
    #expect(set.edits.allSatisfy { $0.config["short_filter_order"] == 6 })
    #expect(set.flops < set.originalFlops)

    let shown: PlanReport = try scratch.espalier("plan", "show", "p.json", "--json").json()
    #expect(shown.edits.map(\.block) == set.edits.map(\.block) && shown.flops == set.flops)
    #expect(try scratch.text("p.json").contains("\"steps\": 7"))
    let valid: Verdict = try scratch.espalier("plan", "validate", "p.json", "--json").json()
    #expect(valid.valid && valid.withoutEffect.isEmpty)

    let cleared: PlanReport = try scratch.espalier(
      "plan", "set", "p.json", "--clear", "attention", "--blocks", "last 26", "--json"
    ).json()
    #expect(cleared.edits.map(\.block) == [1])
  }

  /// Depth to width from the plan to the images: 28 blocks cost the same and are 14 steps deep.
  @Test func parallelBlocks() throws {
    struct Wide: Decodable {
      struct Pair: Decodable { let blocks: [Int], merge: String }
      let parallel: [Pair]
      let depth, originalDepth, parameters, originalParameters: Int
    }
    let scratch = try Scratch()
    #expect(try scratch.espalier("plan", "new", "p.json").code == 0)
    let all: Wide = try scratch.espalier(
      "plan", "parallel", "p.json", "--blocks", "all", "--merge", "residual", "--json"
    ).json()
    #expect(all.parallel.count == 14 && all.depth == 14 && all.originalDepth == 28)
    #expect(all.parameters == all.originalParameters)
    let mixed: Wide = try scratch.espalier(
      "plan", "parallel", "p.json", "--blocks", "2-5", "--json"
    ).json()
    #expect(mixed.parallel[1].blocks == [2, 3] && mixed.parallel[1].merge == "projection")
    #expect(mixed.parameters > mixed.originalParameters)
    let few: Wide = try scratch.espalier(
      "plan", "parallel", "p.json", "--blocks", "7-27", "--split", "--json"
    ).json()
    #expect(few.parallel.map(\.blocks) == [[0, 1], [2, 3], [4, 5]] && few.depth == 25)
    let shown = try scratch.espalier("plan", "show", "p.json").output
    #expect(shown.contains("  2+3  parallel, merged by projection"))
    #expect(shown.contains(", depth 25 (of 28)"))
    for (options, mentions) in [
      (["--blocks", "4,6"], ["--blocks: block 4 is chosen without its neighbour 5"]),
      (["--blocks", "5-6"], ["blocks 4 and 5 are parallel already", "split them"]),
      (["--blocks", "27-28"], ["--blocks:", "outside 0 to 27"]),
      (["--blocks", "9", "--split"], ["none of these blocks is parallel"]),
    ] {
      try scratch.expectRefusal(["plan", "parallel", "p.json"] + options, mentions: mentions)
    }
    try scratch.expectRefusal(
      ["plan", "parallel", "p.json", "--blocks", "8-9", "--merge", "sum"], code: 2,
      mentions: ["sum", "projection"])

    // Both blocks of the tiny model in parallel, with the operators of its plan in them.
    try scratch.tinyPlan()
    #expect(
      try scratch.espalier("plan", "parallel", "plan.json", "--blocks", "all").code == 0)
    let run: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    #expect(run.state == "done" && Array(run.heldOut.keys) == ["0+1"])
    let grafted = "\(run.run)/checkpoints/model.safetensors"
    let report: ModelReport = try scratch.espalier("inspect", grafted, "--json").json()
    #expect(report.edits["0+1"] == "parallel, merged by projection" && report.edits.count == 3)
    #expect(report.model?.depth == 2)
    var images: Set<Data> = []
    for model in [
      [grafted], ["model.safetensors", "--plan", "plan.json", "--weights", grafted],
    ] {
      let outcome = try scratch.run(
        ["sample"] + model + ["--npz", "x.npz", "--count", "2", "--steps", "2"])
      #expect(outcome.code == 0, "\(outcome.complaint)")
      images.insert(try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/x.npz")))
    }
    #expect(images.count == 1)
    try scratch.expectRefusal(
      ["plan", "export", "plan.json", "folder"], mentions: ["official format"])
  }

  @Test func inspectsShippedModel() throws {
    let scratch = try Scratch()
    let report: ModelReport = try scratch.espalier("inspect", "--json").json()
    #expect(report.model?.depth == 28 && report.model?.numClasses == 10)
    #expect(report.classNames.count == 10 && report.plan == nil && report.edits.isEmpty)
    #expect(report.parametersByBlock.count == 28 && Set(report.parametersByBlock).count == 1)
    #expect(report.parameters * 4 == report.bytes)
    let lines = try scratch.espalier("inspect", "--statistics").output
    #expect(lines.contains("x_embedder.proj.weight\n    mean "))
  }

  /// The shipped model as a PyTorch file and as a folder of diffusers draws the same images, and every
  /// command that takes a model takes them.
  @Test func convertedModelsDrawTheSame() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    #expect(try scratch.espalier("convert", "model.safetensors", "--to", "model.pt").code == 0)
    let folder = try scratch.espalier(
      "convert", "model.pt", "--to", "pipeline", "--naming", "diffusers", "--json")
    #expect(folder.code == 0 && folder.output.contains("vae/config.json"))
    var images: Set<Data> = []
    for model in ["model.safetensors", "model.pt", "pipeline"] {
      let outcome = try scratch.espalier(
        "sample", model, "--npz", "x.npz", "--count", "3", "--steps", "2", "--json")
      #expect(outcome.code == 0, "\(outcome.complaint)")
      images.insert(try Data(contentsOf: URL(fileURLWithPath: scratch.path + "/x.npz")))
      let report: ModelReport = try scratch.espalier("inspect", model, "--json").json()
      #expect(report.model?.depth == 2 && report.classNames.count == 10)
      #expect(try scratch.espalier("plan", "new", "p.json", "--model", model, "--force").code == 0)
      #expect(try scratch.espalier("analyze", model, "--samples", "1", "--json").code == 0)
    }
    #expect(images.count == 1)
    let batch = try Checkpoint.open(scratch.path + "/x.npz")
    #expect(batch.entry("arr_0")?.shape == [3, 64, 64, 3])
    try scratch.expectRefusal(
      ["convert", "model.pt", "--to", "folder"], mentions: ["folder: ends in neither"])
    try scratch.expectRefusal(
      ["inspect", "model.pt#ema"], mentions: ["model.pt: ", "'ema'"])
  }

  @Test func listsNoRuns() throws {
    let scratch = try Scratch()
    let rows: [RunRow] = try scratch.espalier("runs", "--json").json()
    #expect(rows.isEmpty)
    #expect(try scratch.espalier("runs").output == "no runs in \(scratch.runs)\n")
    #expect(!scratch.exists(scratch.runs), "listing made the directory")
  }

  @Test func drawsShapes() throws {
    let scratch = try Scratch()
    let outcome = try scratch.espalier("shapes", "--output", "s.png", "--count", "20")
    #expect(outcome.code == 0 && outcome.complaint.isEmpty)
    let sheet = try RGBImage.read(path: "\(scratch.path)/s.png")
    #expect(sheet.width == 10 * 66 - 2 && sheet.height == 2 * 66 - 2)
    #expect(Set(sheet.pixels).count > 50)
    #expect(try scratch.espalier("shapes", "--output", "s.raw", "--count", "3").code == 0)
    #expect(try scratch.bytes("s.raw").count == 3 * 3 * 64 * 64)
  }

  /// The shipped model with one slot edited, from plan to images.
  @Test func shippedModel() throws {
    let scratch = try Scratch()
    #expect(try scratch.espalier("plan", "new", "p.json").code == 0)
    #expect(
      try scratch.espalier(
        "plan", "set", "p.json", "--blocks", "13", "--operator", "hyena_x", "--steps", "3",
        "--batch", "2"
      ).code == 0)
    let text = try scratch.text("p.json")
    try scratch.put(
      text.replacingOccurrences(of: "\"held_out_samples\": 128", with: "\"held_out_samples\": 4"),
      "p.json")
    let distilled = try scratch.espalier("distill", "p.json", "--json")
    let summary: RunSummary = try distilled.json()
    #expect(distilled.code == 0 && summary.state == "done")
    #expect(summary.step == 3 && summary.total == 3)
    #expect(Array(summary.heldOut.keys) == ["13.attention"])
    let model = summary.run + "/checkpoints/model.safetensors"
    let report: ModelReport = try scratch.espalier("inspect", model, "--json").json()
    #expect(report.plan == "p" && report.edits == ["13.attention": "hyena-x"])
    let sampled = try scratch.espalier(
      "sample", model, "--count", "1", "--steps", "2", "--output", "x.png")
    #expect(sampled.code == 0, "\(sampled.complaint)")
  }

  @Test func tinyModel() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let distilled = try scratch.espalier("distill", "plan.json", "--json")
    #expect(distilled.code == 0, "\(distilled.complaint)")
    let summary: RunSummary = try distilled.json()
    #expect(summary.state == "done" && summary.step == 3 && summary.total == 3)
    #expect(summary.heldOut.keys.sorted() == ["0.mlp", "1.attention"])
    #expect(summary.meanHeldOutFirst != summary.meanHeldOutLast)
    #expect(summary.run.hasPrefix(scratch.runs))
    let (operators, model) = (
      summary.run + "/checkpoints/operators.safetensors",
      summary.run + "/checkpoints/model.safetensors"
    )
    #expect(scratch.exists(operators) && scratch.exists(model))

    let report: ModelReport = try scratch.espalier("inspect", model, "--json").json()
    #expect(report.plan == "tiny")
    #expect(report.edits == ["0.mlp": "r2", "1.attention": "hyena-x"])
    let rows: [RunRow] = try scratch.espalier("runs", "--json").json()
    #expect(rows.map(\.state) == ["done"] && rows.map(\.name) == ["tiny"])
    let shown: RunSummary = try scratch.espalier("runs", "show", rows[0].id, "--json").json()
    #expect(shown.run == summary.run && shown.meanHeldOutLast == summary.meanHeldOutLast)

    // The saved model and the plan with the operators are the same network; fresh ones are not.
    func sample(_ output: String, _ arguments: String...) throws -> Data {
      let outcome = try scratch.run(
        ["sample"] + arguments + ["--count", "2", "--steps", "2", "--output", output])
      #expect(outcome.code == 0 && outcome.output == "\(output): 2 images\n")
      return try scratch.bytes(output)
    }
    let grafted = try sample("grafted.png", model)
    let image = try RGBImage.read(path: "\(scratch.path)/grafted.png")
    #expect(image.width == 2 * 66 - 2 && image.height == 64)
    let plan = ["model.safetensors", "--plan", "plan.json"]
    #expect(try sample("both.png", plan[0], plan[1], plan[2], "--weights", operators) == grafted)
    #expect(try sample("fresh.png", plan[0], plan[1], plan[2]) != grafted)

    struct Verdict: Decodable {
      let samples: Int
      let agreement, frechetDistance, judgeAccuracy: Double
      let agreementByClass: [Double]
    }
    let verdict: Verdict = try scratch.espalier(
      "evaluate", model, "--judge", "--samples", "10", "--steps", "2", "--json"
    ).json()
    #expect(verdict.samples == 10 && (0...1).contains(verdict.agreement))
    #expect(verdict.frechetDistance > 0 && verdict.agreementByClass.count == 10)
    #expect(verdict.judgeAccuracy > 0.8)
  }

  /// Operators of every kind side by side, set by the command line, distilled and sampled.
  @Test func mixedOperators() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let edits = [
      ["0", "mamba2", "attention"], ["1", "skip", "attention"], ["0", "skip", "mlp"],
      ["1", "mlp_hyena_x", "mlp"],
    ]
    for edit in edits {
      let outcome = try scratch.run([
        "plan", "set", "plan.json", "--blocks", edit[0], "--operator", edit[1], "--slot", edit[2],
      ])
      #expect(outcome.code == 0, "\(outcome.complaint)")
    }
    let summary: RunSummary = try scratch.espalier("distill", "plan.json", "--json").json()
    #expect(summary.state == "done")
    #expect(
      summary.heldOut.keys.sorted() == ["0.attention", "0.mlp", "1.attention", "1.mlp"])
    let model = summary.run + "/checkpoints/model.safetensors"
    let report: ModelReport = try scratch.espalier("inspect", model, "--json").json()
    #expect(
      report.edits == [
        "0.attention": "mamba2", "1.attention": "skip", "0.mlp": "skip", "1.mlp": "hy-x",
      ])
    let sampled = try scratch.espalier(
      "sample", model, "--count", "2", "--steps", "2", "--output", "mixed.png")
    #expect(sampled.code == 0, "\(sampled.complaint)")
    let wrong = try scratch.espalier(
      "plan", "set", "plan.json", "--blocks", "0", "--operator", "mamba2", "--slot", "mlp")
    #expect(wrong.code == 1 && wrong.complaint.contains("mamba2 fits the attention slot"))
  }

  /// Plans hold the model's full path, so they work from anywhere.
  @Test func planKnowsItsModelFromAnywhere() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    #expect(try scratch.espalier("plan", "new", "p.json", "--model", model).code == 0)
    let outcome = try scratch.espalier(
      "plan", "validate", "\(scratch.path)/p.json", prefix: "cd /;")
    #expect(outcome.code == 0, "\(outcome.complaint)")
  }

  @Test func analysesOnceThenReads() throws {
    let scratch = try Scratch()
    struct Analysis: Decodable, Equatable {
      struct Block: Decodable, Equatable { let locality: [Double] }
      let bands: [Int]
      let blocks: [Block]
    }
    let model = try scratch.tinyModel()
    let first: Analysis = try scratch.espalier(
      "analyze", model, "--samples", "2", "--json"
    ).json()
    #expect(first.blocks.count == 2 && first.blocks.allSatisfy { $0.locality.count == 4 })
    let again = try scratch.espalier("analyze", model, "--samples", "2", "--json")
    #expect(try again.json(Analysis.self) == first)
    #expect(again.complaint.isEmpty, "it computed again")
  }
}
