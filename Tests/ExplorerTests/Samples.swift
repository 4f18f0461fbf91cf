import Explorer
import Foundation
import Operators
import Pictures
import Plans
import Runs
import TerminalUI

/// States and facts that the tests share; everything is a pure function of its arguments.
enum Samples {
  static let now = 1_800_000_000.0
  static let shape = {
    OperatorRegistry.fillCatalog()
    return ModelShape(
      depth: 28, hiddenSize: 96, numHeads: 4, patchSize: 1, inputSize: 16, inChannels: 4,
      numClasses: 10)
  }()
  static let model = ModelReference(path: "demo", shape: shape, contentHash: "feedbeef")
  static let classNames = [
    "disc", "ring", "square", "diamond ring", "triangle", "cross", "star", "crescent", "stripes",
    "leaf",
  ]
  static let small = Size(columns: 80, rows: 24)
  static let large = Size(columns: 120, rows: 40)
  static let huge = Size(columns: 200, rows: 60)
  static let sizes = [small, large, huge]
  static let hyena = OperatorSpec("hyena_x", ["short_filter_order": 4])
  static let narrow = OperatorSpec("mlp", ["expansion_ratio": 3])

  static func attention(_ block: Int) -> SlotID { SlotID(block: block, slot: .attention) }
  static func mlp(_ block: Int) -> SlotID { SlotID(block: block, slot: .mlp) }

  static func state(_ size: Size = small, depth: Int = 28) -> AppState {
    var shape = shape
    shape.depth = depth
    let model = ModelReference(path: "demo", shape: shape, contentHash: "feedbeef")
    let document = PlanDocument(plan: GraftPlan(named: AppState.untitled, model: model))
    var state = AppState(
      model: model, classNames: classNames, document: document, size: size, now: now)
    state.terminal.colors = 256
    state.terminal.answered = true
    state.terminal.choose(.auto)
    return state
  }

  /// A plan with Hyena-X in the odd blocks.
  static func oddPlan(_ first: Int = 1) -> GraftPlan {
    var plan = GraftPlan(named: "hyena-odd", model: model)
    for block in stride(from: first, to: 28, by: 2) { plan.edits[attention(block)] = hyena }
    return plan
  }

  /// A state in which every pane has something to say.
  static func busy(_ size: Size, step: Int = 412, state runState: RunState = .running) -> AppState {
    var state = state(size)
    state.document = PlanDocument(plan: oddPlan(), path: "hyena-odd.json")
    state.analysis = .ready(analysis())
    var focus = FocusedRun(id: "r3", plan: state.plan)
    focus.history = history(for: state.plan, steps: step)
    state.runs.focus = focus
    state.runs.isScanned = true
    state.runs.records = [
      trained(record("r3", "hyena-odd", runState, step: step, total: 800, age: 130), oddPlan()),
      record("r2", "mlp-selfgraft", .done, step: 400, total: 400, age: 4000),
      record("r1", "swa-all", .lost, step: 212, total: 800, age: 90_000),
      record("r0", "first-try", .cancelled, step: 31, total: 400, age: 400_000),
    ]
    state.document.edit("one more") { $0.edits[mlp(3)] = narrow }
    state.document.edit("another") {
      $0.edits[attention(27)] = OperatorSpec("swa", ["window_left": 4, "window_right": 4])
    }
    state.cursor = attention(7)
    state.preview.settings.classLabel = 1
    return state
  }

  /// The busy state with wide and hostile characters in what comes from outside.
  static func outsideText(_ size: Size) -> AppState {
    let hostile = "bad\u{1b}[31m\u{202e}name\u{200b}"
    let outside = busy(size)
    var plan = outside.plan
    plan.name = "渋谷の犬と猫と鳥の絵画実験計画その一"
    var state = AppState(
      model: ModelReference(
        path: "/models/模型\u{9b}2J.pt", shape: shape, contentHash: "feedbeef"),
      classNames: ["ri\u{301}ng \u{7}\u{1b}[2J", "円盤\nと輪"] + classNames.dropFirst(2),
      document: PlanDocument(plan: plan, path: "p.json"), size: size, now: now)
    state.analysis = outside.analysis
    state.runs = outside.runs
    state.runs.records = [
      record("r3", plan.name, .running, step: 412, total: 800, age: 130),
      record("r2", hostile, .done, step: 400, total: 400, age: 4000),
      record("r1", "한국어 e\u{301}tude 👩‍👩‍👧", .failed, step: 212, total: 800, age: 90_000),
      record("r0", "first-try", .cancelled, step: 31, total: 400, age: 400_000),
    ]
    state.runs.records[2].end = RunEnd(outcome: .failed, text: "\u{1b}c" + hostile)
    state.preview.settings.classLabel = 1
    return state
  }

  /// The busy state with a finetuning in the place of its distillation.
  static func finetuning(_ size: Size) -> AppState {
    var state = busy(size, step: 800, state: .done)
    var focus = FocusedRun(id: "r4", plan: oddPlan())
    for step in 1...212 {
      let loss = value(attention(14), step)
      focus.history.apply(
        Event(
          .step(step: step, total: 1000, loss: loss, losses: [:], rate: 1.2, secondsLeft: 657),
          time: now))
      if step % 50 == 1 {
        focus.history.apply(
          Event(.heldOut(step: step, loss: loss + 0.006, losses: [:]), time: now))
      }
    }
    state.runs.focus = focus
    state.runs.records.insert(
      record("r4", "hyena-odd", .running, step: 212, total: 1000, age: 177, kind: .finetune), at: 0)
    return state
  }

  /// The busy state with runs in the queue: the second comes after the running one, the third can never
  /// begin.
  static func queued(_ size: Size) -> AppState {
    var state = busy(size)
    let places: [(String, QueuePlace, Job.Kind)] = [
      ("q3", QueuePlace(priority: -1, after: ["r1"]), .finetune), ("q2", QueuePlace(), .distill),
      ("q1", QueuePlace(priority: 2, after: ["r3"]), .finetune),
    ]
    state.runs.records =
      places.map { id, place, kind in
        var record = record(id, "hyena-odd", .queued, total: 0, age: 50, kind: kind)
        record.place = place
        return record
      } + state.runs.records
    state.runs.records.takeTurns()
    return state
  }

  /// A run in which three pairs are trained, one with operators of its own.
  static func parallel(_ size: Size) -> AppState {
    var state = busy(size)
    var plan = oddPlan()
    plan.parallel = [
      BlockPair(first: 4): .projection, BlockPair(first: 13): .projection,
      BlockPair(first: 22): .residual,
    ]
    state.document = PlanDocument(plan: plan, path: "hyena-odd.json")
    var focus = FocusedRun(id: "r3", plan: plan)
    focus.history = history(for: plan, steps: 412)
    state.runs.focus = focus
    state.cursor = attention(4)
    return state
  }

  static func record(
    _ id: String, _ name: String, _ state: RunState, step: Int = 0, total: Int = 400,
    age: Double = 60, kind: Job.Kind = .distill
  ) -> RunSummary {
    var record = RunSummary(
      id: id, name: name, kind: kind, modelHash: "feedbeef", createdAt: now - age, state: state)
    (record.step, record.total, record.loss) = (step, total, step > 0 ? 0.121 : nil)
    (record.rate, record.secondsLeft) = (3.4, Double(total - step) / 3.4)
    record.lastEventTime = now - min(age, 1)
    return record
  }

  /// A run with its plan, and the checkpoint of its last fifty steps.
  static func trained(_ record: RunSummary, _ plan: GraftPlan) -> RunSummary {
    var record = record
    record.changes = plan.changes
    if record.step > 0 {
      record.checkpoint = SavedCheckpoint(step: max(1, record.step / 50 * 50), path: "x")
    }
    return record
  }

  /// Losses that fall from about 0.23 to about 0.12 with a fixed ripple.
  static func value(_ slot: SlotID, _ step: Int) -> Double {
    let fall = 0.11 * Foundation.exp(-Double(step) / 90)
    let ripple = 0.004 * Foundation.sin(Double(step * 7 + slot.block * 13))
    return 0.12 + fall + ripple + Double(slot.block) * 0.001
  }

  /// Three runs on one plot, one of which diverged.
  static func plotting(_ size: Size) -> AppState {
    var state = busy(size)
    press(&state, "P", "o", " ", "j", " ")
    let others = ["r2", "r1"].enumerated().map { index, id -> FocusedRun in
      var run = FocusedRun(id: id, plan: state.plan)
      for step in stride(from: 1, through: 300, by: 3) {
        let loss = step > 250 ? .nan : 0.3 + 0.1 * Double(index) - 0.0004 * Double(step)
        run.history.apply(
          Event(
            .step(step: step, total: 800, loss: loss, losses: [:], rate: 1, secondsLeft: 1),
            time: now))
      }
      return run
    }
    _ = update(&state, .runsRead(others))
    press(&state, .escape, "L")
    return state
  }

  static func picture(_ seed: Int) -> RGBImage {
    let pixels = (0..<(64 * 64)).flatMap { index -> [UInt8] in
      let (x, y) = (index % 64, index / 64)
      return [UInt8((x * 4 + seed) & 255), UInt8((y * 4) & 255), UInt8((seed * 60) & 255)]
    }
    return RGBImage(width: 64, height: 64, pixels: pixels)
  }

  static func withPreview(_ state: AppState) -> AppState {
    var state = state
    var preview = Preview(
      generation: 1, settings: state.preview.settings, changes: state.plan.changes, weightStep: 400)
    for (index, role) in PreviewRole.allCases.enumerated() {
      preview.images[role] = Picture(picture(index))
    }
    state.preview.generation = 1
    state.preview.shown = preview
    return state
  }
}

/// Presses keys one after the other and gathers the effects.
@discardableResult
func press(_ state: inout AppState, _ keys: Key...) -> [Effect] {
  keys.flatMap { update(&state, .keyPressed($0)) }
}

/// Types text as single keys.
@discardableResult
func type(_ state: inout AppState, _ text: String) -> [Effect] {
  text.flatMap { update(&state, .keyPressed(.character($0))) }
}
