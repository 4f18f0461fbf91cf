import Checkpoints
import Foundation
import Runs
import TensorCore
import Testing

/// Sets of images and their evaluations as runs.
@Suite("Sets and evaluations", .serialized)
struct SampleRunTests {
  /// Starts a command detached, kills its worker whenever it is at work, and resumes it to its end.
  ///
  /// - Returns: The run, and how often it was killed.
  private func runWithKills(
    _ command: [String], _ scratch: Scratch, most: Int = 3
  ) throws -> (run: RunDirectory, kills: Int) {
    let started = try scratch.run(command + ["--detach", "--json"])
    #expect(started.code == 0, "\(started.complaint)")
    let run = try RunDirectory.open(
      try #require(try started.json([String: String].self)["run"]))
    var kills = 0
    while true {
      let summary = run.summary()
      if summary.state == .done { return (run, kills) }
      try #require(summary.state != .failed && kills < 100, "\(summary.end?.text ?? "")")
      if summary.state == .lost {
        let resumed = try scratch.espalier("runs", "resume", run.path)
        #expect(resumed.code == 0, "\(resumed.complaint)")
        continue
      }
      // Every kill hits a worker that has done more than the one before.
      if kills < most, summary.label != nil, summary.step > 12 * kills, let pid = run.worker()?.pid
      {
        kill(pid, SIGKILL)
        kills += 1
      }
      usleep(3_000)
    }
  }

  private static let drawing = [
    "sample", "model.safetensors", "--count", "60", "--steps", "8", "--seed", "7", "--labels",
    "random", "--with-labels", "--cache", "0.9",
  ]

  @Test func killedSetsEndInTheSameBytes() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    let whole = try scratch.run(
      Self.drawing + ["--chunk", "6", "--batch", "3", "--npz", "one.npz", "--json"])
    #expect(whole.code == 0, "\(whole.complaint)")
    #expect(try whole.json([String: String].self)["images"] == "60")
    let (run, kills) = try runWithKills(
      Self.drawing + ["--chunk", "6", "--batch", "3", "--npz", "two.npz"], scratch)
    #expect(kills >= 2)
    #expect(try scratch.bytes("two.npz") == scratch.bytes("one.npz"))
    #expect(try scratch.bytes("two.npz.json") == scratch.bytes("one.npz.json"))
    #expect(try Data(contentsOf: URL(filePath: run.setPath)) == scratch.bytes("one.npz.json"))
    #expect(!scratch.exists(run.chunksPath) && scratch.exists(run.resolve(RunDirectory.sheet)))

    // Other chunks and batches make no difference.
    let other = try scratch.run(
      Self.drawing + ["--chunk", "25", "--batch", "7", "--npz", "three.npz"])
    #expect(other.code == 0, "\(other.complaint)")
    #expect(try scratch.bytes("three.npz") == scratch.bytes("one.npz"))

    // Labels are drawn uniformly with the seed.
    let file = try Checkpoint.open("\(scratch.path)/one.npz")
    let stream = RandomStream(seed: 7, "sampling/labels")
    #expect(try file.integers("arr_1") == (0..<60).map { stream.integer(below: 10, $0) })
    #expect(file.entry("arr_0")?.shape == [60, 64, 64, 3])
    let said = try JSONDecoder().decode([String: String].self, from: scratch.bytes("one.npz.json"))
    for (key, value) in [("steps", "8"), ("seed", "7"), ("labels", "random"), ("guidance", "2.0")] {
      #expect(said[key] == value, "\(key)")
    }
    #expect(said["model_digest"]?.count == 64 && said["weights_average"] == "as in the file")
    // The share of all chunks, whoever drew them; and float32, as no layer is large enough for another precision.
    let share = try #require(said["step_cache_reused"].flatMap(Double.init))
    #expect(share > 0 && share < 1 && said["precision"] == "fp32")
    let three = try JSONDecoder().decode(
      [String: String].self, from: scratch.bytes("three.npz.json"))
    #expect(three["step_cache_reused"] == said["step_cache_reused"])
  }

  /// Also where a batch, or the last steps of a trajectory, give products few rows.
  @Test(arguments: ["1", "2", "33"])
  func smallBatchesMakeNoDifference(steps: String) throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    var sets: Set<Data> = []
    for batch in ["1", "2", "5"] {
      let outcome = try scratch.espalier(
        "sample", "model.safetensors", "--npz", "x.npz", "--count", "5", "--steps", steps,
        "--batch", batch)
      #expect(outcome.code == 0, "\(outcome.complaint)")
      sets.insert(try scratch.bytes("x.npz"))
    }
    #expect(sets.count == 1)
  }

  @Test func labelsComeFromAFile() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    let labels: [Int64] = [3, 3, 9, 0]
    try NumpyWriter<Int64>.write(to: "\(scratch.path)/labels.npy", shape: [4]) {
      try $0?.add(labels)
    }
    let command = [
      "sample", "model.safetensors", "--steps", "2", "--npz", "x.npz", "--with-labels",
    ]
    let drawn = try scratch.run(command + ["--count", "4", "--labels", "labels.npy"])
    #expect(drawn.code == 0, "\(drawn.complaint)")
    #expect(try Checkpoint.open("\(scratch.path)/x.npz").integers("arr_1") == [3, 3, 9, 0])
    try scratch.expectRefusal(
      command + ["--count", "5", "--labels", "labels.npy"],
      mentions: ["labels.npy: holds labels of shape [4], expected integers for at least 5 images"])
    try NumpyWriter<Int64>.write(to: "\(scratch.path)/labels.npy", shape: [4]) {
      try $0?.add([0, 1, 2, 10])
    }
    try scratch.expectRefusal(
      command + ["--count", "4", "--labels", "labels.npy"], mentions: ["10 is no class"])
    try scratch.expectRefusal(
      ["sample", "model.safetensors", "--output", "x.png", "--queue"], code: 2,
      mentions: ["belong to --npz without other outputs"])
  }

  /// A model that changed under a run is noticed.
  @Test func changedModelsAreNoticed() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    let started = try scratch.run([
      "sample", model, "--npz", "x.npz", "--count", "100000", "--detach", "--json",
    ])
    let run = try RunDirectory.open(
      try #require(try started.json([String: String].self)["run"]))
    try wait(for: "an image") { run.summary().step > 0 || run.summary().state.isEnded }
    try run.cancel(hard: true)
    var changed = try scratch.bytes(model)
    changed[changed.count - 1] ^= 1
    try changed.write(to: URL(filePath: "\(scratch.path)/\(model)"))
    let resumed = try scratch.run(["worker", run.path])
    #expect(resumed.code == 1 && resumed.complaint.contains("its weights have changed"))
    #expect(!scratch.exists("x.npz"))
  }

  @Test func killedEvaluationsEndInTheSameBytes() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let trained = try scratch.espalier("distill", "plan.json", "--json")
    let training: RunSummary = try trained.json()
    // A graft is compared with its teacher.
    let command = ["evaluate", training.run, "--samples", "120", "--steps", "6", "--cache", "0.9"]
    let whole = try scratch.run(command + ["--json", "--page", "page.html"])
    #expect(whole.code == 0, "\(whole.complaint)")
    let (run, kills) = try runWithKills(command, scratch)
    #expect(kills >= 1)
    let numbers = try Data(contentsOf: URL(filePath: run.evaluationPath))
    #expect(String(decoding: numbers, as: UTF8.self) == whole.output)

    struct Report: Decodable {
      struct Estimate: Decodable { let value, standardError: Double }
      struct Provenance: Decodable {
        struct Source: Decodable {
          let digest: String
          let count: Int
          let description: Statements
        }
        struct Statements: Decodable {
          let steps: Int
          let weightsDigest: String?
          let stepCacheReused: Double?
        }
        let samples, reference: Source
        let network: String
        let networkDigest: String?
      }
      let kind: String
      let latents: Estimate
      let features: Estimate?
      let samples: Int
      let provenance: Provenance
    }
    let report: Report = try whole.json()
    #expect(report.kind == "paired" && report.samples == 120)
    #expect(report.latents.value > 0 && report.latents.standardError > 0)
    #expect(report.features != nil && report.provenance.network.contains("judge"))
    let samples = report.provenance.samples
    #expect(samples.count == 120 && samples.description.steps == 6)
    #expect(samples.description.weightsDigest?.count == 64)
    #expect(try #require(samples.description.stepCacheReused) > 0)
    #expect(report.provenance.reference.description.stepCacheReused == nil)
    #expect(samples.digest == report.provenance.reference.digest)
    let page = try String(contentsOfFile: "\(scratch.path)/page.html", encoding: .utf8)
    #expect(page.contains("paired distance, latents") && page.contains("samples weights digest"))

    // Other steps: the numbers stand beside each other with what keeps them from being compared.
    let other = try scratch.run(
      ["evaluate", training.run, "--samples", "20", "--steps", "3", "--json"])
    #expect(other.code == 0, "\(other.complaint)")
    let runs = RunDirectory.list(root: scratch.runs).filter {
      (try? $0.request().job.kind) == .evaluate
    }
    let table = try scratch.run(["compare"] + runs.map(\.path))
    #expect(table.code == 0, "\(table.complaint)")
    #expect(table.output.contains("paired distance, latents"))
    for mention in ["samples count is 20 in", "samples steps is 3 in"] {
      #expect(
        table.output.contains("the numbers do not compare as they are: \(mention)"),
        "\(table.output)")
    }
    let reported = try scratch.run(
      ["report"] + runs.map(\.path) + ["--output", "both.html"])
    #expect(reported.code == 0, "\(reported.complaint)")
    let both = try String(contentsOfFile: "\(scratch.path)/both.html", encoding: .utf8)
    #expect(both.contains("Evaluations") && both.contains("samples steps is 3 in"))
  }

  @Test func featuresAreEvaluatedByARun() throws {
    let scratch = try Scratch()
    for (name, count) in [("a", 40), ("b", 30)] {
      try NumpyWriter<Float>.write(to: "\(scratch.path)/\(name).npy", shape: [count, 3]) {
        try $0?.add(RandomStream(seed: UInt64(count), "features").normal([count, 3]).values)
      }
    }
    let outcome = try scratch.espalier(
      "evaluate", "a.npy", "--reference", "b.npy", "--features", "--bootstrap", "5")
    #expect(outcome.code == 0, "\(outcome.complaint)")
    for text in ["Fréchet distance", "(90 %:", "KID", "reference sha256", "samples count"] {
      #expect(outcome.output.contains(text), "\(text): \(outcome.output)")
    }

    // Right angles: 1000 (1 + 1 - 2 exp(-2 / 200)) between the sets, whatever the lengths.
    for (name, row) in [("x", [Float(3), 0]), ("y", [0, 5])] {
      try NumpyWriter<Float>.write(to: "\(scratch.path)/\(name).npy", shape: [4, 2]) {
        try $0?.add((0..<4).flatMap { _ in row })
      }
    }
    let embedded = try scratch.espalier(
      "evaluate", "x.npy", "--reference", "y.npy", "--features", "--json")
    struct Discrepancy: Decodable { let clipDiscrepancy: Double }
    let value = try embedded.json(Discrepancy.self).clipDiscrepancy
    #expect(abs(value - 2000 * (1 - exp(-0.01))) < 1e-6)
    try scratch.expectRefusal(
      ["evaluate", "a.npy", "--reference", "nothing.npy", "--features"],
      mentions: ["nothing.npy: no such file"])
  }

  /// 8-bit integers are for sets and their evaluations, and what was never trained is said to be so.
  @Test func precisionAndFreshOperatorsAreStated() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let drawing = [
      "sample", "model.safetensors", "--count", "2", "--steps", "1", "--precision", "int8",
    ]
    for output in [["--npz", "x.npz"], ["--output", "x.png"]] {
      let drawn = try scratch.run(drawing + output + ["--plan", "plan.json"])
      #expect(drawn.code == 0, "\(drawn.complaint)")
      #expect(
        drawn.complaint.contains("0 of 2 replaced slots have weights; fresh:"), "\(drawn.complaint)"
      )
    }
    let said = try JSONDecoder().decode([String: String].self, from: scratch.bytes("x.npz.json"))
    #expect(said["weights_average"] == "operators fresh (untrained)")
    let run = try #require(RunDirectory.list(root: scratch.runs).first)
    #expect(try run.request().precision == "int8")
    // Products of 128 features are large enough, convolutions of the shipped autoencoder are not.
    _ = try scratch.tinyModel("wide.safetensors", hiddenSize: 128)
    for precision in ["int8", "bf16"] {
      let drawn = try scratch.run([
        "sample", "wide.safetensors", "--count", "2", "--steps", "1", "--precision", precision,
        "--npz", "\(precision).npz",
      ])
      #expect(drawn.code == 0, "\(drawn.complaint)")
      let said = try JSONDecoder().decode(
        [String: String].self, from: scratch.bytes("\(precision).npz.json"))
      #expect(said["precision"] == precision && said["autoencoder_precision"] == "fp32")
    }
    #expect(try scratch.bytes("int8.npz") != scratch.bytes("bf16.npz"))
    let judged = try scratch.run([
      "evaluate", "model.safetensors", "--judge", "--samples", "10", "--steps", "1", "--precision",
      "int8",
    ])
    #expect(judged.code == 0, "\(judged.complaint)")
    try scratch.expectRefusal(
      ["distill", "plan.json", "--precision", "int8"], code: 2,
      mentions: ["it is for sample and evaluate alone"])
    try scratch.expectRefusal(
      ["sample", "model.safetensors", "--npz", "x.npz", "--queue", "--priority", "-5000000"],
      code: 2,
      mentions: ["--priority is -5000000; give"])
    try scratch.expectRefusal(
      ["evaluate", "plan.json"], mentions: ["plan.json: is a plan and no model", "--plan"])
    struct Verdict: Decodable {
      let valid: Bool
      let error: String?
    }
    try scratch.put("{}", "bad.json")
    let verdict = try scratch.espalier("plan", "validate", "bad.json", "--json")
    #expect(verdict.code == 1 && verdict.complaint.contains("the key is missing"))
    #expect(try verdict.json(Verdict.self).error?.contains("the key is missing") == true)
  }

  /// One sentence says which weights are missing, where they come from and where they belong.
  @Test func missingWeightsAreNamed() throws {
    let scratch = try Scratch()
    _ = try scratch.tinyModel()
    let drawn = try scratch.espalier(
      "sample", "model.safetensors", "--npz", "x.npz", "--count", "2", "--steps", "1")
    #expect(drawn.code == 0, "\(drawn.complaint)")
    try scratch.expectRefusal(
      ["evaluate", "x.npz", "--reference", "x.npz"],
      mentions: [
        "pt_inception-2015-12-05-6726825d.pth", "pytorch-fid",
        "weights-inception-2015-12-05-6726825d.pth", "torch-fidelity",
        "classify_image_graph_def.pb", "/espalier/", "--inception",
      ])
    try scratch.expectRefusal(
      ["evaluate", "x.npz"], code: 2, mentions: ["is a set of images; give --reference"])
  }
}
