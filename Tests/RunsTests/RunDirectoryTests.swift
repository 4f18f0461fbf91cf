import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

@Suite struct RunDirectoryTests {
  let scratch: Scratch

  init() throws { scratch = try Scratch() }

  @Test func createsWholeRuns() throws {
    let root = "\(scratch.path)/a/b"
    let plan = GraftPlan(
      named: "p", model: ModelReference(path: "demo", shape: smallShape, contentHash: "c0ffee"))
    let run = try RunDirectory.create(
      root: root, job: scratch.request(), name: "other name", plan: plan)
    #expect(run.id.hasPrefix("20251121-030000-distill-"))
    var expected = scratch.request()
    expected.name = "other name"
    #expect(try run.request() == expected)
    #expect(try GraftPlan.load(path: run.planPath) == plan)
    #expect(
      try FileManager.default.contentsOfDirectory(atPath: run.path).sorted() == [
        "checkpoints", "control.jsonl", "events.jsonl", "plan.json", "run.json", "samples",
        "worker.lock",
      ])
    #expect(try FileManager.default.contentsOfDirectory(atPath: root) == [run.id])
    #expect(run.summary().state == .queued)
  }

  @Test func failedCreationLeavesNothing() throws {
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "demo", shape: smallShape, contentHash: "c0ffee"))
    plan.edits[SlotID(block: 4, slot: .mlp)] = OperatorSpec("mlp")
    #expect(throws: PlanError.self) {
      try RunDirectory.create(root: scratch.path, job: scratch.request(), plan: plan)
    }
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).isEmpty)
    let file = try scratch.put("", "file")
    let error = #expect(throws: (any Error).self) {
      try RunDirectory.create(root: file, job: scratch.request())
    }
    #expect(error.map { "\($0)" }?.contains("is a file, expected a directory") == true)
  }

  /// Data that are not there are missed at once, unless the run waits for its turn.
  @Test func missingDataAreMissedBeforeARunIsMade() throws {
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "demo", shape: smallShape, contentHash: "c0ffee"))
    plan.data = DataSettings(path: "\(scratch.path)/nowhere")
    let error = #expect(throws: FileError.self) {
      try RunDirectory.create(root: scratch.path, job: scratch.request(), plan: plan)
    }
    #expect(error.map { "\($0)" }?.contains("nowhere: no such file or folder") == true)
    #expect(try FileManager.default.contentsOfDirectory(atPath: scratch.path).isEmpty)
    var waiting = scratch.request()
    waiting.queue = QueuePlace(priority: 0, after: [])
    _ = try RunDirectory.create(root: scratch.path, job: waiting, plan: plan)
    var images = scratch.request("images")
    images.job = .preview(PreviewRequest(modelPath: "demo", classLabel: 0))
    _ = try RunDirectory.create(root: scratch.path, job: images, plan: plan)
    plan.data = DataSettings(path: scratch.path)
    _ = try RunDirectory.create(root: scratch.path, job: scratch.request("there"), plan: plan)
  }

  @Test func previewsAreGrids() throws {
    let old =
      #"{"model_path":"demo","weights":[],"class_label":3,"seed":7,"steps":25,"guidance":2,"count":1}"#
    var request = try JSONDecoder().decode(PreviewRequest.self, from: Data(old.utf8))
    #expect(request == PreviewRequest(modelPath: "demo", classLabel: 3, seed: 7))
    (request.classes, request.seeds) = (2, 3)
    let cells = request.cells(numClasses: 4).map { "\($0.label)/\($0.seed)" }
    #expect(cells == ["3/7", "3/8", "3/9", "0/7", "0/8", "0/9"])
    #expect(request.frameSteps.isEmpty)
    request.frames = 4
    #expect(request.frameSteps == [5, 10, 15, 20])
    (request.frames, request.steps) = (64, 3)
    #expect(request.frameSteps == [1, 2])
  }

  @Test func everyJobRoundTrips() throws {
    let jobs: [Job] = [
      .distill(planPath: "plan.json"),
      .finetune(planPath: "plan.json", weights: ["/runs/a/checkpoints/operators.safetensors"]),
      .preview(
        PreviewRequest(
          modelPath: "demo", planPath: "plan.json", weights: ["a", "b"], classLabel: 3, seed: .max)),
      .preview(PreviewRequest(modelPath: "demo", classLabel: 3)),
      .preview(
        PreviewRequest(
          modelPath: "demo", classLabel: 3, classes: 2, seeds: 4, frames: 8, skipsTeacher: true,
          isBackground: true)),
      .analyze(AnalyzeRequest(modelPath: "x.safetensors", samples: 8)),
    ]
    for job in jobs {
      var request = scratch.request()
      request.job = job
      let run = try RunDirectory.create(root: scratch.path, job: request)
      #expect(try run.request() == request)
      #expect(run.id.contains(job.kind.rawValue))
    }
  }

  @Test func newestWeightsOfATraining() throws {
    func run(_ job: Job) throws -> RunDirectory {
      var request = scratch.request()
      request.job = job
      return try RunDirectory.create(root: scratch.path, job: request)
    }
    func leave(_ name: String, in run: RunDirectory) throws {
      try Data().write(to: URL(fileURLWithPath: "\(run.checkpointsPath)/\(name)"))
    }
    let distilled = try run(.distill(planPath: "plan.json"))
    let none = #expect(throws: FileError.self) { try distilled.trainedWeights() }
    #expect(none?.message.contains("has no checkpoint yet") == true)
    try leave("latest.safetensors", in: distilled)
    #expect(try distilled.trainedWeights().hasSuffix("/checkpoints/latest.safetensors"))
    try leave("operators.safetensors", in: distilled)
    #expect(try distilled.trainedWeights().hasSuffix("/checkpoints/operators.safetensors"))
    let finetuned = try run(.finetune(planPath: "plan.json", weights: []))
    try leave("latest.safetensors", in: finetuned)
    #expect(throws: FileError.self) { try finetuned.trainedWeights() }
    try leave("model.safetensors", in: finetuned)
    #expect(try finetuned.trainedWeights().hasSuffix("/checkpoints/model.safetensors"))
    let analysis = try run(.analyze(AnalyzeRequest(modelPath: "demo")))
    #expect(throws: FileError.self) { try analysis.trainedWeights() }
  }

  @Test func requestOfVersion1() throws {
    let run = try scratch.run()
    #expect(
      try String(contentsOfFile: run.requestPath, encoding: .utf8) == """
        {
          "code_version" : "0.1",
          "created_at" : 1763694000,
          "espalier_run" : 1,
          "job" : {
            "kind" : "distill",
            "plan_path" : "plan.json"
          },
          "model_hash" : "c0ffee",
          "name" : "test",
          "random_generator" : "philox4x32-10",
          "seed" : 18446744073709551615
        }
        """)
  }

  @Test(arguments: [
    ("\"espalier_run\" : 1", "\"espalier_run\" : 2", "expected version 1, found 2"),
    ("\"distill\"", "\"dance\"", "unknown job dance"),
    ("\"name\" : \"test\",", "", "the key name is missing"),
    ("\"seed\" : 18446744073709551615", "\"seed\" : \"x\"", "seed has the wrong type"),
    ("{\n", "{{\n", "is not the JSON"),
  ])
  func damagedRequests(old: String, new: String, says: String) throws {
    let run = try scratch.run()
    let text = try String(contentsOfFile: run.requestPath, encoding: .utf8)
    try text.replacingOccurrences(of: old, with: new)
      .write(toFile: run.requestPath, atomically: false, encoding: .utf8)
    let error = #expect(throws: FileError.self) { try run.request() }
    #expect(error?.message.contains(says) == true, "\(error?.message ?? "")")
  }

  @Test func listsNewestFirst() throws {
    let old = try scratch.run("old", createdAt: 1_000_000_000)
    let new = try scratch.run("new", createdAt: 1_700_000_000)
    let other = try scratch.run("other", createdAt: 1_500_000_000)
    try FileManager.default.createDirectory(
      atPath: "\(scratch.path)/no-run", withIntermediateDirectories: true)
    _ = try scratch.put("", "file")
    #expect(RunDirectory.list(root: scratch.path).map(\.id) == [new.id, other.id, old.id])
    #expect(RunDirectory.list(root: "\(scratch.path)/absent").isEmpty)
  }

  @Test func opensOnlyRuns() throws {
    let run = try scratch.run()
    #expect(try RunDirectory.open(run.path + "/") == run)
    #expect(throws: FileError.self) { try RunDirectory.open(scratch.path) }
    #expect(throws: FileError.self) { try RunDirectory.open("\(scratch.path)/absent") }
  }

  @Test func rootFollowsTheEnvironment() {
    #expect(
      RunDirectory.defaultRoot(environment: ["ESPALIER_RUNS": "/r", "HOME": "/h"]) == "/r")
    #expect(
      RunDirectory.defaultRoot(environment: ["XDG_STATE_HOME": "/s", "HOME": "/h"])
        == "/s/espalier/runs")
    #expect(
      RunDirectory.defaultRoot(environment: ["XDG_STATE_HOME": "rel", "HOME": "/h"])
        == "/h/.local/state/espalier/runs")
  }

  @Test func analysisCache() throws {
    let summary = ActivationSummary(mean: 0.5, variance: 2, maxAbs: 14, kurtosis: 9)
    let analysis = ModelAnalysis(
      modelHash: "c0ffee", bands: [1, 32], samples: 8, timesteps: [0, 500],
      blocks: [BlockAnalysis(attention: summary, mlp: summary, locality: [0.1, 0.6])])
    let path = ModelAnalysis.cachePath(
      modelHash: "c0ffee", environment: ["XDG_CACHE_HOME": "\(scratch.path)/cache"])
    #expect(path == "\(scratch.path)/cache/espalier/analysis-v2-c0ffee.json")
    try analysis.save(to: path)
    #expect(try ModelAnalysis.load(path: path) == analysis)
    var incomplete = analysis
    incomplete.bands = [1]
    try incomplete.save(to: path)
    #expect(throws: FileError.self) { try ModelAnalysis.load(path: path) }
    #expect(
      ModelAnalysis.mapPath(beside: path, block: 7)
        == "\(scratch.path)/cache/espalier/analysis-v2-c0ffee-maps/7.png")
    let odd = ModelAnalysis.cachePath(modelHash: "../../x", environment: ["HOME": "/h"])
    #expect(odd == "/h/.cache/espalier/analysis-v2-x.json")
  }
}
