import Foundation
import Models
import OfficialFormat
import Operators
import Plans
import Testing

@Suite("Official configurations")
struct OfficialGraftTests {
  private let folder: URL

  init() throws {
    OperatorRegistry.fillCatalog()
    folder = FileManager.default.temporaryDirectory.appending(path: "official-\(UUID().uuidString)")
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
  }

  private static func shape(_ name: String, imageSize: Int = 256) throws -> ModelShape {
    try #require(ModelShape(named: name, imageSize: imageSize))
  }

  private static func model(_ name: String = "DiT-XL/2") throws -> ModelReference {
    ModelReference(path: "x.pt", shape: try shape(name), contentHash: "c0ffee")
  }

  private func write(_ text: String, _ name: String) throws -> String {
    let path = folder.appending(path: name)
    try FileManager.default.createDirectory(
      at: path.deletingLastPathComponent(), withIntermediateDirectories: true)
    try Data(text.utf8).write(to: path)
    return path.path
  }

  private func graftText(
    type: String = "mha", name: String = "hyena_y", model: String = "DiT-XL/2",
    indexes: String = "[1, 3]", seed: String = "100", more: String = ""
  ) -> String {
    """
    operator:
      type: '\(type)'
      name: "\(name)"
      config_filepath: configs/op.yaml
    sample_config:
      global_seed: \(seed)
      dit_model_name: \(model)
      image_size: 256
      graft_indexes: \(indexes)
    \(more)
    """
  }

  private let hyenaY = """
    d_model: 1152 # width
    l_max: 1000000
    order: 2
    inner_factor: 1
    num_heads: 1
    num_blocks: 1
    inner_filter_len: 7
    """

  @Test func seedsAreWholeNumbersOf64Bits() throws {
    _ = try write(hyenaY, "configs/op.yaml")
    func seed(_ text: String) throws -> UInt64 {
      let path = try write(graftText(seed: text), "configs/sampling/graft.yaml")
      return try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2")).seed
    }
    #expect(try seed("18446744073709551615") == .max)
    #expect(try seed("null") == 0 && seed("0") == 0)
    for bad in ["-1", "18446744073709551616", "1.5", "[1]", "many"] {
      let error = #expect(throws: PlanError.self) { try seed(bad) }
      #expect(error?.key == "sample_config.global_seed")
    }
  }

  @Test func readsAGraft() throws {
    // The operator's file is named relative to a folder above the graft's.
    _ = try write(hyenaY, "configs/op.yaml")
    let path = try write(
      graftText(more: "  grafted_dit_ckpt_path: a/model.pt\n  graft_weights:\n    3: b/best.pt\n"),
      "configs/sampling/graft.yaml")
    let graft = try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
    #expect(graft.slot == .attention && graft.blocks == [1, 3] && graft.seed == 100)
    #expect(graft.spec.name == "hyena_y" && graft.spec.value("inner_filter_len") == 7)
    #expect(graft.weights == [3: "b/best.pt"] && graft.graftedCheckpoint == "a/model.pt")
    #expect(graft.warnings.isEmpty)
    let plan = try graft.plan(named: "y", model: try Self.model())
    #expect(plan.edits.keys.sorted().map(\.description) == ["1.attention", "3.attention"])
    #expect(plan.seed == 100)
  }

  @Test func listOfWeightsIsNoMap() throws {
    _ = try write(hyenaY, "configs/op.yaml")
    let path = try write(graftText(more: "  graft_weights:\n    - 1: a.pt\n"), "graft.yaml")
    let graft = try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
    #expect(graft.weights.isEmpty)
    #expect(graft.warnings.count == 1 && graft.warnings[0].contains("sample_config.graft_weights"))
  }

  /// Each operator of the official factory goes out and comes back.
  @Test(arguments: [
    ("mha", Slot.attention, ["num_heads": 8.0]), ("mha", .attention, [:]),
    ("swa", .attention, ["window_left": 2, "window_right": 6]),
    ("hyena_se", .attention, ["short_filter_order": 5]),
    ("hyena_x", .attention, ["short_filter_order": 6]),
    ("hyena_y", .attention, ["inner_filter_len": 2]),
    ("mamba2", .attention, ["d_state": 32, "headdim": 32]),
    ("mlp", .mlp, ["expansion_ratio": 2.5]), ("mlp_hyena_x", .mlp, ["expansion_ratio": 3]),
  ])
  func roundTrip(name: String, slot: Slot, config: [String: Double]) throws {
    var plan = GraftPlan(named: "p", model: try Self.model())
    let descriptor = try #require(OperatorCatalog.descriptor(named: name))
    var spec = descriptor.defaultSpec
    spec.config.merge(config) { $1 }
    for block in [0, 27] { plan.edits[SlotID(block: block, slot: slot)] = spec }
    plan.seed = 5
    try plan.validate()
    let operatorPath = folder.appending(path: "op.yaml").path
    let export = try OfficialExport(
      plan, operatorConfigPath: operatorPath, weights: [27: "w.pt"], graftedCheckpoint: "m.pt")
    _ = try write(export.operatorConfig, "op.yaml")
    let graft = try OfficialGraft(
      path: try write(export.graft, "graft.yaml"), shape: plan.model.shape)
    #expect(graft.spec == spec && graft.blocks == [0, 27] && graft.slot == slot)
    #expect(graft.weights == [27: "w.pt"] && graft.graftedCheckpoint == "m.pt")
    let back = try graft.plan(named: "p", model: plan.model)
    #expect(back == plan)
  }

  /// What a file leaves out is as in the official constructors, in whatever order its keys stand.
  @Test(arguments: [
    ("mha", "mha", "dim: 1152", ["num_heads": 8.0, "qkv_bias": 0]),
    (
      "swa", "mha", "num_heads_kv: 16\nuse_flash_attn: True\nnum_heads: 16\nembed_dim: 1152",
      ["window_left": 255, "window_right": 255, "num_heads": 0]
    ),
    (
      "hyena_se", "mha", "inner_filter_len: 9\nactivation: id\nl_max: 256\nd_model: 1152",
      ["short_filter_order": 4]
    ),
    (
      "hyena_se", "mha", "inner_filter_len: 3\nshort_filter_order: 6\nl_max: 256\nd_model: 1152",
      ["short_filter_order": 6]
    ),
    ("hyena_x", "mha", "num_heads: 4\nd_model: 1152\nl_max: 512", ["short_filter_order": 4]),
    ("hyena_y", "mha", "num_blocks: 2\nd_model: 1152\nl_max: 512", ["inner_filter_len": 4]),
    (
      "mamba2", "mha", "dt_min: 0.01\nuse_mem_eff_path: False\nd_model: 1152",
      ["d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1, "chunk_size": 256]
    ),
    ("mlp", "mlp", "expansion_ratio: 3\nd_model: 1152", ["expansion_ratio": 3]),
    (
      "mlp_hyena_x", "mlp", "fused_bias_fc: True\nl_max: 256\nd_model: 1152",
      ["expansion_ratio": 2, "short_filter_order": 4]
    ),
  ])
  func officialDefaults(
    name: String, type: String, config: String, expected: [String: Double]
  ) throws {
    _ = try write(config, "configs/op.yaml")
    let path = try write(graftText(type: type, name: name), "graft.yaml")
    let graft = try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
    #expect(graft.spec.name == name)
    for (key, value) in expected { #expect(graft.spec.value(key) == value, "\(key)") }
    try graft.plan(named: "p", model: try Self.model()).validate()
  }

  /// Keys that change what is computed are refused, and those that must be there.
  @Test(arguments: [
    ("mamba2", "d_model: 1152\nrmsnorm: False", "rmsnorm"),
    ("mamba2", "d_model: 1152\nd_ssm: 64", "d_ssm"), ("mamba2", "d_state: 64", "d_model"),
    (
      "swa", "embed_dim: 1152\nnum_heads: 16\nnum_heads_kv: 4\nuse_flash_attn: True", "num_heads_kv"
    ),
    ("swa", "embed_dim: 1152\nnum_heads: 16\nuse_flash_attn: False", "use_flash_attn"),
    (
      "swa", "embed_dim: 1152\nnum_heads: 16\nuse_flash_attn: True\nwindow_size: [4]", "window_size"
    ),
    ("mha", "dim: 1152\nqkv_bias: maybe", "qkv_bias"),
    ("mha", "dim: 1152\nqk_norm: True", "qk_norm"),
    ("hyena_x", "d_model: 1152", "l_max"), ("hyena_x", "d_model: .nan\nl_max: 256", "d_model"),
  ])
  func otherOperatorsAreRefused(name: String, config: String, key: String) throws {
    _ = try write(config, "configs/op.yaml")
    let path = try write(graftText(name: name), "graft.yaml")
    let error = #expect(throws: PlanError.self) {
      try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
    }
    #expect(error?.key == key && error?.file?.hasSuffix("op.yaml") == true)
  }

  /// Rates are taken over; everything else that a file says is told.
  @Test func trainingSettings() throws {
    _ = try write(hyenaY, "configs/op.yaml")
    let train = """
      train:
        num_samples: 8000
        batch_size: 8
      train_config:
        initial_learning_rate: 5e-4
        wd: 1e-5
        epochs: 200
      """
    let stage1 = try write(
      "operator: {name: hyena_y, config_filepath: configs/op.yaml}\n\(train)"
        + "\n  min_learning_rate: 1.25e-6\n  clip_norm_val: 5", "stage1.yaml")
    let first = try OfficialGraft(path: stage1, shape: try Self.shape("DiT-XL/2"), blocks: [2, 5])
    let plan = try first.plan(named: "p", model: try Self.model())
    #expect(plan.edits.keys.sorted().map(\.block) == [2, 5])
    #expect(plan.stage1.learningRate == 5e-4 && plan.stage1.weightDecay == 1e-5)
    #expect(plan.stage1.minimumRate == 1.25e-6 && plan.stage1.clipNorm == 5)
    let graft = graftText().components(separatedBy: "sample_config:")
    let stage2 = try write(
      graft[0] + train + graft[1].replacing("global_seed: 100", with: "global_seed: 7"),
      "stage2.yaml")
    let second = try OfficialGraft(path: stage2, shape: try Self.shape("DiT-XL/2"))
    let other = try second.plan(named: "p", model: try Self.model())
    #expect(other.stage2.learningRate == 5e-4 && other.stage2.weightDecay == 1e-5)
    #expect(other.seed == 7)
    for warnings in [first.warnings, second.warnings] {
      let text = warnings.joined()
      #expect(text.contains("train_config.epochs (200)") && text.contains("train (") == false)
      #expect(!text.contains("wd") && !text.contains("initial_learning_rate"))
    }
    #expect(throws: PlanError.self) {
      try OfficialGraft(path: stage2, shape: try Self.shape("DiT-XL/2"), blocks: [1])
    }
    for (key, value) in [("global_seed", "-1"), ("wd", "heavy"), ("initial_learning_rate", ".inf")]
    {
      let path = try write(
        graft[0] + "train_config:" + graft[1].replacing("  global_seed: 100\n", with: "\n")
          + "  \(key): \(value)\n", "bad.yaml")
      let error = #expect(throws: PlanError.self) {
        try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
      }
      #expect(error?.key == "train_config.\(key)", "\(key)")
    }
  }

  /// References to references may stand for any amount of memory; texts that only look like them do not.
  @Test func anchorsAndAliasesAreRefused() throws {
    var doubled = "a0: &a0 [x, x]\n"
    for i in 1..<40 { doubled += "a\(i): &a\(i) [*a\(i - 1), *a\(i - 1)]\n" }
    let cases = [
      doubled + "? *a39\n: 1\n", "a: &b 1\n", "a: [1, *b]\n", "- *b\n", "a: !!set {}\n",
      "{&b c: 1}",
      "? [x]\n: 1\n? [x]\n: 2\n", "a: 1\na: 2\n", String(repeating: "[", count: 3000),
      "operator: " + String(repeating: "x", count: 1 << 17),
    ]
    for text in cases {
      let path = try write(text, "bad.yaml")
      #expect(throws: PlanError.self, "\(text.prefix(40))") {
        try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
      }
    }
    _ = try write(hyenaY + " # a & b, *c\n", "configs/op.yaml")
    let path = try write(
      graftText().replacing("configs/op.yaml", with: "\"configs/op.yaml\"")
        + "  note: 'it is &x, *y' # !z\n  other: a & b\n", "graft.yaml")
    _ = try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
  }

  /// What cannot be expressed in a plan, and words of the refusal.
  @Test func refusesWithLineAndKey() throws {
    let shape = try Self.shape("DiT-XL/2")
    func refusal(_ graft: String, _ config: String) throws -> String {
      _ = try write(config, "configs/op.yaml")
      let path = try write(graft, "graft.yaml")
      let error = #expect(throws: PlanError.self) { try OfficialGraft(path: path, shape: shape) }
      return error?.description ?? ""
    }
    let cases: [(String, String, [String])] = [
      (
        graftText(), hyenaY.replacing("order: 2", with: "order: 3"),
        ["op.yaml:3", "order", "2", "3"]
      ),
      (
        graftText(), hyenaY.replacing("1152", with: "768"), ["op.yaml:1", "d_model", "1152", "768"]
      ),
      (graftText(), hyenaY.replacing("l_max: 1000000", with: "l_max: 64"), ["l_max", "256"]),
      (graftText(), hyenaY + "\nwings: 2", ["wings", "no such setting"]),
      (graftText(name: "perceiver"), hyenaY, ["graft.yaml:3", "operator.name", "perceiver"]),
      (graftText(type: "mlp"), hyenaY, ["operator.name", "mha", "mlp"]),
      (graftText(type: "conv"), hyenaY, ["operator.type", "conv"]),
      (graftText(indexes: "[1, 28]"), hyenaY, ["graft_indexes", "27", "28"]),
      (graftText(indexes: "[1, 1]"), hyenaY, ["graft_indexes", "twice"]),
      (graftText(indexes: ""), hyenaY, ["graft_indexes", "list"]),
      (graftText(model: "DiT-B/2"), hyenaY, ["dit_model_name", "12 blocks"]),
      (graftText(model: "UNet"), hyenaY, ["dit_model_name", "UNet"]),
      (
        "operator: {name: hyena_y, config_filepath: configs/op.yaml}\ntrain_config: {epochs: 3}",
        hyenaY, ["graft_indexes", "--blocks"]
      ),
      ("operator:\n  name: x\n", hyenaY, ["sample_config", "stage-1"]),
      ("a: [1\nb: 2", hyenaY, ["not valid YAML"]), ("- 1", hyenaY, ["no mapping"]),
    ]
    for (graft, config, words) in cases {
      let sentence = try refusal(graft, config)
      for word in words { #expect(sentence.contains(word), "\(word) in: \(sentence)") }
    }
  }

  @Test func missingOperatorFileIsNamed() throws {
    let path = try write(graftText(), "graft.yaml")
    let error = #expect(throws: PlanError.self) {
      try OfficialGraft(path: path, shape: try Self.shape("DiT-XL/2"))
    }
    #expect(error?.description.contains("--operator-config") == true)
  }

  /// Plans that the official format has no words for.
  @Test func exportSaysWhyNot() throws {
    func reason(_ change: (inout GraftPlan) throws -> Void) throws -> String {
      var plan = GraftPlan(named: "p", model: try Self.model())
      plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("hyena_x")
      try change(&plan)
      let error = #expect(throws: PlanError.self) {
        try OfficialExport(plan, operatorConfigPath: "op.yaml")
      }
      return error?.description ?? ""
    }
    #expect(try reason { $0.edits = [:] }.contains("no operator is replaced"))
    #expect(
      try reason { $0.edits[SlotID(block: 2, slot: .attention)] = OperatorSpec("hyena_y") }
        .contains("2 different operators"))
    #expect(
      try reason {
        $0.edits[SlotID(block: 2, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 3])
      }.contains("both slots"))
    #expect(
      try reason {
        $0.edits = [SlotID(block: 1, slot: .attention): OperatorSpec("linear_attention")]
      }.contains("no linear_attention"))
    #expect(try reason { $0.model.shape.depth = 27 }.contains("published models"))
    #expect(try reason { $0.model.shape.mlpRatio = 2 }.contains("published models"))
    #expect(try reason { $0.model.shape.learnSigma = false }.contains("published models"))
  }
}
