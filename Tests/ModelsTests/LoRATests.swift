import Autograd
import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import TensorCore
import TestSupport
import Testing

/// Low-rank adapters of other programs: their scales, patterns and what is refused.
@MainActor @Suite("LoRA files")
struct LoRATests {
  init() { OperatorRegistry.fillCatalog() }

  private func model() throws -> PixArt {
    try PixArt(
      config: PixArtConfig(
        depth: 2, hiddenSize: 16, numHeads: 2, patchSize: 1, sampleSize: 4, inChannels: 2,
        captionChannels: 6, interpolationScale: 1),
      weights: FreshWeights(seed: 3))
  }

  /// A folder of peft with adapters of rank 2 at one layer of each block and of rank `wide` at the MLP.
  private func folder(
    _ config: [String: Any], wide: Int = 2, extra: [TensorItem] = [],
    body: (String) throws -> Void
  ) throws {
    let scratch = try Scratch()
    try withExtendedLifetime(scratch) {
      var items: [TensorItem] = []
      for (module, rank, inputs, outputs) in [
        ("transformer_blocks.0.attn1.to_q", 2, 16, 16),
        ("transformer_blocks.1.attn1.to_q", 2, 16, 16),
        ("transformer_blocks.0.ff.net.0.proj", wide, 16, 64),
      ] {
        for (kind, shape) in [("A", [rank, inputs]), ("B", [outputs, rank])] {
          items.append(
            TensorItem(
              name: "base_model.model.\(module).lora_\(kind).weight", shape: shape,
              floats: RandomStream(seed: 5, module + kind).normal(shape).values))
        }
      }
      try SafetensorsWriter.write(
        items + extra, metadata: [:], to: scratch.file("adapter_model.safetensors"))
      try JSONSerialization.data(
        withJSONObject: config.merging(["peft_type": "LORA"]) { own, _ in own }
      ).write(to: URL(filePath: scratch.file("adapter_config.json")))
      try body(scratch.path)
    }
  }

  private func scales(_ path: String) throws -> [String: Float] {
    try LoRAFile(path: path).adapters.mapValues(\.scale)
  }

  @Test func scalesFollowTheConfiguration() throws {
    try folder(["r": 2, "lora_alpha": 8]) { path in
      let found = try scales(path).values
      #expect(Set(found) == [4])
    }
    // A configuration without alpha means the default of peft, 8; without any configuration alpha is the rank.
    try folder(["r": 2]) { path in
      let peft = try scales(path).values
      #expect(Set(peft) == [4])
      try FileManager.default.removeItem(atPath: "\(path)/adapter_config.json")
      let plain = try scales(path).values
      #expect(Set(plain) == [1])
    }
    // A tensor of one module states its own.
    let own = TensorItem(
      name: "base_model.model.transformer_blocks.0.attn1.to_q.alpha", shape: [], floats: [6])
    try folder(["r": 2], extra: [own]) { path in
      let found = try scales(path)
      #expect(found["transformer_blocks.0.attn1.to_q"] == 3)
    }
    // rslora divides by the root of the rank.
    try folder(["r": 2, "lora_alpha": 8, "use_rslora": true]) { path in
      let found = try scales(path).values
      #expect(found.allSatisfy { abs($0 - 8 / Float(2).squareRoot()) < 1e-6 })
    }
  }

  /// Patterns name a module, its end, or are regular expressions of it, as in peft.
  @Test(arguments: [
    "transformer_blocks.0.ff.net.0.proj", "net.0.proj", "ff.*", #"ff\.net\.\d+\.proj"#,
  ])
  func patternsOfRanksAndAlphas(pattern: String) throws {
    try folder(
      [
        "r": 2, "lora_alpha": 4, "rank_pattern": [pattern: 3], "alpha_pattern": [pattern: 9],
      ], wide: 3
    ) { path in
      let found = try scales(path)
      #expect(found["transformer_blocks.0.ff.net.0.proj"] == 3)
      #expect(found["transformer_blocks.0.attn1.to_q"] == 2)
      #expect(found["transformer_blocks.1.attn1.to_q"] == 2)
    }
    // A pattern of one block does not reach another.
    try folder(
      ["r": 2, "lora_alpha": 4, "alpha_pattern": [#"transformer_blocks\.1\.attn1\.to_q"#: 10]]
    ) { path in
      let found = try scales(path)
      #expect(found["transformer_blocks.1.attn1.to_q"] == 5)
      #expect(found["transformer_blocks.0.attn1.to_q"] == 2)
    }
  }

  @Test func ranksThatTheConfigurationDoesNotStateAreNamed() throws {
    try folder(["r": 2, "lora_alpha": 4], wide: 3) { path in
      let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
      #expect(error?.description.contains("has rank 3, but its configuration states 2") == true)
    }
  }

  @Test(arguments: ["r", "lora_alpha"]) func numbersAreNumbers(key: String) throws {
    try folder([key: "8"]) { path in
      let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
      #expect(error?.description.contains("key '\(key)' is 8, expected a number") == true)
    }
    // Without `lora_alpha` an adapter of rank 2 has peft's 8.
    try folder([key: NSNull()]) { path in
      let found = try scales(path).values
      #expect(Set(found) == [4])
    }
  }

  @Test func expressionsThatMayNeverEndAreRefused() throws {
    for expression in ["(.*.*)*z", "(a+)+", ".*.*.*.*.*z"] {
      try folder(["r": 2, "alpha_pattern": [expression: 1]]) { path in
        let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
        #expect(error?.description.contains("repeats groups or too much") == true)
      }
    }
  }

  @Test func otherKindsAreRefused() throws {
    for (key, value) in [("use_dora", true), ("fan_in_fan_out", true)] {
      try folder(["r": 2, key: value]) { path in
        let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
        #expect(error?.description.contains("'\(key)' is true") == true)
      }
    }
    try folder(["r": 2, "peft_type": "LOHA"]) { path in
      let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
      #expect(error?.description.contains("'LOHA'") == true)
    }
    // PiSSA and its kind changed the weights that the adapter is added to.
    for start in ["pissa", "pissa_niter_16", "olora", "loftq"] {
      try folder(["r": 2, "lora_alpha": 2, "init_lora_weights": start]) { path in
        let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
        #expect(error?.description.contains("'\(start)'") == true)
      }
    }
    try folder(["r": 2, "lora_alpha": 2, "init_lora_weights": "gaussian"]) { path in
      _ = try LoRAFile(path: path)
    }
    try folder(["r": 2, "lora_alpha": "six"]) { path in
      let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
      #expect(error?.description.contains("'lora_alpha' is six") == true)
    }
    for alpha in [[], [1, 2], [Float.nan]] {
      let item = TensorItem(
        name: "base_model.model.transformer_blocks.0.attn1.to_q.alpha", shape: [alpha.count],
        floats: alpha)
      try folder(["r": 2], extra: [item]) { path in
        let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
        #expect(error?.description.contains("expected") == true)
      }
    }
    let magnitude = TensorItem(
      name: "base_model.model.transformer_blocks.0.attn1.to_q.lora_magnitude_vector.weight",
      shape: [16], floats: .init(repeating: 1, count: 16))
    try folder(["r": 2], extra: [magnitude]) { path in
      let error = #expect(throws: FileError.self) { try LoRAFile(path: path) }
      #expect(error?.description.contains("DoRA") == true)
    }
  }

  /// W + scale B A, for the rows of the queries alone.
  @Test func adaptersAreAdded() throws {
    try folder(["r": 2, "lora_alpha": 4]) { path in
      let (plain, merged) = (try model(), try model())
      try LoRAFile(path: path).merge(into: merged, strength: 0.5)
      func weight(_ model: PixArt, _ name: String) -> [Float] {
        model.parameters.first { $0.name == name }?.value.values ?? []
      }
      let name = "blocks.1.attn.qkv.weight"
      let module = "transformer_blocks.1.attn1.to_q"
      let a = RandomStream(seed: 5, module + "A").normal([2, 16]).values
      let b = RandomStream(seed: 5, module + "B").normal([16, 2]).values
      let (before, after) = (weight(plain, name), weight(merged, name))
      for row in 0..<48 {
        for column in 0..<16 {
          let change =
            row < 16 ? b[2 * row] * a[column] + b[2 * row + 1] * a[16 + column] : 0
          #expect(abs(after[row * 16 + column] - before[row * 16 + column] - change) < 1e-5)
        }
      }
      #expect(weight(merged, "blocks.1.mlp.fc1.weight") == weight(plain, "blocks.1.mlp.fc1.weight"))
      #expect(weight(merged, "blocks.0.mlp.fc1.weight") != weight(plain, "blocks.0.mlp.fc1.weight"))
    }
  }

  @Test func adaptersOfAnotherModelAreNamed() throws {
    let other = TensorItem(
      name: "base_model.model.transformer_blocks.7.attn1.to_q.lora_A.weight", shape: [2, 16],
      floats: .init(repeating: 1, count: 32))
    let more = TensorItem(
      name: "base_model.model.transformer_blocks.7.attn1.to_q.lora_B.weight", shape: [16, 2],
      floats: .init(repeating: 1, count: 32))
    try folder(["r": 2], extra: [other, more]) { path in
      let model = try model()
      let error = #expect(throws: FileError.self) {
        try LoRAFile(path: path).merge(into: model)
      }
      #expect(error?.description.contains("transformer_blocks.7.attn1.to_q") == true)
    }
  }
}
