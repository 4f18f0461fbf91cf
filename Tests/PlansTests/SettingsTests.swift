import Foundation
import Operators
import Plans
import Testing

/// A table with one row: all that a new setting needs.
struct ExampleSchema: SettingsSchema {
  static let table = SettingsTable(ExampleSchema())

  let dropout = Setting("dropout", 0.1, in: 0...1, "fraction of units that are dropped", .form)
}

/// The tables of settings, and what walks them.
@Suite struct SettingsTests {
  let attention = SlotID(block: 1, slot: .attention)

  init() { OperatorRegistry.fillCatalog() }

  private func plan() -> GraftPlan {
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "demo", shape: ditXL2, contentHash: "c0ffee"))
    plan.edits[attention] = OperatorSpec("swa")
    return plan
  }

  /// What is stated and has no effect beside the rest is named with what it belongs to; defaults and presets are not.
  @Test func settingsWithoutEffectAreNamed() throws {
    var plan = plan()
    for preset in [TrainingPreset.paper, .short] {
      var own = plan
      own.apply(preset)
      #expect(own.notes.isEmpty, "\(preset)")
    }
    #expect(plan.notes.isEmpty)
    let other = SlotID(block: 2, slot: .mlp)
    for text in [
      "stage1.mode=cached", "stage1.steps=77", "stage1.epochs=3", "stage1.huber_delta=2",
      "stage1.min_learning_rate=1e-7", "stage1.overrides.1.attention.steps=7",
      "stage1.overrides.\(other).loss=l1", "stage2.lora_rank=8", "stage2.gamma=0.1",
      "stage2.distill_null=true", "data.path=self", "data.pool=8",
    ] {
      try plan.set(assignments: text)
    }
    #expect(
      plan.notes == [
        "stage1.steps has no effect: it belongs to mode streaming",
        "stage1.min_learning_rate has no effect: it belongs to schedule exponential or plateau",
        "stage1.huber_delta has no effect: it belongs to loss huber",
        "stage1.overrides.1.attention.steps has no effect: it belongs to mode streaming",
        "stage1.overrides.2.mlp has no effect: the slot keeps the model's operator",
        "stage2.gamma has no effect: it belongs to milestones",
        "stage2.distill_null has no effect: it belongs to distillation_weight or feature_weight above 0",
        "stage2.lora_rank has no effect: it belongs to trained lora",
      ])
    // A site that differs makes use of a setting of the section.
    try plan.set(assignments: "stage1.overrides.1.attention.schedule=exponential")
    #expect(!plan.notes.contains { $0.contains("min_learning_rate") })
    plan.edits[other] = OperatorSpec("linear")
    #expect(!plan.notes.contains { $0.contains("2.mlp") })
    let refusal = #expect(throws: PlanError.self) {
      try plan.set("1.attention.config.feature_map", to: "relu")
    }
    #expect(
      refusal?.description.contains(
        "the slot has swa, which has window_left, window_right, num_heads") == true)
  }

  /// Adding a setting is one line: reading, writing, refusing, assigning and forms follow from it.
  @Test func aSettingIsOneLine() throws {
    var settings = Settings<ExampleSchema>()
    #expect(settings.dropout == 0.1)
    try settings.set("dropout", typed: "0.5", at: "example.dropout")
    #expect(settings.dropout == 0.5 && settings.json == #"{"dropout": 0.5}"#)
    #expect(settings.formFields.map(\.row.key) == ["dropout"])
    var reader = SettingsReader(file: "x.json", text: Array("{\n\"dropout\": 2}".utf8))
    let read = try Settings<ExampleSchema>.read(reader.root(), at: "example", by: &reader)
    let refusal = #expect(throws: PlanError.self) {
      try reader.locating { () throws(PlanError) in try read.validate(at: "example") }
    }
    #expect(
      refusal?.description
        == "x.json:2: example.dropout: expected 0 to 1, found 2; choose a value in that range")
  }

  /// Every row of both stages can be assigned by the key that the file has, and comes back from it.
  @Test func everySettingCanBeAssigned() throws {
    for (section, rows) in GraftPlan.sections where section.hasPrefix("stage") {
      for row in rows where row.key != "overrides" {
        let isForSites = row.traits.contains(.siteOnly)
        let key = isForSites ? "stage1.overrides.1.attention.\(row.key)" : "\(section).\(row.key)"
        var changed = plan()
        try changed.set(key, to: row.initial.json)
        try changed.set(key, to: row.initial.json.replacing("\"", with: ""))
        try changed.validate()
        #expect(isForSites || changed == plan() || row.key == "learning_rate", "\(key)")
        let text = String(decoding: try changed.json(), as: UTF8.self)
        let isWritten = text.contains("\"\(row.key)\": \(row.initial.json)")
        #expect(isWritten == (row.initial.json != "null"), "\(key)")
        #expect(try GraftPlan.parse(text, file: "p") == changed, "\(key)")
      }
    }
  }

  /// A number beyond its range is refused with the same sentence wherever it comes from, and nothing
  /// that adds up or schedules settings ends the process.
  @Test(arguments: [
    "-9223372036854775808", "9223372036854775807", "1e300", "-1e300", "nan", "inf", "1e999", "-1",
    "0", "1e-320", "18446744073709551616", "[]", "{}", "null", "", "true",
  ])
  func extremeValues(text: String) throws {
    for (section, rows) in GraftPlan.sections {
      for row in rows {
        for prefix in [section, "stage1.overrides.1.attention"] {
          let key = prefix.isEmpty ? row.key : "\(prefix).\(row.key)"
          var changed = plan()
          do {
            try changed.set(key, to: text)
          } catch {
            #expect(!error.message.isEmpty && error.key?.hasPrefix(key) == true, "\(error)")
            continue
          }
          guard (try? changed.validate()) != nil else { continue }
          let written = try GraftPlan.parse(
            String(decoding: try changed.json(), as: UTF8.self), file: "p")
          #expect(written == changed)
          changed.scaleStage1Rates(by: 1e300)
          _ = (changed.cost(), changed.stage1.totalSteps, changed.stage1.drawnSamples)
        }
      }
    }
  }

  @Test(
    arguments: [
      ("stage1.steps", "0", "expected 1 to 10000000, found 0; choose a value in that range"),
      ("stage1.steps", "1.5", "expected a whole number, found the number 1.5; correct it"),
      ("stage1.stepz", "1", "unknown key, expected one of mode, steps"),
      ("stage1.loss", "l1", "unknown key"),
      ("stage1.overrides.1.attention.batch_size", "1", "unknown key, expected one of steps"),
      ("stage1.overrides.1.attn.loss", "l1", "expected a site and a setting"),
      ("stage1.overrides.1.attention.loss", "l3", #"expected "l1", "l2" or "huber""#),
      ("stage2.lora_targets", "qkv,kv", #"found the text "kv""#),
      ("stage3.steps", "1", "no such setting"), ("steps", "1", "no such setting"),
      ("0.attention.config.window_left", "1", "the slot keeps the model's operator"),
      ("data", "x", "unknown key, expected one of path"), ("name", "", "a text of 1 to 4096"),
    ])
  func refusedAssignments(key: String, text: String, says: String) {
    var changed = plan()
    let error = #expect(throws: PlanError.self) { try changed.set(key, to: text) }
    #expect(error?.message.contains(says) == true, "\(String(describing: error))")
  }

  @Test func assignments() throws {
    var changed = plan()
    for (key, value) in [
      ("name", "5"), ("seed", "18446744073709551615"), ("stage1.mode", "cached"),
      ("stage1.milestones", "0.25,0.5"), ("stage2.lora_targets", "fc1,adaLN_modulation.1"),
      ("stage1.overrides.1.attention.loss", "l2"), ("stage1.overrides.2+3.learning_rate", "1e-3"),
      ("1.attention.config.window_left", "8"), ("stage2.recompute", "true"),
    ] { try changed.set(key, to: value) }
    try changed.validate()
    #expect(changed.name == "5" && changed.seed == .max && changed.stage1.mode == .cached)
    #expect(changed.stage1.milestones == [0.25, 0.5] && changed.stage2.recompute)
    #expect(changed.stage2.loraTargets == [.fc1, .modulation])
    #expect(changed.stage1.loss(for: .slot(attention)) == .l2)
    #expect(changed.edits[attention]?.config["window_left"] == 8)
    #expect(changed.stage1.overrides[.pair(BlockPair(first: 2))]?.learningRate == 1e-3)
    try changed.set("stage1.overrides.1.attention.loss", to: "null")
    #expect(changed.stage1.overrides[.slot(attention)] == nil)
    // An override that only the check of the whole plan can refuse.
    try changed.set("stage1.overrides.1.attention.epochs", to: "201")
    let error = #expect(throws: PlanError.self) { try changed.validate() }
    #expect(error?.key == "stage1.overrides.1.attention.epochs")
  }

  /// A row marked so changes nothing for a checkpoint; every other one does.
  @Test func rowsSayWhatMayChangeOnResume() throws {
    let before = plan()
    for (section, rows) in GraftPlan.sections where section.hasPrefix("stage") {
      for row in rows where row.range != nil && !row.traits.contains(.siteOnly) {
        var changed = before
        let value = row.kind.contains("list") ? "1" : numberText(row.range?.upperBound ?? 0)
        try changed.set("\(section).\(row.key)", to: value)
        #expect(changed != before, "\(row.key)")
        #expect(changed.continues(before) == row.traits.contains(.resume), "\(section).\(row.key)")
      }
    }
    var own = before
    try own.set("stage1.overrides.1.attention.learning_rate", to: "0.5")
    #expect(own.continues(before))
    try own.set("stage1.overrides.1.attention.gamma", to: "0.25")
    #expect(!own.continues(before))
  }

  /// Entries that build the same operator are equal, whatever they leave out.
  @Test func equalOperatorsAreEqual() throws {
    func edited(_ slot: Slot, _ spec: OperatorSpec) -> GraftPlan {
      var plan = plan()
      plan.edits[SlotID(block: 5, slot: slot)] = spec
      return plan
    }
    for (slot, spec, other) in [
      (
        Slot.attention, OperatorSpec("swa"),
        OperatorSpec("swa", ["window_left": 4, "window_right": 4, "num_heads": 16])
      ),
      (
        .attention, OperatorSpec("hyena_se"),
        OperatorSpec("hyena_se", ["short_filter_order": 4, "inner_filter_len": 4, "order": 2])
      ),
      (.mlp, OperatorSpec("mlp_hyena_x", ["l_max": 256]), OperatorSpec("mlp_hyena_x")),
      (.attention, OperatorSpec("mha"), ditXL2.original(.attention)),
    ] {
      let (one, same) = (edited(slot, spec), edited(slot, other))
      #expect(one == same && one.changes == same.changes, "\(spec)")
      let site = GraftSite.slot(SlotID(block: 5, slot: slot))
      #expect(one.agrees(with: same, at: site), "\(spec)")
      let text = String(decoding: try one.json(), as: UTF8.self)
      #expect(try GraftPlan.parse(text, file: "p") == same)
    }
    #expect(
      edited(.attention, OperatorSpec("swa"))
        != edited(.attention, OperatorSpec("swa", ["window_left": 5])))
    // What cannot be built stays as it is, to be refused.
    let wrong = edited(.attention, OperatorSpec("swa", ["window_left": -1]))
    #expect(throws: PlanError.self) { try wrong.validate() }
  }

  /// Several processes change one file: no change is lost.
  @Test func simultaneousChangesAreAllKept() async throws {
    let path = NSTemporaryDirectory() + "espalier-plan-\(UUID().uuidString).json"
    defer { try? FileManager.default.removeItem(atPath: path) }
    var first = plan()
    first.stage1.steps = 1
    try first.save(to: path)
    await withThrowingTaskGroup(of: Void.self) { group in
      for _ in 0..<8 {
        group.addTask {
          for _ in 0..<5 { _ = try GraftPlan.update(path: path) { $0.stage1.steps += 1 } }
        }
      }
    }
    #expect(try GraftPlan.load(path: path).stage1.steps == 41)
  }

  /// A file that has changed since it was read is not written over.
  @Test func aChangedFileIsNotWrittenOver() throws {
    let path = NSTemporaryDirectory() + "espalier-plan-\(UUID().uuidString).json"
    defer { try? FileManager.default.removeItem(atPath: path) }
    let known = plan()
    var mine = known
    mine.seed = 1
    #expect(try mine.save(to: path, over: nil))
    #expect(try !mine.save(to: path, over: nil))
    #expect(try !mine.save(to: path, over: known))
    try known.save(to: path)
    #expect(try mine.save(to: path, over: known))
    #expect(try GraftPlan.load(path: path) == mine)
  }
}
