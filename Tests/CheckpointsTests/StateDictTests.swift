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
      (["module.w", "v"], nil, ["module.w", "v"]), (["blocks.0._orig_mod.w"], nil, ["blocks.0.w"]),
    ] as [([String], String?, [String])])
  func containersAndWrappers(names: [String], container: String?, expected: [String]) throws {
    let dict = try StateDict(try file(names))
    #expect(dict.container == container)
    #expect(dict.names.sorted() == expected)
    for name in expected { #expect(try dict.floats(name).count == 1) }
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
