import Files
import Foundation
import Operators
import Plans
import Testing

@Suite struct PlanFileTests {
  init() { OperatorRegistry.fillCatalog() }

  func sample() -> GraftPlan {
    var plan = GraftPlan(
      named: "odd \"hyena\" ü",
      model: ModelReference(path: "demo", shape: ditXL2, contentHash: "c0ffee"))
    plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec(
      "hyena_x", ["short_filter_order": 4])
    plan.edits[SlotID(block: 1, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 2.5])
    plan.edits[SlotID(block: 27, slot: .attention)] = OperatorSpec("mha")
    plan.edits[SlotID(block: 3, slot: .attention)] = OperatorSpec(
      "swa", ["window_left": 4, "window_right": 0])
    var own = SiteOverride()
    own.loss = .huber
    own.initialization = .transferred
    plan.stage1.overrides[.slot(SlotID(block: 3, slot: .attention))] = own
    plan.stage1.learningRate = 3e-5
    plan.stage1.milestones = []
    plan.stage2.emaDecay = 0.99
    plan.stage2.milestones = [0.5]
    plan.stage2.distillationWeight = 0.25
    plan.stage2.trained = .lora
    plan.stage2.loraRank = 16
    plan.stage2.loraTargets = [.qkv, .modulation]
    plan.stage2.recompute = true
    plan.seed = .max
    return plan
  }

  /// The text of the sample plan, one line per key and per edited slot.
  static let text = """
    {
      "espalier_plan": 1,
      "name": "odd \\"hyena\\" ü",
      "model": {
        "path": "demo",
        "family": "dit",
        "depth": 28,
        "hidden_size": 1152,
        "num_heads": 16,
        "patch_size": 2,
        "input_size": 32,
        "in_channels": 4,
        "num_classes": 1000,
        "learn_sigma": true,
        "mlp_ratio": 4,
        "content_hash": "c0ffee"
      },
      "blocks": [
        {"block": 1, "attention": {"operator": "hyena_x", "config": {"short_filter_order": 4}},
          "mlp": {"operator": "mlp", "config": {"expansion_ratio": 2.5}}},
        {"block": 3, "attention": {"operator": "swa", "config": {"num_heads": 0, "window_left": 4, "window_right": 0}}},
        {"block": 27, "attention": {"operator": "mha", "config": {"num_heads": 0}}}
      ],
      "stage1": {
        "mode": "streaming",
        "steps": 1600,
        "samples": 8000,
        "epochs": 200,
        "cache_gb": 20,
        "batch_size": 8,
        "learning_rate": 3e-05,
        "min_learning_rate": 1e-06,
        "weight_decay": 0,
        "clip_norm": 10,
        "warmup_steps": 50,
        "schedule": "multi_step",
        "milestones": [],
        "gamma": 0.5,
        "held_out_every": 100,
        "held_out_samples": 128,
        "keep_best": false,
        "checkpoint_every": 100,
        "checkpoint_minutes": 10,
        "keep_last": 1,
        "attention_loss": "l1",
        "mlp_loss": "l2",
        "huber_delta": 1,
        "gate_scaled": false,
        "label_dropout": 0.1,
        "ridge_finish": false,
        "sweep": false,
        "ridge_samples": 48,
        "ridge_lambda": 0.0001,
        "overrides": {"3.attention": {"loss": "huber", "init": "transferred"}}
      },
      "stage2": {
        "steps": 100,
        "batch_size": 16,
        "optimizer": "adamw",
        "learning_rate": 0.0001,
        "warmup_steps": 20,
        "clip_norm": 10,
        "ema_decay": 0.99,
        "label_dropout": 0.1,
        "micro_batch": 4,
        "weight_decay": 0,
        "milestones": [0.5],
        "gamma": 0.5,
        "ema_warmup": true,
        "held_out_every": 100,
        "held_out_samples": 128,
        "keep_best": false,
        "checkpoint_every": 100,
        "checkpoint_minutes": 10,
        "keep_last": 1,
        "distillation_weight": 0.25,
        "variance_weight": 1,
        "teacher_samples": 0,
        "distill_null": false,
        "diffusion_weight": 1,
        "feature_weight": 0,
        "feature_outliers": 0,
        "inherited_rate": 1,
        "trained": "lora",
        "last_n_blocks": 1,
        "lora_rank": 16,
        "lora_alpha": 64,
        "lora_targets": ["qkv", "adaLN_modulation.1"],
        "recompute": true
      },
      "seed": 18446744073709551615
    }

    """

  @Test func writesTheFormatOfVersion1() throws {
    #expect(String(decoding: try sample().json(), as: UTF8.self) == Self.text)
    #expect(try GraftPlan.parse(Self.text, file: "plan.json") == sample())
    #expect((try JSONSerialization.jsonObject(with: try sample().json())) is [String: Any])
  }

  /// A plan made before there were checkpoints by minutes has the defaults.
  @Test func lacksOfSettingsAreDefaults() throws {
    let names = ["checkpoint_minutes", "keep_last", "keep_best"]
    let lines = Self.text.split(separator: "\n", omittingEmptySubsequences: false)
    let old = lines.filter { line in !names.contains { line.contains("\"\($0)\"") } }
    #expect(old.count == lines.count - 6)
    #expect(try GraftPlan.parse(old.joined(separator: "\n"), file: "old.json") == sample())
  }

  /// A checkpoint goes with plans of other rates and other checkpoints, and with no others.
  @Test func continuations() throws {
    let plan = sample()
    var other = plan
    other.scaleStage1Rates(by: 0.01)
    #expect(other.stage1.learningRate == plan.stage1.learningRate * 0.01)
    #expect(other.stage1.minimumRate == other.stage1.learningRate)
    other.stage2.learningRate = 0.5
    other.stage2.keepsBest = true
    (other.stage1.keepLast, other.stage2.checkpointMinutes) = (5, 0)
    #expect(other != plan && other.continues(plan))
    try other.validate()
    for key: WritableKeyPath<GraftPlan, Double> in [\.stage1.gamma, \.stage2.emaDecay] {
      var changed = plan
      changed[keyPath: key] = 0.25
      #expect(!changed.continues(plan))
    }
    var seeded = plan
    seeded.seed = 3
    #expect(!seeded.continues(plan))
  }

  @Test func savesAndLoads() throws {
    let path = NSTemporaryDirectory() + "espalier-plan-\(UUID().uuidString).json"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try sample().save(to: path)
    #expect(try GraftPlan.load(path: path) == sample())
    #expect(throws: FileError.self) { try sample().save(to: path + "/x.json") }
    let missing = #expect(throws: PlanError.self) { try GraftPlan.load(path: path + ".absent") }
    #expect(missing?.description == "\(path).absent: no such file; check the path")
  }

  @Test func invalidPlansAreNotWritten() throws {
    var plan = sample()
    plan.edits[SlotID(block: 28, slot: .mlp)] = OperatorSpec("mlp")
    #expect(throws: PlanError.self) { try plan.json() }
    plan = sample()
    plan.stage1.learningRate = .nan
    #expect(throws: PlanError.self) { try plan.json() }
  }

  /// Sections and settings that a hand-written plan leaves out have the format's defaults.
  @Test func absentSettingsHaveDefaults() throws {
    let short = try GraftPlan.parse(
      """
      {"espalier_plan": 1, "name": "x", "seed": 7, "stage1": {"steps": 10},
       "model": {"path": "demo", "family": "dit", "depth": 28, "hidden_size": 1152,
         "num_heads": 16, "patch_size": 2, "input_size": 32, "in_channels": 4,
         "num_classes": 1000, "learn_sigma": true, "mlp_ratio": 4.0, "content_hash": "c0ffee"},
       "blocks": [{"block": 0, "attention": {"operator": "swa"}}]}
      """, file: "x")
    var stage1 = Stage1Settings(hiddenSize: 1152)
    #expect(stage1.learningRate == 2.2e-4)
    stage1.steps = 10
    #expect(short.stage1 == stage1 && short.stage2 == Stage2Settings() && short.seed == 7)
    #expect(
      short.edits == [
        SlotID(block: 0, slot: .attention): OperatorSpec(
          "swa", ["num_heads": 0, "window_left": 4, "window_right": 4])
      ])
  }

  /// The teacher's outputs of samples that come again must fit in memory: 32 KiB each of this model.
  @Test func keptOutputsAreBounded() throws {
    func plan(samples: Int, steps: Int) throws -> GraftPlan {
      try GraftPlan.parse(
        Self.text.replacing("\"teacher_samples\": 0", with: "\"teacher_samples\": \(samples)")
          .replacing("\"steps\": 100,", with: "\"steps\": \(steps),"), file: "p.json")
    }
    #expect(try plan(samples: 262_144, steps: 100_000).stage2.teacherSamples == 262_144)
    #expect(try plan(samples: 400_000, steps: 100).stage2.teacherSamples == 400_000)
    let error = #expect(throws: PlanError.self) { try plan(samples: 262_160, steps: 100_000) }
    #expect(error?.key == "stage2.teacher_samples" && error?.line == 78)
    #expect(error?.message.contains("set it to 262144 or less") == true)
  }

  /// Each change to the good text, and the line, key and words of the refusal.
  @Test(
    arguments: [
      (
        #""espalier_plan": 1"#, #""espalier_plan": 2"#, 2, "espalier_plan",
        "expected version 1, found 2"
      ),
      (#""espalier_plan": 1"#, #""espalier_plan": "1""#, 2, "espalier_plan", "a whole number"),
      (#""espalier_plan": 1,"#, "", 1, "espalier_plan", "no plan"),
      (
        #""operator": "hyena_x""#, #""operator": "hyena_q""#, 19, "1.attention.operator",
        "unknown operator \"hyena_q\""
      ),
      (
        #""operator": "hyena_x""#, #""operator": "mlp""#, 19, "1.attention.operator",
        "fits the mlp slot"
      ),
      (
        #""operator": "hyena_x""#, #""operator": 4"#, 19, "1.attention.operator",
        "expected a text, found the number 4"
      ),
      (#""operator": "mlp", "#, "", 20, "1.mlp.operator", "missing"),
      (#""block": 27"#, #""block": 28"#, 22, "blocks[2].block", "blocks 0 to 27, found 28"),
      (#""block": 27"#, #""block": -1"#, 22, "blocks[2].block", "found -1"),
      (#""block": 27"#, #""block": 2.0"#, 22, "blocks[2].block", "a whole number"),
      (#""block": 27"#, #""block": 3"#, 22, "3.attention", "listed twice"),
      (
        #"{"block": 27, "attention": {"operator": "mha", "config": {"num_heads": 0}}}"#,
        #"{"block": 27}"#, 22, "blocks[2]", "neither"
      ),
      (
        #""window_left": 4"#, #""window_left": -4"#, 21, "3.attention.config.window_left",
        "expected 0 to 65536, found -4"
      ),
      (
        #""window_left": 4"#, #""window_left": 4.5"#, 21, "3.attention.config.window_left",
        "a whole number"
      ),
      (
        #""window_left": 4"#, #""window_left": "4""#, 21, "3.attention.config.window_left",
        "a number, found the text"
      ),
      (#""window_left": 4"#, #""window": 4"#, 21, "3.attention.config.window", "no such setting"),
      (#""window_left": 4"#, #""window_right": 4"#, 21, "3.attention.config.window_right", "twice"),
      (
        #""expansion_ratio": 2.5"#, #""expansion_ratio": 1e999"#, 20,
        "1.mlp.config.expansion_ratio", "a number"
      ),
      (
        #""expansion_ratio": 2.5"#, #""expansion_ratio": 0.2"#, 20, "1.mlp.config.expansion_ratio",
        "0.25 to 16"
      ),
      (#""num_heads": 16"#, #""num_heads": 7"#, 9, "model.num_heads", "do not divide"),
      (#""num_heads": 16"#, #""num_heads": 0"#, 9, "model.num_heads", "expected 1 to 1024"),
      (#""patch_size": 2"#, #""patch_size": 3"#, 10, "model.patch_size", "do not divide"),
      (#""depth": 28"#, #""depth": -28"#, 7, "model.depth", "found -28"),
      (#""depth": 28"#, #""depth": 99999999999999999999"#, 7, "model.depth", "a whole number"),
      (
        #""family": "dit""#, #""family": "unet""#, 6, "model.family",
        #"found the text "unet""#
      ),
      (#""family": "dit""#, #""family": "pixart""#, 13, "model.num_classes", "expected 0"),
      (#""learn_sigma": true"#, #""learn_sigma": 1"#, 14, "model.learn_sigma", "true or false"),
      (#""path": "demo","#, "", 4, "model.path", "missing"),
      (#""steps": 1600"#, #""steps": 0"#, 26, "stage1.steps", "expected 1 to"),
      (#""steps": 1600"#, #""steps": null"#, 26, "stage1.steps", "found null"),
      (#""steps": 1600"#, #""stepz": 1600"#, 26, "stage1.stepz", "unknown key"),
      (#""milestones": []"#, #""milestones": [0.5, 0.25]"#, 37, "stage1.milestones", "ascending"),
      (#""milestones": []"#, #""milestones": [2]"#, 37, "stage1.milestones[0]", "found 2"),
      (
        #""attention_loss": "l1""#, #""attention_loss": "l3""#, 45, "stage1.attention_loss",
        "\"l1\", \"l2\" or \"huber\""
      ),
      (
        #""3.attention": {"loss""#, #""3.attn": {"loss""#, 54, "stage1.overrides.3.attn",
        "a slot such as"
      ),
      (
        #""3.attention": {"loss""#, #""30.mlp": {"loss""#, 54, "stage1.overrides.30.mlp",
        "blocks 0 to 27"
      ),
      (
        #""loss": "huber""#, #""learning_rate": 2"#, 54,
        "stage1.overrides.3.attention.learning_rate", "found 2"
      ),
      (
        #""loss": "huber""#, #""schedule": "cosine""#, 54,
        "stage1.overrides.3.attention.schedule", "\"multi_step\", \"exponential\" or \"plateau\""
      ),
      (
        #""loss": "huber""#, #""rate": 2"#, 54, "stage1.overrides.3.attention.rate",
        "unknown key, expected one of steps, epochs"
      ),
      (
        #"{"operator": "swa", "config": {"num_heads": 0, "window_left": 4, "window_right": 0}}"#,
        #"{"operator": "linear"}"#, 54, "stage1.overrides.3.attention.init",
        "linear has no place for weights"
      ),
      (#""mode": "streaming""#, #""mode": "stream""#, 25, "stage1.mode", "or \"cached\""),
      (#""cache_gb": 20"#, #""cache_gb": 0"#, 29, "stage1.cache_gb", "found 0"),
      (#""ema_decay": 0.99"#, #""ema_decay": 1.5"#, 63, "stage2.ema_decay", "found 1.5"),
      (#""trained": "lora""#, #""trained": "some""#, 84, "stage2.trained", "\"grafts_and_norms\""),
      (#""last_n_blocks": 1"#, #""last_n_blocks": 0"#, 85, "stage2.last_n_blocks", "found 0"),
      (
        #""trained": "lora",\#n    "last_n_blocks": 1"#,
        #""trained": "last_n_blocks",\#n    "last_n_blocks": 29"#, 85, "stage2.last_n_blocks",
        "expected 1 to 28"
      ),
      (#""lora_rank": 16"#, #""lora_rank": 1153"#, 86, "stage2.lora_rank", "1 to 1152"),
      (#""qkv", "adaLN"#, #""kv", "adaLN"#, 88, "stage2.lora_targets[0]", "found the text \"kv\""),
      (#""qkv", "adaLN_modulation.1""#, "", 88, "stage2.lora_targets", "at least one layer"),
      (#""qkv", "adaLN_modulation.1""#, #""fc1", "fc1""#, 88, "stage2.lora_targets", "none twice"),
      (#""recompute": true"#, #""recompute": 1"#, 89, "stage2.recompute", "true or false"),
      (#""milestones": [0.5]"#, #""milestones": [1.5]"#, 67, "stage2.milestones[0]", "found 1.5"),
      (#""recompute": true"#, #""recompute": true, "dropout": 1"#, 89, "stage2.dropout", "unknown"),
      (#""seed": 18446744073709551615"#, #""seed": -1"#, 91, "seed", "a whole number from 0 up"),
      (#""seed": 18446744073709551615"#, #""seed": 1, "note": 2"#, 91, "note", "unknown key"),
      (#""seed": 18446744073709551615"#, #""seed": 1, "seed": 1"#, 91, "seed", "twice"),
      (#""blocks": ["#, #""blocks": {"#, 19, nil, "not valid JSON"),
      (#""seed": 18446744073709551615"#, #""seed": 018"#, 91, nil, "not valid JSON"),
      (#""seed": 18446744073709551615"#, #""seed": 1,"#, 92, nil, "not valid JSON"),
      (#""family": "dit""#, #""family": 'dit'"#, 6, nil, "not valid JSON"),
      (#""name": "odd"#, #""name": "\u0007odd"#, 3, "name", "control characters"),
    ] as [(String, String, Int, String?, String)])
  func refusals(old: String, new: String, line: Int, key: String?, says: String) throws {
    let range = try #require(Self.text.range(of: old))
    let text = Self.text.replacingCharacters(in: range, with: new)
    let error = #expect(throws: PlanError.self) { try GraftPlan.parse(text, file: "p.json") }
    let found = try #require(error)
    #expect(found.file == "p.json" && found.line == line && found.key == key, "\(found)")
    #expect(found.message.contains(says), "\(found)")
    #expect(!found.description.contains("\n"))
    #expect(found.description.hasPrefix("p.json:\(line): "))
  }

  /// What an initialisation asks for must be there.
  @Test(
    arguments: [
      ("skip", [:], .ridge, "skip as it is set has no layer"),
      ("skip", ["constant": 1], .ridge, nil),
      ("linear", [:], .transferred, "expected \"own\" or \"ridge\""),
      ("linear", [:], .ridge, nil), ("swa", [:], .transferredRidge, nil),
      ("linear", [:], .transferredRidge, "linear has no place"),
    ] as [(String, [String: Double], Initialization, String?)])
  func initializationsThatDoNotFit(
    name: String, config: [String: Double], start: Initialization, says: String?
  ) throws {
    var plan = sample()
    let id = SlotID(block: 3, slot: .attention)
    plan.edits[id] = OperatorSpec(name, config)
    plan.stage1.overrides[.slot(id), default: SiteOverride()].initialization = start
    if let says {
      #expect { try plan.validate() } throws: { "\($0)".contains(says) }
    } else {
      try plan.validate()
      #expect(try GraftPlan.parse(String(decoding: plan.json(), as: UTF8.self), file: "p") == plan)
    }
  }

  @Test func onlyProjectionsOfPairsAreFitted() throws {
    var plan = sample()
    let pair = BlockPair(first: 8)
    plan.parallel = [pair: .projection]
    plan.stage1.overrides[.pair(pair), default: SiteOverride()].initialization = .ridge
    try plan.validate()
    #expect(plan.fitted().stage1.initialization(of: .pair(pair)) == .ridge)
    plan.parallel = [pair: .mean]
    #expect { try plan.validate() } throws: { "\($0)".contains("the merge is mean") }
    plan.stage1.overrides[.pair(pair)]?.initialization = .transferred
    #expect { try plan.validate() } throws: { "\($0)".contains("expected \"own\" or \"ridge\"") }
  }

  /// Choices are written as numbers and may be read and set by their names.
  @Test func choicesHaveNames() throws {
    var plan = sample()
    let id = SlotID(block: 3, slot: .attention)
    plan.edits[id] = OperatorSpec("linear_attention")
    try plan.set("3.attention.config.feature_map", to: "relu")
    #expect(plan.edits[id]?.value("feature_map") == 1)
    let text = String(decoding: try plan.json(), as: UTF8.self)
    #expect(text.contains("\"feature_map\": 1"))
    let named = text.replacing("\"feature_map\": 1", with: "\"feature_map\": \"exp\"")
    #expect(try GraftPlan.parse(named, file: "p").edits[id]?.value("feature_map") == 2)
    let unknown = text.replacing("\"feature_map\": 1", with: "\"feature_map\": \"gelu\"")
    #expect(throws: PlanError.self) { try GraftPlan.parse(unknown, file: "p") }
  }

  /// Plans of before named the losses of single slots alone.
  @Test func readsLossOverrides() throws {
    let text = Self.text.replacing(
      #""overrides": {"3.attention": {"loss": "huber", "init": "transferred"}}"#,
      with: #""loss_overrides": {"3.attention": "huber"}"#)
    let plan = try GraftPlan.parse(text, file: "p")
    #expect(plan.stage1.loss(for: .slot(SlotID(block: 3, slot: .attention))) == .huber)
  }

  /// Relative paths of data stay as written beside the plan, and name the same data elsewhere.
  @Test func pathsOfDataCountFromThePlansFolder() throws {
    let text = Self.text.replacing(
      #"  "stage1": {"#,
      with: "  \"data\": {\"path\": \"d/x\", \"held_out\": \"/v\"},\n  \"stage1\": {")
    let root = FileManager.default.temporaryDirectory.standardizedFileURL.path
    let folder = "\(root)/espalier-paths-\(UUID().uuidString)"
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try FileManager.default.createDirectory(
      atPath: "\(folder)/sub", withIntermediateDirectories: true)
    let path = "\(folder)/p.json"
    try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    let plan = try GraftPlan.load(path: path)
    #expect(plan.data?.path == "\(folder)/d/x" && plan.data?.heldOut == "/v")
    #expect(plan.data?.flip == true)
    try plan.save(to: path)
    let saved = try String(contentsOfFile: path, encoding: .utf8)
    #expect(saved.contains(#""data": {"path": "d/x", "held_out": "/v", "flip": true}"#))
    #expect(try GraftPlan.load(path: path) == plan)
    // The same data in another folder, however often the plan moves.
    try plan.save(to: "\(folder)/sub/q.json")
    let moved = try GraftPlan.load(path: "\(folder)/sub/q.json")
    #expect(moved == plan && moved.data?.path == "\(folder)/d/x")
    // A path of the command line counts from the folder that is given.
    var changed = plan
    try changed.set("data.held_out", to: "h", in: "\(folder)/sub")
    #expect(changed.data?.path == "\(folder)/d/x")
    #expect(changed.data?.heldOut == "\(folder)/sub/h")
    try changed.set("data.held_out", to: "null", in: folder)
    #expect(changed.data?.heldOut == nil)
    try changed.set("data", to: "null")
    #expect(changed.data == nil)
    for text in ["", "a\u{7}b"] {
      #expect(throws: PlanError.self) { try changed.set("data.path", to: text) }
    }
  }

  @Test func presetsSetTheRatesOfTheirSource() throws {
    let attention = SlotID(block: 1, slot: .attention)
    let mlp = SlotID(block: 1, slot: .mlp)
    var plan = sample()
    plan.apply(.released)
    try plan.validate()
    #expect(plan.stage1.totalSteps == 200 * 125)
    #expect(plan.stage1.settings(for: .slot(attention)).learningRate == 5e-4)
    #expect(plan.stage1.settings(for: .slot(mlp)).learningRate == 1e-3)
    #expect(plan.stage1.settings(for: .slot(mlp)).weightDecay == 1e-5)
    #expect(plan.stage1.keepsBest)
    plan = sample()
    plan.apply(.paper)
    #expect(plan.stage1.settings(for: .slot(mlp)).learningRate == 1e-4 && !plan.stage1.keepsBest)
    #expect(plan.stage1.loss(for: .slot(SlotID(block: 3, slot: .attention))) == .huber)
    #expect(plan.stage2.steps == 50_000 && plan.stage2.batchSize == 256)
    #expect(plan.stage2.warmupSteps == 1000 && !plan.stage2.emaWarmup)
    #expect(plan.stage1.labelDropout == 0 && plan.stage2.labelDropout == 0.1)
    plan.apply(.short)
    try plan.validate()
    #expect(plan.stage1.sweeps && plan.stage1.ridgeFinish && plan.stage1.steps == 150)
    #expect(plan.stage2.diffusionWeight == 0 && plan.stage2.distillationWeight == 1)
    #expect(plan.stage1.initialization(of: .slot(mlp)).isFitted)
    #expect(plan.stage2.learningRate == 0.128 / Double(plan.model.shape.hiddenSize))
    #expect(plan.stage2.optimizer == .muon)
    // Linear attention keeps its own start, and a plan of nothing but MLPs and MHA has a lower rate.
    let linear = SlotID(block: 2, slot: .attention)
    var other = sample()
    other.edits = [linear: OperatorSpec("linear_attention"), mlp: OperatorSpec("mlp")]
    other.stage1.overrides = [.slot(linear): SiteOverride()]
    other.apply(.short)
    try other.validate()
    #expect(other.stage1.initialization(of: .slot(linear)) == .own)
    #expect(other.stage1.initialization(of: .slot(mlp)).isFitted)
    #expect(other.stage2.learningRate == plan.stage2.learningRate)
    other.edits = [mlp: OperatorSpec("mlp"), attention: OperatorSpec("mha")]
    other.apply(.short)
    #expect(other.stage2.learningRate == 0.0064 / Double(plan.model.shape.hiddenSize))
    #expect(other.stage2.optimizer == .adamw)
    plan.apply(.paper)
    #expect(plan.stage2.diffusionWeight == 1 && plan.stage2.distillationWeight == 0)
    #expect(!plan.stage1.sweeps)
  }

  @Test func deepNestingAndGarbage() {
    let deep = String(repeating: "[", count: 100_000)
    #expect(throws: PlanError.self) { try GraftPlan.parse(deep, file: "p") }
    for text in ["", " ", "[]", "{}", "{\"espalier_plan\"", "espalier_plan: 1", "\u{FEFF}{}"] {
      #expect(throws: PlanError.self, "\(text)") { try GraftPlan.parse(text, file: "p") }
    }
  }

  @Test func everyTruncationIsRefused() {
    let text = Self.text
    for count in stride(from: 0, to: text.count - 2, by: 5) {
      #expect(throws: PlanError.self, "\(count)") {
        try GraftPlan.parse(String(text.prefix(count)), file: "p")
      }
    }
  }
}
