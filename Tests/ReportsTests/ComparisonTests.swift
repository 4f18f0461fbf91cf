import Files
import Foundation
import Operators
import Plans
import Reports
import Runs
import TestSupport
import Testing

/// Runs in a temporary directory, with measurements of any value.
final class Scratch {
  let path: String

  init() throws {
    OperatorRegistry.fillCatalog()
    path = NSTemporaryDirectory() + "espalier-reports-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: path) }

  /// A plan of a model of four blocks.
  func plan(_ name: String, _ change: (inout GraftPlan) -> Void = { _ in }) -> GraftPlan {
    let shape = ModelShape(
      depth: 4, hiddenSize: 48, numHeads: 4, patchSize: 2, inputSize: 8, inChannels: 4,
      numClasses: 10)
    var plan = GraftPlan(
      named: name,
      model: ModelReference(path: "/m/model.safetensors", shape: shape, contentHash: "c0ffee"))
    change(&plan)
    return plan
  }

  /// A finished run of a stage whose held-out loss ended at a value.
  func run(_ plan: GraftPlan, stage: Int = 1, heldOut: Double? = nil, messages: [String] = [])
    throws -> RunFacts
  {
    let job: Job =
      stage == 1
      ? .distill(planPath: "plan.json") : .finetune(planPath: "plan.json", weights: [])
    let run = try RunDirectory.create(
      root: path,
      job: JobRequest(
        job: job, name: plan.name, createdAt: 1_763_694_000, codeVersion: "0", modelHash: "c0ffee"),
      plan: plan)
    try run.append(Event(.started(pid: 1, totalSteps: 20)))
    for step in [0, 10, 20] {
      guard let heldOut else { break }
      let loss = heldOut * Double(3 - step / 10)
      let sites = Dictionary(uniqueKeysWithValues: plan.sites.map { ($0, loss) })
      try run.append(Event(.heldOut(step: step, loss: loss, losses: stage == 1 ? sites : [:])))
      try run.append(
        Event(
          .step(
            step: step + 1, total: 20, loss: step == 10 ? .nan : loss,
            losses: stage == 1 ? sites : [:], rate: 2, secondsLeft: 0)))
    }
    for text in messages { try run.append(Event(.message(text))) }
    try run.append(Event(.finished(outcome: .done, text: "20 steps")))
    return try RunFacts(run)
  }

  /// Measurements of a run with some values, read back from its directory.
  func measure(_ facts: RunFacts, distance: Double?, ratio: Double?, samples: Int = 40) throws
    -> Measurements
  {
    let weights = facts.run.checkpointsPath + "/operators.safetensors"
    try Data("weights".utf8).write(to: URL(fileURLWithPath: weights))
    try Data("weights".utf8).write(
      to: URL(fileURLWithPath: facts.run.checkpointsPath + "/model.safetensors"))
    func judged(_ distance: Double) -> String {
      let number = distance.isFinite ? "\(distance)" : "\"inf\""
      return """
        {"agreement": 0.75, "agreement_by_class": [0.75], "frechet_distance": \(number),
         "frechet_floor": 0.25, "precision": 0.5, "recall": 0.5, "judge_score": 4,
         "judge_accuracy": 1, "samples": 40}
        """
    }
    var parts = [
      "\"espalier_report\": 1",
      "\"weights\": \"\(try #require(try Measurements.weightsStamp(of: facts.run)))\"",
      "\"settings\": {\"samples\": \(samples), \"steps\": 5, \"guidance\": 2, \"seed\": 0}",
    ]
    if let distance {
      parts.append("\"judged\": {\"graft\": \(judged(distance)), \"teacher\": \(judged(1))}")
    }
    if let ratio {
      parts.append(
        """
        "speed": {"graft_milliseconds": \(10 * ratio), "teacher_milliseconds": 10,
          "ratio": \(ratio), "batch": 1, "pairs": 15, "threads": 2}
        """)
    }
    let text = "{\(parts.joined(separator: ", "))}"
    try Data(text.utf8).write(to: URL(fileURLWithPath: Measurements.path(of: facts.run)))
    return try #require(try Measurements.cached(facts.run))
  }
}

@Suite struct ComparisonTests {
  private let hyena = OperatorSpec("hyena_x", ["short_filter_order": 4])

  /// Fréchet distance against measured time: what another run beats in both is not on the front.
  @Test func frontOfMeasuredRuns() throws {
    let scratch = try Scratch()
    func run(_ name: String, _ distance: Double, _ ratio: Double) throws -> (
      facts: RunFacts, measurements: Measurements?
    ) {
      let facts = try scratch.run(
        scratch.plan(name) { $0.edits[SlotID(block: 1, slot: .attention)] = hyena })
      return (facts, try scratch.measure(facts, distance: distance, ratio: ratio))
    }
    let rows = Comparison([
      try run("fast", 5, 0.5), try run("good", 2, 0.9), try run("slow", 3, 0.95),
      try run("useless", 4, 1.5), try run("diverged", .infinity, 0.9), try run("tied", 2, 0.9),
    ]).rows
    #expect(
      rows.map(\.name) == [
        "model.safetensors", "fast", "good", "slow", "useless", "diverged", "tied",
      ])
    #expect(
      rows.filter(\.isOnParetoFront).map(\.name) == ["model.safetensors", "fast", "good", "tied"])
    #expect(rows[0].forwardMilliseconds == 10 && rows[0].frechetDistance == 1)
    #expect(rows[1].plan == "hyena-x in attention of 1" || rows[1].plan.contains("attention of 1"))
  }

  /// Distances of other numbers of images do not compare.
  @Test func frontOfUnequalMeasurements() throws {
    let scratch = try Scratch()
    let (few, many) = (try scratch.run(scratch.plan("few")), try scratch.run(scratch.plan("many")))
    let equal = Comparison([
      (few, try scratch.measure(few, distance: 9, ratio: 0.9)),
      (many, try scratch.measure(many, distance: 5, ratio: 0.9)),
    ])
    #expect(equal.rows.filter(\.isOnParetoFront).map(\.name) == ["model.safetensors", "many"])
    #expect(equal.note?.hasPrefix("Judged on 40 images of each model, 5 sampler steps") == true)
    let unequal = Comparison([
      (few, try scratch.measure(few, distance: 9, ratio: 0.9, samples: 20)),
      (many, try scratch.measure(many, distance: 5, ratio: 0.9)),
    ])
    #expect(unequal.rows.allSatisfy { $0.isOnParetoFront })
    #expect(unequal.text.contains("the same --samples and --steps."))
    #expect(unequal.text.hasSuffix("the ratios do, which were measured in turns with the teacher."))
  }

  /// Without a judge held-out losses of one stage compete, at the operations of the plans.
  @Test func frontOfUnmeasuredRuns() throws {
    let scratch = try Scratch()
    func plan(_ name: String, ratio: Double) -> GraftPlan {
      scratch.plan(name) {
        $0.edits[SlotID(block: 0, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": ratio])
      }
    }
    let rows = Comparison([
      (try scratch.run(plan("narrow", ratio: 2), heldOut: 0.5), nil),
      (try scratch.run(plan("wide", ratio: 6), heldOut: 0.2), nil),
      (try scratch.run(plan("worse", ratio: 6), heldOut: 0.3), nil),
      (try scratch.run(plan("other", ratio: 8), stage: 2, heldOut: 0.9), nil),
      (try scratch.run(plan("silent", ratio: 2)), nil),
    ]).rows
    #expect(rows.filter(\.isOnParetoFront).map(\.name) == ["narrow", "wide", "other"])
    #expect(rows[1].heldOutFirst == 1.5 && rows[1].heldOutLast == 0.5)
    #expect(rows[1].parameters < rows[0].parameters && rows[2].flops > rows[0].flops)
    #expect(rows[2].coreFlops > rows[0].coreFlops)
    #expect(rows.allSatisfy { $0.projectionFlops == rows[0].projectionFlops })
    #expect(rows.allSatisfy { $0.coreFlops + $0.projectionFlops == $0.flops })
  }

  /// Runs of one name are told apart by the ends of their ids, by which commands find them.
  @Test func namesakes() throws {
    let scratch = try Scratch()
    let runs = try ["same", "same", "other"].map { try scratch.run(scratch.plan($0)) }
    let rows = Comparison(runs.map { ($0, nil) }).rows
    #expect(
      rows.map(\.label) == [
        "model.safetensors", "same \(runs[0].run.shortID)", "same \(runs[1].run.shortID)", "other",
      ])
    #expect(runs.allSatisfy { $0.run.id.hasSuffix("-\($0.run.shortID)") })
    #expect(Comparison.cells(rows[1])[0] == rows[1].label && rows[1].name == "same")
    #expect(Comparison([(runs[0], nil), (runs[0], nil)]).rows.last?.label == "same")
  }

  @Test func table() throws {
    let scratch = try Scratch()
    let facts = try scratch.run(scratch.plan("a|b"), heldOut: 0.5)
    let comparison = Comparison([(facts, nil)])
    let lines = comparison.text.split(separator: "\n")
    #expect(lines.count == 3 && lines[0].hasPrefix("run") && lines[2].hasSuffix("●"))
    #expect(lines[2].contains("1.5 → 0.5") && lines[1].contains("teacher"))
    let markdown = comparison.markdown.split(separator: "\n")
    #expect(markdown.count == 4 && markdown[3].hasPrefix("| a\\|b | no change | 1 |"))
    #expect(markdown[1].hasPrefix("| --- | --- | ---: |"))
  }

  /// Measurements hold for the weights that were measured, and damage is told.
  @Test func measurementsGoWithTheWeights() throws {
    let scratch = try Scratch()
    let facts = try scratch.run(scratch.plan("run"))
    #expect(try Measurements.cached(facts.run) == nil)
    let first = try scratch.measure(facts, distance: 2, ratio: nil)
    #expect(first.judged?.graft.frechetDistance == 2 && first.speed == nil)
    try first.save(to: facts.run)
    #expect(try Measurements.cached(facts.run)?.judged?.teacher.frechetDistance == 1)
    try Data("others, of another size".utf8).write(
      to: URL(fileURLWithPath: facts.run.checkpointsPath + "/operators.safetensors"))
    #expect(try Measurements.cached(facts.run) == nil)
    try Data("{}".utf8).write(to: URL(fileURLWithPath: Measurements.path(of: facts.run)))
    let error = #expect(throws: FileError.self) { try Measurements.cached(facts.run) }
    #expect(error?.message.contains("delete it to measure again") == true)
  }
}
