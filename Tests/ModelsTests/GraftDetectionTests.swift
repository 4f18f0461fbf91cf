import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Grafts without a plan, as the official repository publishes them, are read off their weights.
@MainActor @Suite("Grafts by their weights")
struct GraftDetectionTests {
  init() { OperatorRegistry.fillCatalog() }

  private typealias Noise = RoundTripTests.Noise

  /// A size that is not published, so that its heads must be stated.
  private let config = ModelShape(
    depth: 4, hiddenSize: 64, numHeads: 2, patchSize: 2, inputSize: 8, numClasses: 3)

  private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    try body(folder)
  }

  private func output(_ model: any DiffusionTransformer) -> [Float] {
    var random = RandomSequence(seed: 5)
    return model.predict(
      random.normal([2, 4, 8, 8]), Conditioning(timesteps: [3, 900], labels: [0, 2])
    ).values
  }

  /// Writes a model as the released grafts are: tensors under `ema`, nothing else.
  private func write(_ model: DiT, to path: String, leavingOut left: String = "") throws {
    try TorchWriter.write(
      model.parameters.filter { $0.name != left }.map {
        TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
      }, entry: "ema", to: path)
  }

  @Test(
    arguments: [
      ("hyena_se", ["short_filter_order": 5], false), ("hyena_x", ["short_filter_order": 3], false),
      ("hyena_y", ["inner_filter_len": 6], false), ("swa", [:], true),
      ("mamba2", ["d_state": 32, "headdim": 16, "d_conv": 3], true),
      ("mha", ["qkv_bias": 0], true), ("mlp", ["expansion_ratio": 2.640625], false),
      ("mlp_hyena_x", ["expansion_ratio": 3, "short_filter_order": 5], false),
      ("linear_attention", ["feature_map": 2, "num_heads": 4, "qk_conv": 3], true),
      ("linear_attention", ["key_norm": 1, "v_conv": 5], true), ("hybrid", ["num_heads": 4], true),
      ("mamba2", ["d_state": 32, "headdim": 16, "bias": 1], true), ("linear", [:], false),
      ("skip", ["constant": 1], false),
    ] as [(String, [String: Double], Bool)])
  func operatorsAreRecognised(
    name: String, settings: [String: Double], hasInvisible: Bool
  ) throws {
    let descriptor = try #require(OperatorCatalog.descriptor(named: name))
    let slot = descriptor.slots.contains(.attention) ? Slot.attention : .mlp
    let edits = Dictionary(
      uniqueKeysWithValues: [1, 3].map {
        (SlotID(block: $0, slot: slot), OperatorSpec(name, settings))
      })
    let model = try DiT(config: config, edits: edits, weights: Noise())
    try withFolder { folder in
      let path = "\(folder)/model.pt"
      try write(model, to: path)
      let file = try DiTFile(path: path, numHeads: 2)
      #expect(file.config == config && file.plan == nil && file.isGraft)
      #expect(file.changes.edits.keys.sorted() == edits.keys.sorted())
      for (id, spec) in file.changes.edits {
        #expect(spec.name == name)
        for (key, value) in settings { #expect(spec.value(key) == value, "\(id) \(key)") }
        #expect(file.has(OperatorSpec(name, settings), at: id))
      }
      #expect(file.notes.contains { $0.contains(name) } == hasInvisible)
      #expect(output(try file.load()) == output(model))
      let error = #expect(throws: FileError.self) { try ModelFiles(file).reference() }
      #expect(error?.message.contains("a graft of") == true)
    }
  }

  /// What weights do not show is taken from a plan.
  @Test func settingsOfAPlanReplaceWhatWasAssumed() throws {
    let id = SlotID(block: 0, slot: .attention)
    let spec = OperatorSpec("swa", ["window_left": 1, "window_right": 0, "num_heads": 4])
    let model = try DiT(config: config, edits: [id: spec], weights: Noise())
    try withFolder { folder in
      try write(model, to: "\(folder)/model.pt")
      let file = try DiTFile(path: "\(folder)/model.pt", numHeads: 2)
      #expect(output(try file.load()) != output(model))
      #expect(output(try file.load(changes: .init(edits: [id: spec]))) == output(model))
      var plan = GraftPlan(
        named: "p", model: ModelReference(path: "t.pt", shape: config, contentHash: "0"))
      plan.edits = [id: spec]
      try file.requireAgreement(with: plan, "p.json")
      plan.edits = [id: OperatorSpec("hyena_x")]
      let error = #expect(throws: PlanError.self) {
        try file.requireAgreement(with: plan, "p.json")
      }
      #expect(error?.description.contains("where it has swa") == true)
    }
  }

  /// All MLPs of a model of a published size may be narrower ones.
  @Test func everyBlockMayBeReplaced() throws {
    var shape = try #require(ModelShape(named: "DiT-S/8"))
    shape.depth = 12
    let edits = Dictionary(
      uniqueKeysWithValues: (0..<12).map {
        (SlotID(block: $0, slot: .mlp), OperatorSpec("mlp", ["expansion_ratio": 0.25]))
      })
    let model = try DiT(config: shape, edits: edits, weights: Noise())
    try withFolder { folder in
      try write(model, to: "\(folder)/model.pt")
      let file = try DiTFile(path: "\(folder)/model.pt")
      #expect(file.config == shape && file.changes.edits == edits)
    }
  }

  /// The table is a constant: without it the size is stated, implied, or that of 256 pixels.
  @Test func positionTablesAreComputedWhereTheyWereNotSaved() throws {
    let model = try DiT(config: config, weights: Noise())
    try withFolder { folder in
      let path = "\(folder)/model.pt"
      try write(model, to: path, leavingOut: "pos_embed")
      let error = #expect(throws: FileError.self) { try DiTFile(path: path, numHeads: 2) }
      #expect(error?.message.contains("input_size") == true)
      try Data(#"{"config": {"num_heads": 2, "input_size": 8}}"#.utf8)
        .write(to: URL(filePath: path + ".json"))
      let file = try DiTFile(path: path)
      #expect(try file.config == config && output(file.load()) == output(model))

      let perToken = [SlotID(block: 2, slot: .mlp): OperatorSpec("mlp_hyena_x")]
      let other = try DiT(config: config, edits: perToken, weights: Noise())
      try write(other, to: "\(folder)/other.pt", leavingOut: "pos_embed")
      let second = try DiTFile(path: "\(folder)/other.pt", numHeads: 2)
      #expect(try second.config.inputSize == 8 && output(second.load()) == output(other))
    }
  }

  /// A label table may have no row for "no class".
  @Test(arguments: [(10, nil, 10, false), (11, nil, 10, true), (10, 9, 9, true), (7, 7, 7, false)])
  func rowsOfTheLabelTable(rows: Int, stated: Int?, classes: Int, hasNull: Bool) throws {
    var config = config
    (config.numClasses, config.hasNullClass) = (rows, false)
    let model = try DiT(config: config, weights: Noise())
    try withFolder { folder in
      let path = "\(folder)/model.pt"
      try write(model, to: path)
      let classCount = stated.map { ", \"num_classes\": \($0)" } ?? ""
      try Data("{\"config\": {\"num_heads\": 2\(classCount)}}".utf8)
        .write(to: URL(filePath: path + ".json"))
      let file = try DiTFile(path: path)
      #expect(file.config.numClasses == classes && file.config.hasNullClass == hasNull)
      #expect(file.notes.contains { $0.contains("no guidance") } == (!hasNull && stated == nil))
      #expect(try file.load().parameters.count == model.parameters.count)
    }
  }

  /// What cannot be a DiT's operator, and models that only look like a DiT.
  @Test func othersAreNamed() throws {
    let model = try DiT(config: config, weights: Noise())
    func refusal(
      _ name: String = "model.safetensors", metadata: [String: String] = [:],
      _ change: (String) -> String
    ) throws -> String {
      var text = ""
      try withFolder { folder in
        let path = "\(folder)/\(name)"
        try SafetensorsWriter.write(
          model.parameters.map {
            TensorItem(name: change($0.name), shape: $0.value.shape, floats: $0.value.values)
          }, metadata: metadata, to: path)
        let error = #expect(throws: FileError.self) { try DiTFile(path: path, numHeads: 2).load() }
        text = error?.message ?? ""
      }
      return text
    }
    #expect(try refusal { $0.replacing("mlp.fc1", with: "mlp.w12") }.contains("SwiGLU"))
    #expect(
      try refusal { "base_model.model." + $0.replacing("proj.bias", with: "proj.lora_A.x") }
        .contains("LoRA adapter"))
    #expect(
      try refusal(metadata: ["config": #"{"depth": "four"}"#]) { $0 }.contains("'depth'"))
  }

  /// Another program's entry under our key says nothing.
  @Test func foreignMetadataIsPassedOver() throws {
    let model = try DiT(config: config, weights: Noise())
    try withFolder { folder in
      for text in ["model: DiT-XL/2\n", "[1]", "{\"model\": {\"target\": \"dit\"}}", ""] {
        let path = "\(folder)/model.safetensors"
        try SafetensorsWriter.write(
          model.parameters.map {
            TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
          }, metadata: ["config": text], to: path)
        #expect(try DiTFile(path: path, numHeads: 2).config == config, "\(text)")
      }
    }
  }

  /// A graft has all weights itself: without its teacher it opens, and says so.
  @Test func graftsOpenWithoutTheirTeacher() throws {
    let id = SlotID(block: 0, slot: .attention)
    let model = try DiT(config: config, edits: [id: OperatorSpec("hyena_x")], weights: Noise())
    var plan = GraftPlan(
      named: "p",
      model: ModelReference(path: "/gone/teacher.pt", shape: config, contentHash: "0"))
    plan.edits = [id: OperatorSpec("hyena_x")]
    try withFolder { folder in
      let path = "\(folder)/model.safetensors"
      let metadata = try DiTFile.metadata(config: config, classNames: [], name: "x")
        .merging(DiTFile.metadata(of: plan)) { $1 }
      _ = try ModelWriter.write(model, metadata: metadata, classNames: [], as: .init(), to: path)
      let files = try ModelFiles(path)
      #expect(files.missingTeacher == "/gone/teacher.pt")
      #expect(files.notes.contains { $0.contains("/gone/teacher.pt") })
      #expect(output(try files.model.network()) == output(model))
      let error = #expect(throws: FileError.self) { try files.autoencoder(.float32) }
      #expect(error?.message.contains("/gone/teacher.pt") == true)
    }
  }
}
