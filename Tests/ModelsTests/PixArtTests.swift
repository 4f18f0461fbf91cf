import Autograd
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

@MainActor @Suite("PixArt")
struct PixArtTests {
  init() { OperatorRegistry.fillCatalog() }

  private var config: PixArtConfig {
    PixArtConfig(
      depth: 2, hiddenSize: 24, numHeads: 3, sampleSize: 8, inChannels: 2,
      captionChannels: 10, interpolationScale: 1)
  }

  private var compressed: PixArtConfig {
    var config = config
    config.keyCompression = .init(factor: 2, layers: [1])
    return config
  }

  /// All parameters N(0, 0.2^2), so that no gate is closed.
  private struct Noise: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 9, name)
      return Initializer.normal(0.2).tensor(shape, random)
    }
  }

  private func conditioning(_ rows: Int, length: Int = 5) -> Conditioning {
    var random = RandomSequence(seed: 4)
    let mask = Tensor.full([rows, length], 1)
    for row in 0..<rows { mask[row * length + length - 1] = 0 }
    return Conditioning(
      timesteps: (0..<rows).map { Float($0 * 333) },
      caption: Value(constant: random.normal([rows, length, 10])), mask: mask)
  }

  private func noise(_ shape: [Int]) -> Tensor {
    var random = RandomSequence(seed: 2)
    return random.normal(shape)
  }

  /// The epsilon of the configuration is that of the blocks; the last norm has one of its own.
  @Test func theLastNormKeepsItsEpsilon() throws {
    // Without modulations the blocks' gates are closed.
    struct Closed: WeightSource {
      func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
        let isClosed = name.hasPrefix("t_block") || name.hasPrefix("blocks.0.scale")
        return isClosed ? .zeros(shape) : Noise().tensor(name, shape, initializer)
      }
    }
    var other = config
    (other.shape.depth, other.normEpsilon) = (1, 0.1)
    var first = other
    first.normEpsilon = 1e-6
    let x = noise([1, 2, 8, 8])
    let outputs = try [first, other].map {
      try PixArt(config: $0, weights: Closed()).predict(x, conditioning(1)).values
    }
    #expect(outputs[0] == outputs[1])
    let open = try [first, other].map {
      try PixArt(config: $0, weights: Noise()).predict(x, conditioning(1)).values
    }
    #expect(open[0] != open[1])
  }

  @Test func parametersHaveTheOriginalNamesAndShapes() throws {
    let model = try PixArt(config: compressed, weights: FreshWeights(seed: 1))
    var expected: [String: [Int]] = [
      "x_embedder.proj.weight": [24, 2, 2, 2], "x_embedder.proj.bias": [24],
      "t_embedder.mlp.0.weight": [24, 256], "t_embedder.mlp.0.bias": [24],
      "t_embedder.mlp.2.weight": [24, 24], "t_embedder.mlp.2.bias": [24],
      "t_block.1.weight": [144, 24], "t_block.1.bias": [144],
      "y_embedder.y_proj.fc1.weight": [24, 10], "y_embedder.y_proj.fc1.bias": [24],
      "y_embedder.y_proj.fc2.weight": [24, 24], "y_embedder.y_proj.fc2.bias": [24],
      "final_layer.linear.weight": [16, 24], "final_layer.linear.bias": [16],
      "final_layer.scale_shift_table": [2, 24],
      "blocks.1.attn.sr.weight": [24, 1, 2, 2], "blocks.1.attn.sr.bias": [24],
      "blocks.1.attn.norm.weight": [24], "blocks.1.attn.norm.bias": [24],
    ]
    for block in 0..<2 {
      for (name, shape) in [
        ("scale_shift_table", [6, 24]), ("attn.qkv.weight", [72, 24]), ("attn.qkv.bias", [72]),
        ("attn.proj.weight", [24, 24]), ("attn.proj.bias", [24]),
        ("cross_attn.q_linear.weight", [24, 24]), ("cross_attn.q_linear.bias", [24]),
        ("cross_attn.kv_linear.weight", [48, 24]), ("cross_attn.kv_linear.bias", [48]),
        ("cross_attn.proj.weight", [24, 24]), ("cross_attn.proj.bias", [24]),
        ("mlp.fc1.weight", [96, 24]), ("mlp.fc1.bias", [96]), ("mlp.fc2.weight", [24, 96]),
        ("mlp.fc2.bias", [24]),
      ] {
        expected["blocks.\(block).\(name)"] = shape
      }
    }
    let found = model.parameters.map { ($0.name, $0.value.shape) }
    #expect(found.count == expected.count)
    #expect(Dictionary(found, uniquingKeysWith: { first, _ in first }) == expected)
  }

  @Test func everyKeyHasAnotherNameInDiffusers() throws {
    let model = try PixArt(config: config, weights: FreshWeights(seed: 1))
    let keys = model.parameters.flatMap { PixArtKeyMap.keys($0.name, in: .diffusers) }
    #expect(Set(keys).count == keys.count)
    #expect(keys.count == model.parameters.count + 2 * (2 * 2 + 2 * 1))
    #expect(
      PixArtKeyMap.keys("blocks.17.attn.qkv.bias", in: .diffusers) == [
        "transformer_blocks.17.attn1.to_q.bias", "transformer_blocks.17.attn1.to_k.bias",
        "transformer_blocks.17.attn1.to_v.bias",
      ])
    #expect(
      PixArtKeyMap.keys("blocks.3.cross_attn.proj.weight", in: .diffusers)
        == ["transformer_blocks.3.attn2.to_out.0.weight"])
    for name in ["blocks.3.attn.in_proj.weight", "blocks.3.scale_shift_table"] {
      #expect(PixArtKeyMap.keys(name, in: .original) == [name])
    }
    #expect(
      PixArtKeyMap.keys("blocks.3.attn.in_proj.weight", in: .diffusers)
        == ["transformer_blocks.3.attn1.in_proj.weight"])
  }

  @Test(arguments: [false, true])
  func gradientsAreSlopes(isCompressed: Bool) throws {
    let model = try PixArt(config: isCompressed ? compressed : config, weights: Noise())
    // A rectangle with an odd number of token rows: the compression leaves the last row out.
    let x = noise([2, 2, 6, 12])
    let inputs = conditioning(2)
    let tape = Tape()
    let output = model(Value(constant: x), inputs, on: tape)
    #expect(output.shape == [2, 4, 6, 12])
    var random = RandomSequence(seed: 5)
    let cotangent = random.normal(output.shape)
    tape.backward(output, cotangent)
    try expectSlopes(along: model.parameters, cotangent) { model.predict(x, inputs) }
  }

  @Test func rowsAreIndependentAndPaddingIsNotSeen() throws {
    let model = try PixArt(config: compressed, weights: Noise())
    let x = noise([3, 2, 8, 4])
    let inputs = conditioning(3)
    let together = model.predict(x, inputs)
    guard case .captions(let captions, let masked) = inputs.condition else { return }
    let caption = captions.tensor.copied()
    for row in 0..<3 { for i in 40..<50 { caption[row * 50 + i] = 7 } }
    let bias = try #require(masked)
    for row in 0..<3 {
      let mask = Tensor.full([1, 5], 1)
      for i in 0..<5 where bias[row * 5 + i] != 0 { mask[i] = 0 }
      let alone = model.predict(
        x.rows(row..<(row + 1)),
        Conditioning(
          timesteps: [inputs.timesteps[row]],
          caption: Value(constant: caption.rows(row..<(row + 1))), mask: mask))
      let expected = together.rows(row..<(row + 1)).values
      let worst = zip(alone.values, expected).map { abs($0 - $1) }.max() ?? 1
      #expect(worst < 1e-4)
    }
  }

  @Test func positionsSpanTheModelsGrid() throws {
    // The coordinate of token i of n is i base / n / scale, whatever the shape of the grid.
    let config = PixArtConfig(
      depth: 1, hiddenSize: 8, numHeads: 1, sampleSize: 256, interpolationScale: 4)
    let table = config.positionTable(TokenGrid(rows: 64, columns: 256))
    for (row, column) in [(0, 1), (1, 0), (63, 255), (31, 7)] {
      let x = Double(column) * 128 / 256 / 4
      let y = Double(row) * 128 / 64 / 4
      let token = Array(table[((row * 256 + column) * 8)..<((row * 256 + column + 1) * 8)])
      let expected = [x, y].flatMap { [sin($0), sin($0 / 100), cos($0), cos($0 / 100)] }
      for (a, b) in zip(token, expected) { #expect(abs(Double(a) - b) < 1e-6) }
    }
  }

  @Test func editedSlotsGetTheirOperators() throws {
    let slot = SlotID(block: 0, slot: .attention)
    let plain = try PixArt(config: config, weights: Noise())
    let hyena = try PixArt(
      config: config, edits: [slot: OperatorSpec("hyena_x")], weights: Noise())
    #expect(hyena.parameters.map(\.name).contains("blocks.0.attn.short_filter.weight"))
    let x = noise([1, 2, 8, 8])
    let before = plain.predict(x, conditioning(1)).values
    #expect(hyena.predict(x, conditioning(1)).values != before)
    let same = try PixArt(config: config, edits: [slot: OperatorSpec("mha")], weights: Noise())
    #expect(same.predict(x, conditioning(1)).values == before)
  }

  // MARK: - Files

  private func withFolder(_ body: (String) throws -> Void) throws {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString)
    try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(at: folder) }
    try body(folder.path)
  }

  /// Writes a model's parameters in a naming, with further tensors.
  private func write(
    _ model: PixArt, _ naming: PixArtKeyMap.Naming, to path: String, extra: [String: [Int]] = [:]
  ) throws {
    var items = model.parameters.flatMap { parameter -> [SafetensorsWriter.Item] in
      let keys = PixArtKeyMap.keys(parameter.name, in: naming)
      let rows = parameter.value.shape[0] / keys.count
      return keys.enumerated().map { index, key in
        let part = parameter.value.rows((index * rows)..<((index + 1) * rows))
        return SafetensorsWriter.Item(name: key, shape: part.shape, floats: part.values)
      }
    }
    items += extra.map { name, shape in
      .init(
        name: name, shape: shape, floats: [Float](repeating: 0.5, count: shape.reduce(1, *)))
    }
    try SafetensorsWriter.write(items, metadata: [:], to: path)
  }

  private let configJSON = """
    {"_class_name": "PixArtTransformer2DModel", "num_attention_heads": 3, "attention_head_dim": 8,
     "num_layers": 2, "patch_size": 2, "sample_size": 8, "in_channels": 2, "out_channels": 4,
     "caption_channels": 10, "cross_attention_dim": 24, "norm_type": "ada_norm_single",
     "activation_fn": "gelu-approximate", "attention_bias": true, "interpolation_scale": null,
     "norm_elementwise_affine": false, "norm_eps": 1e-06, "use_additional_conditions": false}
    """

  @Test func aDiffusersDirectoryLoads() throws {
    let model = try PixArt(config: config, weights: Noise())
    let x = noise([1, 2, 8, 8])
    try withFolder { folder in
      let transformer = folder + "/transformer"
      try FileManager.default.createDirectory(
        atPath: transformer, withIntermediateDirectories: true)
      let weights = transformer + "/diffusion_pytorch_model.safetensors"
      try write(model, .diffusers, to: weights)
      #expect(throws: FileError.self) { try PixArtFile(path: folder) }
      try configJSON.write(
        toFile: transformer + "/config.json", atomically: true, encoding: .utf8)
      for path in [folder, transformer, weights] {
        #expect(try ModelWeights(path: path).family == .pixart)
        let file = try PixArtFile(path: path)
        #expect(file.config == config && file.naming == .diffusers)
        #expect(
          try file.load().predict(x, conditioning(1)).values
            == model.predict(x, conditioning(1)).values)
        #expect(try file.nullCaption() == nil)
      }
      try write(model, .diffusers, to: weights, extra: ["transformer_blocks.2.extra": [1]])
      #expect(throws: FileError.self) { try PixArtFile(path: folder).load() }
    }
  }

  @Test(
    arguments: [
      ("_class_name", "SD3Transformer2DModel"), ("attention_type", "gated"),
      ("activation_fn", "geglu"), ("only_cross_attention", true), ("double_self_attention", true),
    ] as [(String, any Sendable)])
  func otherTransformersAreRefused(key: String, value: any Sendable) throws {
    var entries = try #require(
      JSONSerialization.jsonObject(with: Data(configJSON.utf8)) as? [String: Any])
    entries[key] = value
    let json = try JSONSerialization.data(withJSONObject: entries)
    let error = #expect(throws: FileError.self) { try PixArtConfig.parse(json, file: "c.json") }
    #expect(error?.message.contains("'\(key)'") == true)
  }

  /// The configuration of an autoencoder beside the weights is not taken for the model's.
  @Test func theAutoencodersConfigurationIsAnothers() throws {
    let config = PixArtConfig(
      depth: 2, hiddenSize: 72, numHeads: 1, sampleSize: 8, inChannels: 2, captionChannels: 10,
      interpolationScale: 1)
    let model = try PixArt(config: config, weights: Noise())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(), to: "\(folder)/PixArt.pth")
      try FileManager.default.removeItem(atPath: "\(folder)/PixArt.pth.json")
      let text = #"{"_class_name": "AutoencoderKL", "block_out_channels": [32]}"#
      try Data(text.utf8).write(to: URL(filePath: "\(folder)/config.json"))
      let file = try PixArtFile(path: "\(folder)/PixArt.pth")
      #expect(file.config.hiddenSize == 72 && file.config.depth == 2)
      #expect(!file.files.contains { $0.hasSuffix("config.json") })
    }
  }

  @Test func originalFilesTellTheirShape() throws {
    var original = PixArtConfig(
      depth: 1, hiddenSize: 144, numHeads: 2, sampleSize: 32, captionChannels: 6,
      interpolationScale: 0.5)
    original.keyCompression = .init(factor: 2, layers: [0])
    let model = try PixArt(config: original, weights: Noise())
    try withFolder { folder in
      let path = folder + "/model.safetensors"
      try write(
        model, .original, to: path,
        extra: ["pos_embed": [1, 256, 144], "y_embedder.y_embedding": [3, 6]])
      let file = try PixArtFile(path: path)
      var expected = original
      expected.nullCaptionLength = 3
      #expect(file.config == expected && file.naming == .original)
      #expect(try file.nullCaption()?.embeddings.shape == [1, 3, 6])
      let loaded = try file.load()
      let own = loaded.parameters.filter { $0.name != "y_embedder.y_embedding" }
      #expect(
        own.map(\.name) == model.parameters.map(\.name) && own.count < loaded.parameters.count)
      for (a, b) in zip(own, model.parameters) {
        #expect(a.value.values == b.value.values, "\(a.name)")
      }
    }
  }

  @Test(arguments: [
    ("\"use_additional_conditions\": false", "\"use_additional_conditions\": true"),
    ("\"norm_type\": \"ada_norm_single\"", "\"norm_type\": \"ada_norm\""),
    ("\"cross_attention_dim\": 24", "\"cross_attention_dim\": 32"),
    ("\"patch_size\": 2", "\"patch_size\": 3"), ("\"num_layers\": 2", "\"num_layers\": 0"),
    ("\"num_layers\": 2,", ""), ("\"in_channels\": 2", "\"in_channels\": \"two\""),
    ("\"attention_head_dim\": 8", "\"attention_head_dim\": 9223372036854775807"),
    ("\"norm_eps\": 1e-06", "\"norm_eps\": 0"),
  ])
  func configurationsOfOtherModelsAreRefused(old: String, new: String) throws {
    #expect(try PixArtConfig.parse(Data(configJSON.utf8), file: "config.json") == config)
    let changed = configJSON.replacing(old, with: new)
    #expect(changed != configJSON)
    let key = try #require(old.split(separator: "\"").first)
    do {
      _ = try PixArtConfig.parse(Data(changed.utf8), file: "config.json")
      Issue.record("\(new) was accepted")
    } catch {
      #expect(error.description.contains(key) && error.description.contains("config.json"))
    }
  }
}
