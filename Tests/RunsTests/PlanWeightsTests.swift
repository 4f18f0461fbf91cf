import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// Which runs provide the weights of a plan, and what is said of them.
@Suite struct PlanWeightsTests {
  private static let model = ModelReference(path: "demo", shape: smallShape, contentHash: "c0ffee")

  private static func attention(_ block: Int) -> SlotID { SlotID(block: block, slot: .attention) }

  /// Hyena-X of an order in the attention of some blocks.
  private static func plan(
    _ blocks: [Int], order: Double = 4, pairs: [BlockPair: ParallelMerge] = [:]
  ) -> GraftPlan {
    var plan = GraftPlan(named: "p", model: model)
    for block in blocks {
      plan.edits[attention(block)] = OperatorSpec("hyena_x", ["short_filter_order": order])
    }
    plan.parallel = pairs
    return plan
  }

  private static func run(
    _ id: String, _ plan: GraftPlan?, step: Int = 8, state: RunState = .done,
    kind: Job.Kind = .distill, model: String = "c0ffee", name: String = "p"
  ) -> RunSummary {
    var run = RunSummary(
      id: id, name: name, kind: kind, modelHash: model, createdAt: 1, state: state)
    run.changes = plan?.changes
    if step > 0 { run.checkpoint = SavedCheckpoint(step: step, path: "x") }
    return run
  }

  /// What a run has to be for its weights to count, one deviation at a time.
  @Test func identity() throws {
    let plan = Self.plan([1, 2])
    let cases: [(RunSummary, String?)] = [
      (Self.run("same", plan), nil),
      (Self.run("renamed", plan, name: "other"), nil),
      (Self.run("running", plan, state: .running), nil),
      (Self.run("cancelled", plan, state: .cancelled), nil),
      (Self.run("finetuned", plan, kind: .finetune), nil),
      (Self.run("more", Self.plan([0, 1, 2])), nil),
      (Self.run("foreign", plan, model: "decaf"), "trained another model"),
      (
        Self.run("order", Self.plan([1, 2], order: 5)),
        "trained other operators, first in 1.attention"
      ),
      (Self.run("elsewhere", Self.plan([0, 3])), "trained none of the replaced slots"),
      (Self.run("unread", nil), "has no readable plan"),
      (Self.run("early", plan, step: 0, state: .running), "has no checkpoint yet"),
      (Self.run("failed", plan, step: 0, state: .failed), "ended without a checkpoint"),
      (Self.run("empty", Self.plan([])), "trained none of the replaced slots"),
      (
        Self.run("parallel", Self.plan([1, 2], pairs: [BlockPair(first: 1): .mean])),
        "trained none of the replaced slots"
      ),
    ]
    for (run, reason) in cases {
      let weights = PlanWeights(of: plan, runs: [run])
      #expect(weights.exclusions.first?.reason == reason, "\(run.id)")
      #expect(weights.count == (reason == nil ? 2 : 0), "\(run.id)")
      #expect(weights.fresh.count == (reason == nil ? 0 : 2), "\(run.id)")
    }
    // A preview is no source, and no exclusion either.
    let preview = PlanWeights(of: plan, runs: [Self.run("preview", plan, kind: .preview)])
    #expect(preview.sources.isEmpty && preview.exclusions.isEmpty)
  }

  /// An omitted setting equals its default; another order of keys is no difference.
  @Test func settingsAreNormalised() throws {
    func parsed(_ config: String) throws -> GraftPlan {
      let text = String(decoding: try Self.plan([1]).json(), as: UTF8.self)
      let found = try #require(text.range(of: #""config": {"short_filter_order": 4}"#))
      return try GraftPlan.parse(
        text.replacingCharacters(in: found, with: #""config": {\#(config)}"#), file: "p.json")
    }
    let written = try parsed(#""short_filter_order": 4"#)
    for config in ["", #""short_filter_order": 4.0"#] {
      let other = try parsed(config)
      #expect(PlanWeights(of: written, runs: [Self.run("a", other)]).count == 1, "\(config)")
      #expect(PlanWeights(of: other, runs: [Self.run("a", written)]).count == 1, "\(config)")
    }
    let other = try parsed(#""short_filter_order": 3"#)
    #expect(PlanWeights(of: written, runs: [Self.run("a", other)]).count == 0)
  }

  @Test func pairsCountWithAllTheyHold() {
    let pair = BlockPair(first: 1)
    let plan = Self.plan([1], pairs: [pair: .projection])
    let cases: [(GraftPlan, Int)] = [
      (plan, 1), (Self.plan([1], pairs: [pair: .mean]), 0),
      (Self.plan([], pairs: [pair: .projection]), 0),
      (Self.plan([1, 2], pairs: [pair: .projection]), 0), (Self.plan([1]), 0),
      (Self.plan([1, 3], pairs: [pair: .projection]), 1),
    ]
    for (index, (trained, count)) in cases.enumerated() {
      #expect(PlanWeights(of: plan, runs: [Self.run("a", trained)]).count == count, "\(index)")
    }
  }

  /// One run that covers more goes before one that is newer; others only fill what it lacks.
  @Test func choiceAmongRunsThatCount() {
    let plan = Self.plan([0, 1, 2])
    let all = Self.run("a", plan, step: 3, state: .failed)
    let newer = Self.run("b", Self.plan([0, 1]), step: 9)
    #expect(PlanWeights(of: plan, runs: [newer, all]).sources.map(\.id) == ["a"])
    // Of equals, stage 2, then what is done, then more steps, then the later one.
    let finetuned = Self.run("f", plan, kind: .finetune)
    #expect(PlanWeights(of: plan, runs: [all, finetuned]).sources.map(\.id) == ["f"])
    let done = Self.run("d", plan, step: 2)
    #expect(PlanWeights(of: plan, runs: [all, done]).sources.map(\.id) == ["d"])
    #expect(
      PlanWeights(of: plan, runs: [Self.run("e", plan, step: 9), done]).sources.map(\.id) == ["e"])
    #expect(
      PlanWeights(of: plan, runs: [Self.run("c", plan, step: 2), done]).sources.map(\.id) == ["d"])

    let mixed = PlanWeights(
      of: plan,
      runs: [Self.run("x", Self.plan([2])), newer, Self.run("y", Self.plan([1, 2], order: 9))])
    #expect(mixed.sources.map(\.id) == ["b", "x"] && mixed.runs == ["x", "b"])
    #expect(mixed.isMixture && mixed.fresh.isEmpty)
    #expect(
      mixed.sentence() == "3 of 3 replaced slots have weights: 2 from b, step 9; 1 from x, step 8")
    #expect(
      mixed.origins == [
        WeightOrigin(run: "x", step: 8, sites: [.slot(Self.attention(2))]),
        WeightOrigin(
          run: "b", step: 9, sites: [.slot(Self.attention(0)), .slot(Self.attention(1))]),
      ])
  }

  /// Runs named by a person are taken in their order, the last one first.
  @Test func namedRunsAreTakenInTheirOrder() {
    let plan = Self.plan([0, 1])
    let runs = [Self.run("a", plan), Self.run("b", Self.plan([1])), Self.run("c", plan)]
    let cases: [([String], [String])] = [
      (["a"], ["a"]), (["c", "a"], ["a"]), (["a", "b"], ["b", "a"]), (["b", "a"], ["a"]), ([], []),
      (["gone"], []),
    ]
    for (chosen, expected) in cases {
      let weights = PlanWeights(of: plan, runs: runs, from: chosen)
      #expect(weights.sources.map(\.id) == expected, "\(chosen)")
    }
  }

  @Test func shortSummariesNameRunAndStep() {
    let plan = Self.plan([1, 2])
    func brief(_ runs: RunSummary...) -> String {
      PlanWeights(of: plan, runs: runs).shortSummary { "run \($0)" }
    }
    #expect(brief() == "0/2 have weights")
    #expect(brief(Self.run("a", Self.plan([1]))) == "1/2 from run a, step 8")
    #expect(brief(Self.run("a", plan, state: .running)) == "2/2 from run a, step 8")
    #expect(
      brief(Self.run("a", Self.plan([1])), Self.run("b", Self.plan([2]))) == "2/2 from 2 runs")
  }

  @Test func sentencesNameTheFreshOnes() {
    let plan = Self.plan([0, 1, 2])
    func sentence(_ runs: RunSummary..., expecting: Bool = false) -> String {
      PlanWeights(of: plan, runs: runs, expecting: expecting).sentence { "<\($0)>" }
    }
    #expect(sentence(Self.run("a", plan)) == "3 of 3 replaced slots have weights, from <a>, step 8")
    #expect(
      sentence(Self.run("a", Self.plan([1])))
        == "1 of 3 replaced slots have weights, from <a>, step 8; fresh: 0.attention, 2.attention")
    #expect(
      sentence()
        == "0 of 3 replaced slots have weights; fresh: 0.attention, 1.attention, 2.attention")
    #expect(
      sentence(Self.run("a", plan, step: 0, state: .queued), expecting: true)
        == "3 of 3 replaced slots have weights, from <a>, at its end")
    #expect(!PlanWeights(of: plan, runs: []).isMixture)
    #expect(PlanWeights(of: plan, runs: [Self.run("a", Self.plan([1]))]).isMixture)
    let many = (0..<28).map { GraftSite.slot(Self.attention($0)) } + [.pair(BlockPair(first: 3))]
    #expect(PlanWeights.list(many, depth: 28) == "attention of all, 3+4")
  }

  /// The store reads the recorded plan, and believes it only of the model that the run names.
  @Test func recordedPlansAreReadFromTheRuns() throws {
    let scratch = try Scratch()
    let plan = Self.plan([1])
    var foreign = plan
    foreign.model.contentHash = "decaf"
    for recorded in [plan, foreign] {
      _ = try RunDirectory.create(root: scratch.path, job: scratch.request(), plan: recorded)
    }
    var store = RunStore(root: scratch.path, readsPlans: true)
    store.look()
    #expect(store.summaries.compactMap(\.changes) == [plan.changes])
    #expect(RunDirectory.list(root: scratch.path).map { $0.summaryWithPlan().changes }.count == 2)
  }

  @Test func differencesNameEveryEntry() throws {
    let plan = Self.plan([1])
    #expect(plan.differences(from: plan).isEmpty)
    var other = Self.plan([1], order: 5, pairs: [BlockPair(first: 2): .mean])
    other.edits[SlotID(block: 0, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 3])
    other.edits[Self.attention(1)] = nil
    other.seed = 3
    other.name = "q"
    try other.set(assignments: "stage2.batch_size=8 stage1.overrides.0.mlp.loss=l1")
    let found = other.differences(from: plan)
    #expect(
      found.map(\.key) == [
        "name", "seed", "0.mlp", "2+3", "stage1.overrides.0.mlp", "stage2.batch_size",
        "1.attention",
      ])
    #expect(found.last?.before == "hyena_x short_filter_order=4" && found.last?.after == nil)
    #expect(throws: PlanError.self) { try other.set(assignments: "steps") }
    #expect(throws: PlanError.self) { try other.set(assignments: "preset=none") }
    try other.set(assignments: "preset=paper name=two words")
    #expect(other.stage1.mode == .cached && other.name == "two words")
  }
}
