import Checkpoints
import Files
import Foundation
import TestSupport
import Testing

@Suite struct StateDictTests {
  private func file(_ names: [String]) throws -> any TensorFile {
    let path = Scratch.kept.file(UUID().uuidString + ".safetensors")
    try SafetensorsWriter.write(
      names.enumerated().map { TensorItem(name: $1, shape: [1], floats: [Float($0)]) },
      metadata: [:], to: path)
    return try Checkpoint.open(path)
  }

  @Test(
    arguments: [
      (["a.w", "b"], nil, ["a.w", "b"]), (["model.w", "opt.0.x"], "model", ["w"]),
      (["model.w", "ema.w", "ema.v", "opt.0.x"], "ema", ["v", "w"]), (["ema.w"], "ema", ["w"]),
      (["state_dict.w", "step"], "state_dict", ["w"]), (["model.module.w"], "model", ["w"]),
      (["module._orig_mod.w", "module._orig_mod.v"], nil, ["v", "w"]),
      (
        ["_fsdp_wrapped_module.b.0._checkpoint_wrapped_module.w", "_fsdp_wrapped_module.v"], nil,
        ["b.0.w", "v"]
      ),
      (["module.w", "v"], nil, ["module.w", "v"]), (["blocks.0._orig_mod.w"], nil, ["blocks.0.w"]),
    ] as [([String], String?, [String])])
  func containersAndWrappers(names: [String], container: String?, expected: [String]) throws {
    let dict = try StateDict(try file(names))
    #expect(dict.container == container)
    #expect(dict.names.sorted() == expected)
    for name in expected { #expect(try dict.floats(name).count == 1) }
  }

  /// Time that grows with the square of the number of names would be minutes here.
  @Test(.timeLimit(.minutes(1)), arguments: ["a.b.c.", "model.b."])
  func manyNames(prefix: String) throws {
    let entries = (0..<40_000).map {
      #""\#(prefix)\#($0).w":{"dtype":"F32","shape":[1],"data_offsets":[\#(4 * $0),\#(4 * $0 + 4)]}"#
    }
    let header = "{\(entries.joined(separator: ","))}"
    var bytes = withUnsafeBytes(of: UInt64(header.utf8.count).littleEndian, Array.init)
    bytes += header.utf8
    bytes += [UInt8](repeating: 0, count: 4 * entries.count)
    let path = try Scratch.kept.put(bytes, "\(UUID().uuidString).safetensors")
    #expect(try StateDict(try Checkpoint.open(path)).names.count == entries.count)
  }

  @Test func theContainerCanBeChosen() throws {
    let file = try file(["model.w", "ema.w", "opt.state.w"])
    #expect(try StateDict(file, container: "model").floats("w") == file.floats("model.w"))
    #expect(try StateDict(file, container: "opt.state").floats("w") == file.floats("opt.state.w"))
    let error = #expect(throws: FileError.self) { try StateDict(file, container: "nothing") }
    #expect(error?.message.contains("model") ?? false)
    #expect(throws: FileError.self) {
      try StateDict(try self.file(["w", "_orig_mod.w"]))
    }
  }

  /// Averages that latent-diffusion keeps under names without dots stand for the weights, and that is said; the
  /// weights as trained have a name.
  @Test func averagesWithoutDots() throws {
    for root in ["", "state_dict."] {
      let names =
        ["model.net.a.w", "model.net.b.w", "model.net.table", "first.w"]
        + ["num_updates", "decay", "netaw", "netbw"].map { "model_ema.\($0)" }
      let file = try file(names.map { root + $0 })
      let dict = try StateDict(file, anchors: ["a.w"])
      #expect(dict.names == ["a.w", "b.w", "table"])
      #expect(try dict.floats("a.w") == [6] && dict.floats("b.w") == [7])
      #expect(try dict.floats("table") == [2])
      let note = try #require(dict.note)
      #expect(note.contains("averages in 'model_ema' are taken for 2 of 3 tensors"))
      #expect(note.contains("#\(root)model.net names the weights as trained"))
      let trained = try StateDict(file, container: "\(root)model.net", anchors: ["a.w"])
      #expect(try trained.floats("a.w") == [0] && !trained.isUsual && trained.note == nil)
      #expect(dict.isUsual)
    }
  }

  /// Wherever a model's tensors lie, they are found; an average is taken first, and that is said.
  @Test(
    arguments: [
      (["a.w", "b"], nil, nil, ["a.w", "b"]), (["net.a.w", "step"], "net", nil, ["a.w"]),
      (["online_model.a.w", "ema_model.a.w", "initted"], "ema_model", "#online_model", ["a.w"]),
      (["state_dict.a.w", "state_dict_ema.module.a.w"], "state_dict_ema", "#state_dict", ["a.w"]),
      (["state_dict.net.a.w", "state_dict.metric.total"], "state_dict.net", nil, ["a.w"]),
      (["model.diffusion_model.a.w", "first.w"], "model.diffusion_model", nil, ["a.w"]),
      (["model.a.w", "ema.a.w", "opt.x"], "ema", "#model", ["a.w"]),
      (["a.w", "ema.a.w"], "ema", "'ema' is taken", ["a.w"]), (["module.a.w"], nil, nil, ["a.w"]),
      (
        ["model.a.w", "ema.online_model.a.w", "ema.ema_model.a.w"], "ema.ema_model",
        "#ema.online_model", ["a.w"]
      ), (["model.a.w", "ema.b.w"], "model", "'ema' holds averages", ["a.w"]),
      (["model.a.w", "ema.shadow_params.0"], "model", "'ema' holds averages", ["a.w"]),
      (["model.a.w", "average.shadow_params.0"], "model", "shadow_params' holds", ["a.w"]),
    ] as [([String], String?, String?, [String])])
  func modelsAreFoundByAnchors(
    names: [String], container: String?, note: String?, expected: [String]
  ) throws {
    let file = try file(names)
    let dict = try StateDict(file, anchors: ["x.w", "a.w"])
    #expect(dict.container == container && dict.names.sorted() == expected && dict.isUsual)
    #expect((dict.note != nil) == (note != nil))
    if let note { #expect(dict.note?.contains(note) == true) }
    #expect(try dict.floats("a.w").count == 1)
  }

  /// Files of a training whose weights have lost their names or shapes say how to get them.
  @Test(arguments: [
    ("shadow_params.0", "copy_to"), ("blocks.0._fsdp_wrapped_module._flat_param", "FULL_STATE"),
    ("optimizer_state_dict.single_partition_of_fp32_groups.0", "zero_to_fp32.py"),
  ])
  func weightsWithoutNamesAreRefused(name: String, advice: String) throws {
    let file = try file([name, "step"])
    let error = #expect(throws: FileError.self) { try StateDict(file, anchors: ["a.w"]) }
    #expect(error?.message.contains("'\(name)'") == true)
    #expect(error?.message.contains(advice) == true)
  }

  @Test func partitionedWeightsAreRefused() throws {
    let path = Scratch.kept.file(UUID().uuidString + ".pt")
    try TorchWriter.write(
      [TensorItem(name: "a.w", shape: [0], floats: [])], entry: "module", to: path)
    let file = try Checkpoint.open(path)
    let error = #expect(throws: FileError.self) { try StateDict(file, anchors: ["a.w"]) }
    #expect(error?.message.contains("zero_to_fp32.py") == true)
  }

  @Test func severalModelsThatNothingTellsApartAreNamed() throws {
    let file = try file(["teacher.a.w", "student.a.w", "other.b"])
    let error = #expect(throws: FileError.self) { try StateDict(file, anchors: ["a.w"]) }
    #expect(error?.message.contains("#teacher") == true)
    #expect(error?.message.contains("#student") == true)
    let chosen = try StateDict(file, container: "student", anchors: ["a.w"])
    #expect(try chosen.floats("a.w") == file.floats("student.a.w") && !chosen.isUsual)
    #expect(try StateDict(file, container: "other", anchors: ["a.w"]).names == ["b"])
  }

  /// Shards may be PyTorch files, and the index may carry a variant.
  @Test func shardsOfAnyFormat() throws {
    let scratch = try Scratch()
    try TorchWriter.write(
      [TensorItem(name: "a", shape: [2], floats: [1, 2])], to: scratch.file("m-1.bin"))
    try TorchWriter.write(
      [TensorItem(name: "b", shape: [1], floats: [3])], to: scratch.file("m-2.bin"))
    let map = #"{"weight_map": {"a": "m-1.bin", "b": "m-2.bin"}}"#
    for name in ["m.bin.index.json", "m.bin.index.fp16.json"] {
      let dict = try StateDict(try Checkpoint.open(scratch.put(Array(map.utf8), name)))
      #expect(try dict.floats("a") == [1, 2] && dict.floats("b") == [3])
      #expect(dict.files.count == 3)
    }
  }

  @Test func shardedModels() throws {
    let scratch = try Scratch()
    func shard(_ name: String, _ items: [TensorItem]) throws {
      try SafetensorsWriter.write(items, metadata: ["format": "pt"], to: scratch.file(name))
    }
    try shard("m-1.safetensors", [TensorItem(name: "a", shape: [2], floats: [1, 2])])
    try shard("m-2.safetensors", [TensorItem(name: "b", shape: [1], floats: [3])])
    func index(_ map: String) throws -> String {
      try scratch.put(
        Array("{\"metadata\": {\"total_size\": 12}, \"weight_map\": \(map)}".utf8),
        "m.safetensors.index.json")
    }
    let path = try index("{\"a\": \"m-1.safetensors\", \"b\": \"m-2.safetensors\"}")
    let file = try Checkpoint.open(path)
    #expect(file.names == ["a", "b"] && file.files.count == 3)
    #expect(try file.floats("a") == [1, 2] && file.floats("b") == [3])
    for map in [
      "{\"a\": \"m-2.safetensors\"}", "{\"a\": \"../m-1.safetensors\"}", "{}", "3",
      "{\"a\": \"missing.safetensors\"}",
    ] {
      let path = try index(map)
      #expect(throws: FileError.self, "\(map)") { try Checkpoint.open(path) }
    }
  }
}
