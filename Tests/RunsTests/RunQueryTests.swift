import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

private let now = 1_800_000_000.0

/// Filters and orders of lists of runs.
@Suite struct RunQueryTests {
  /// Seven runs, newest first.
  private let runs: [RunSummary]

  init() throws {
    func run(
      _ id: String, _ name: String, _ state: RunState, kind: Job.Kind? = .distill, step: Int = 0,
      total: Int = 400, loss: Double? = nil, age: Double, operators: [String] = [],
      tags: [String] = [], note: String = ""
    ) throws -> RunSummary {
      var run = RunSummary(
        id: id, name: name, kind: kind, modelHash: "c0ffee", createdAt: now - age, state: state)
      (run.step, run.total, run.loss) = (step, total, loss)
      let edits = operators.enumerated().map { index, name in
        (SlotID(block: index, slot: .attention), OperatorSpec(name))
      }
      run.changes = GraftPlan.Changes(edits: Dictionary(uniqueKeysWithValues: edits))
      try run.annotation.setTags(adding: tags)
      try run.annotation.setNote(note)
      return run
    }
    var queued = try run("g-7", "wait", .queued, kind: .finetune, age: 10, operators: ["swa"])
    queued.place = QueuePlace(priority: 3)
    runs = [
      queued,
      try run(
        "f-6", "Hyena odd", .running, step: 100, loss: 0.05, age: 60, operators: ["hyena_x"],
        tags: ["paper", "v2"]),
      try run(
        "e-5", "swa all", .paused, step: 200, loss: 0.2, age: 3600, operators: ["swa", "swa"],
        note: "second try"),
      try run("d-4", "nan", .failed, step: 40, loss: .nan, age: 7200, operators: ["hyena_y"]),
      try run("c-3", "hyena odd", .done, step: 400, loss: 0.02, age: 90_000, tags: ["Paper"]),
      try run("b-2", "old", .lost, step: 4, loss: 0.2, age: 900_000),
      try run("a-1", "shot", .done, kind: .preview, total: 0, age: 1_000_000),
    ]
  }

  private func ids(_ filter: String) throws -> String {
    let filter = try RunFilter(filter)
    return runs.filter { filter.matches($0, now: now) }.map { String($0.id.prefix(1)) }.joined()
  }

  @Test(arguments: [
    ("", "gfedcba"), ("hyena", "fc"), ("HYENA odd", "fc"), ("try", "e"), ("paper", "fc"),
    ("state:running", "f"), ("state:running,paused", "fe"), ("state:alive", "gfe"),
    ("-state:alive", "dcba"), ("state!=done", "gfedb"), ("kind:finetune", "g"),
    ("loss<.05", "c"), ("loss<=.05", "fc"), ("loss>0.05", "eb"), ("loss=0.2", "eb"),
    ("loss:nan", "d"), ("loss!=0.2", "fdc"), ("-loss<1", "gda"),
    ("op:swa", "ge"), ("op:hyena", "fd"), ("op:hyena_x state:running loss<.06", "f"),
    ("tag:paper", "fc"), ("tag:pap", ""), ("tag:v2", "f"), ("has:tag", "fc"), ("has:note", "e"),
    ("-has:loss", "ga"), ("note:second", "e"), ("note:\"second try\"", "e"),
    ("\"hyena odd\"", "fc"), ("\"swa:all\"", ""), ("-\"hyena odd\"", "gedba"),
    ("age<2m", "gf"), ("age>=1h age<2d", "edc"), ("age<90", "gf"), ("step>=200", "ec"),
    ("progress>=50%", "ec"), ("progress=100", "c"), ("total>0", "gfedcb"), ("priority:3", "g"),
    ("engine:native", "gfedcba"), ("engine:torch", ""), ("model:c0f", "gfedcba"), ("id:a-1", "a"),
    ("name:odd -tag:v2", "c"), ("- state:done", "ca"),
  ])
  func filters(text: String, expected: String) throws {
    #expect(try ids(text) == expected, "\(text)")
  }

  @Test(arguments: [
    ("sate:running", "unknown key \"sate\", expected one of name, id, state"),
    ("state:runing", "expected alive, ended, queued"), ("state<5", "state is no number"),
    ("loss<small", "\"small\" is no number; write for example loss<.05"),
    ("age>3x", "\"3x\" is no duration; write for example age<2h"), ("state:", "a value is missing"),
    ("has:money", "found \"money\""), ("progress>half", "progress<50%"),
  ])
  func refusals(text: String, says: String) {
    let error = #expect(throws: RunQueryError.self) { try RunFilter(text) }
    #expect(error?.description.contains(says) == true, "\(error?.description ?? "")")
    #expect(error?.description.hasPrefix(text) == true)
  }

  @Test func needsPlansOnlyForOperators() throws {
    #expect(try RunFilter("loss<1 -op:swa").needsPlans)
    #expect(try !RunFilter("loss<1 tag:op").needsPlans)
    #expect(RunFilter.all.isEmpty && RunFilter.all.matches(runs[0], now: now))
  }

  @Test(arguments: [
    ("age", "gfedcba"), ("-age", "abcdefg"), ("loss", "cfebgda"), ("-loss", "ebfcgda"),
    ("name", "fcdbaeg"), ("state", "fegdbca"), ("progress", "gbdfeca"), ("-progress", "cefdbga"),
    ("kind", "fedcbga"), ("tags", "cfgedba"), ("-tags", "fcgedba"), ("held-out", "gfedcba"),
  ])
  func orders(text: String, expected: String) throws {
    let order = try RunOrder(text)
    let sorted = order.sorted(runs, now: now).map { String($0.id.prefix(1)) }.joined()
    #expect(sorted == expected, "\(text)")
    #expect(order.text == text)
  }

  @Test func unknownColumns() {
    let error = #expect(throws: RunQueryError.self) { try RunOrder("-size") }
    #expect(
      error?.description.hasPrefix("unknown column \"size\", expected one of name, state") == true)
  }
}

/// Notes, tags and removal of single runs.
@Suite struct RunAnnotationTests {
  let scratch: Scratch
  let run: RunDirectory

  init() throws {
    scratch = try Scratch()
    run = try scratch.run()
  }

  @Test func isKeptAndListed() throws {
    #expect(try run.annotation().isEmpty && access(run.notesPath, F_OK) != 0)
    try run.annotate { try $0.setNote("second try, half the rate") }
    try run.annotate { try $0.setTags(adding: ["v2", "paper", "v2"]) }
    let kept = try run.annotate { try $0.setTags(adding: ["new"], removing: ["v2", "absent"]) }
    #expect(kept.note == "second try, half the rate" && kept.tags == ["new", "paper"])
    var store = RunStore(root: scratch.path)
    store.look()
    #expect(store.summary(run.id)?.annotation == kept)
    try run.annotate { try $0.setNote("") }
    store.look()
    #expect(store.summary(run.id)?.annotation.note == "")
    #expect(
      try String(contentsOfFile: run.notesPath, encoding: .utf8).filter { !$0.isWhitespace }
        == #"{"espalier_notes":1,"note":"","tags":["new","paper"]}"#)
  }

  @Test func refusesOtherText() throws {
    for tag in ["", "two words", "a,b", "-x", "a:b", String(repeating: "x", count: 41)] {
      #expect(throws: FileError.self) { try run.annotate { try $0.setTags(adding: ["ok", tag]) } }
    }
    #expect(throws: FileError.self) { try run.annotate { try $0.setNote("one\ntwo") } }
    let many = (0..<33).map { "t\($0)" }
    #expect(throws: FileError.self) { try run.annotate { try $0.setTags(adding: many) } }
    #expect(try run.annotation().isEmpty)
  }

  @Test(arguments: [
    ("{", "is not the JSON"), (#"{"espalier_notes":2,"note":"","tags":[]}"#, "expected version 1"),
    (#"{"espalier_notes":1,"note":"","tags":["a b"]}"#, "is no tag"),
    (#"{"espalier_notes":1,"note":3,"tags":[]}"#, "note has the wrong type"),
  ])
  func damage(text: String, says: String) throws {
    try text.write(toFile: run.notesPath, atomically: true, encoding: .utf8)
    let damage = run.summary().damage
    #expect(
      damage?.contains(says) == true && damage?.hasPrefix(run.notesPath) == true, "\(damage ?? "")")
    #expect(throws: FileError.self) { try run.annotate { try $0.setNote("x") } }
    #expect(try String(contentsOfFile: run.notesPath, encoding: .utf8) == text)
  }

  /// Many writers at once lose nothing.
  @Test func concurrentTags() async throws {
    let run = run
    try await withThrowingTaskGroup(of: Void.self) { group in
      for index in 0..<8 {
        group.addTask { try run.annotate { try $0.setTags(adding: ["t\(index)"]) } }
      }
      try await group.waitForAll()
    }
    #expect(try run.annotation().tags == (0..<8).map { "t\($0)" })
  }

  @Test func removal() throws {
    let ended = try scratch.run("ended", createdAt: 1_763_700_000)
    try ended.append(Event(.started(pid: 1, totalSteps: 10)))
    try ended.append(Event(.finished(outcome: .done, text: "")))
    var request = scratch.request("after", createdAt: 1_763_800_000)
    request.queue = QueuePlace(after: [ended.id])
    let waiting = try RunDirectory.create(root: scratch.path, job: request, plan: nil)
    var store = RunStore(root: scratch.path)
    store.look()
    func reason(_ run: RunDirectory) -> String? {
      store.summary(run.id).flatMap { store.summaries.reasonAgainstRemoving($0) }
    }
    #expect(reason(waiting) == "after waits in the queue; cancel it first")
    #expect(reason(ended) == "after (\(waiting.id)) waits for ended; cancel that one first")
    #expect(throws: FileError.self) { try ended.remove(among: store.summaries) }
    try waiting.requestCancellation()
    store.look()
    #expect(reason(waiting) == nil && reason(ended) == nil)
    let lock = try #require(try FileLock.take(ended.lockPath))
    let error = #expect(throws: FileError.self) { try ended.remove(among: store.summaries) }
    #expect(error?.message.contains("another process works on this run") == true)
    withExtendedLifetime(lock) {}
    try waiting.remove(among: store.summaries)
    #expect(!FileManager.default.fileExists(atPath: waiting.path))
  }
}

/// What may be compared and ranked.
@Suite struct RunRankingTests {
  private func plan(_ change: (inout GraftPlan) -> Void = { _ in }) -> GraftPlan {
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "m", shape: smallShape, contentHash: "c0ffee"))
    plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("swa", ["window_left": 4])
    change(&plan)
    return plan
  }

  private func reason(_ one: GraftPlan, _ other: GraftPlan, _ kind: Job.Kind) throws -> String? {
    let (one, other) = (try #require(LossBasis(one, kind)), try #require(LossBasis(other, kind)))
    #expect(one.reason(against: other) == other.reason(against: one))
    #expect((one == other) == (one.reason(against: other) == nil))
    return one.reason(against: other)
  }

  @Test func bases() throws {
    let other = plan { $0.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("hyena_x") }
    // Another operator, rate or number of steps at the same site.
    #expect(try reason(plan(), other, .distill) == nil)
    #expect(try reason(plan(), plan { $0.stage1.steps = 7 }, .distill) == nil)
    let more = plan { $0.edits[SlotID(block: 2, slot: .mlp)] = OperatorSpec("mlp") }
    #expect(try reason(plan(), more, .distill)?.contains("different sites") == true)
    #expect(try reason(plan(), more, .finetune) == nil)
    let huber = plan { $0.stage1.attentionLoss = .huber }
    #expect(try reason(plan(), huber, .distill)?.contains("regression losses") == true)
    #expect(
      try reason(
        huber,
        plan {
          $0.stage1.attentionLoss = .huber; $0.stage1.huberDelta = 2
        },
        .distill)?.contains("regression losses") == true)
    // The loss of MLP slots is of no site of the plan.
    #expect(try reason(plan(), plan { $0.stage1.mlpLoss = .huber }, .distill) == nil)
    let data = plan { $0.data = DataSettings(path: "/data/latents") }
    #expect(try reason(plan(), data, .finetune)?.contains("different data") == true)
    // Without the diffusion loss what is held out is the difference from the teacher.
    func taught(_ change: (inout Stage2Settings) -> Void = { _ in }) -> GraftPlan {
      plan {
        ($0.stage2.diffusionWeight, $0.stage2.distillationWeight) = (0, 1)
        change(&$0.stage2)
      }
    }
    #expect(try reason(plan(), taught(), .finetune)?.contains("different ones") == true)
    #expect(try reason(taught(), taught { $0.varianceWeight = 0 }, .finetune) != nil)
    #expect(try reason(taught(), taught { $0.distillationWeight = 2 }, .finetune) == nil)
    #expect(try reason(plan(), plan { $0.stage2.varianceWeight = 0 }, .finetune) == nil)
    #expect(try reason(plan(), taught(), .distill) == nil)
    let (first, second) = (LossBasis(plan(), .distill), LossBasis(plan(), .finetune))
    #expect(try #require(first).reason(against: #require(second))?.contains("stages") == true)
    #expect(LossBasis(plan(), .preview) == nil && LossBasis(plan(), nil) == nil)
    #expect([LossBasis]().reasonAgainstComparing == nil)
  }

  @Test func front() {
    let (own, others) = (LossBasis(plan(), .distill), LossBasis(plan(), .finetune))
    func model(
      _ loss: Double?, _ flops: Double, _ basis: LossBasis?, ratio: Double? = nil,
      distance: JudgedDistance? = nil, hash: String = "c0ffee"
    ) -> RankedModel {
      RankedModel(
        modelHash: hash, basis: basis, heldOut: loss, distance: distance, forwardRatio: ratio,
        flops: flops)
    }
    #expect(
      [model(0.1, 2, own), model(0.2, 1, own), model(0.2, 2, own)].isOnParetoFront
        == [true, true, false])
    // Another stage, another model and no loss are never ranked against it.
    #expect(
      [
        model(0.1, 1, own), model(0.2, 2, others), model(0.3, 3, own, hash: "x"),
        model(nil, 9, own),
      ]
      .isOnParetoFront == [true, true, true, false])
    // Equal settings of judged images come before losses, and measured time before FLOPs.
    let (good, bad) = (JudgedDistance(1, settings: "a"), JudgedDistance(2, settings: "a"))
    #expect(
      [
        model(0.9, 9, own, ratio: 0.5, distance: good),
        model(0.1, 1, own, ratio: 0.6, distance: bad),
      ].isOnParetoFront == [true, false])
    #expect(
      [
        model(0.9, 9, own, distance: good),
        model(0.1, 1, own, distance: JudgedDistance(2, settings: "b")),
      ]
      .isOnParetoFront == [false, true])
    #expect([model(.nan, 1, own), model(0.5, 2, own)].isOnParetoFront == [false, true])
  }

  @Test func differingEntries() {
    func edited(_ blocks: [Int], _ spec: OperatorSpec) -> GraftPlan {
      plan {
        $0.edits = [:]
        for block in blocks { $0.edits[SlotID(block: block, slot: .attention)] = spec }
      }
    }
    var plans = [
      edited([1, 3], OperatorSpec("swa", ["window_left": 4])),
      edited([0, 1], OperatorSpec("linear")),
      edited([1, 3], OperatorSpec("swa", ["window_left": 4])),
    ]
    plans[2].stage1.steps = 77
    plans[2].data = DataSettings(path: "/d")
    let rows = GraftPlan.differingEntries(of: plans)
    #expect(
      rows.filter { $0.key.hasPrefix("attention") } == [
        .init(
          key: "attention of 1",
          values: [
            "swa num_heads=0 window_left=4 window_right=4", "linear",
            "swa num_heads=0 window_left=4 window_right=4",
          ]),
        .init(
          key: "attention of 3",
          values: [
            "swa num_heads=0 window_left=4 window_right=4", nil,
            "swa num_heads=0 window_left=4 window_right=4",
          ]),
        .init(key: "attention of 0", values: [nil, "linear", nil]),
      ])
    let steps = "\(plans[0].stage1.steps)"
    #expect(rows.contains(.init(key: "stage1.steps", values: [steps, steps, "77"])))
    #expect(rows.first { $0.key == "data" }?.values[0] == nil && rows.count == 5)
    #expect(GraftPlan.differingEntries(of: [plans[0], plans[0]]).isEmpty)
  }
}
