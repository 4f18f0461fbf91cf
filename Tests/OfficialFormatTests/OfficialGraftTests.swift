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
