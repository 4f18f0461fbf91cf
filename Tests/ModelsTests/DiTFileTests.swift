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

@MainActor @Suite("DiT files")
struct DiTFileTests {
  init() { OperatorRegistry.fillCatalog() }

  /// Random numbers even where a fresh model starts with zeros.
  private struct RandomWeights: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
      var drawn = initializer
      if case .zeros = initializer { drawn = .normal(0.05) }
      return FreshWeights(seed: 3).tensor(name, shape, drawn)
    }
  }

  private func withFolder<Result>(_ body: (String) throws -> Result) throws -> Result {
    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    return try body(folder)
  }

  private let config = ModelShape(
    depth: 2, hiddenSize: 24, numHeads: 2, patchSize: 2, inputSize: 8, numClasses: 3)

  private func output(_ model: DiT) -> [Float] {
    var random = RandomSequence(seed: 5)
    return model.predict(
      random.normal([2, 4, 8, 8]), Conditioning(timesteps: [3, 900], labels: [0, 3])
    ).values
  }

  @Test(
    arguments: [
      ("m.pt", .official), ("m.safetensors", .official), ("m.pt", .diffusers),
      ("m.safetensors", .diffusers), ("pipeline", .diffusers),
    ] as [(String, DiTNaming)])
  func everyFormatAndNamingGivesTheSameModel(name: String, naming: DiTNaming) throws {
    for shift in 0...1 {
      var config = config
      config.frequencyShift = shift
      config.mlpNormEpsilon = shift == 0 ? 1e-6 : 1e-5
      let model = try DiT(config: config, weights: RandomWeights())
      try withFolder { folder in
        let metadata = try DiTFile.metadata(
          config: config, classNames: ["a", "b", "c"], name: "x")
        _ = try ModelWriter.write(
          model, metadata: metadata, classNames: ["a", "b", "c"], as: .init(naming: naming),
          to: "\(folder)/\(name)")
        let file = try DiTFile(path: "\(folder)/\(name)")
        #expect(file.config == config && file.naming == naming)
        #expect(file.classNames == ["a", "b", "c"])
        #expect(output(try file.load()) == output(model))
      }
    }
  }

  /// Without metadata, the folder's own configuration decides, with the conventions of diffusers.
  @Test(arguments: [Float.nan, -.infinity])
  func weightsThatAreNotFiniteAreRefused(value: Float) throws {
    let path = NSTemporaryDirectory() + "espalier-\(UUID().uuidString).safetensors"
    defer { try? FileManager.default.removeItem(atPath: path) }
    try SafetensorsWriter.write(
      [.init(name: "a.weight", shape: [2, 3], floats: [1, 2, 3, 4, value, 6])], metadata: [:],
      to: path)
    let weights = FileWeights(try SafetensorsFile(path: path))
    let error = #expect(throws: FileError.self) {
      try weights.tensor("a.weight", [2, 3], .zeros)
    }
    #expect(
      error?.message.contains("tensor 'a.weight' holds a value at [1, 1] that is not finite")
        == true)
  }

  @Test func foldersOfDiffusersKeepItsConventions() throws {
    var config = config
    config.frequencyShift = 1
    config.mlpNormEpsilon = 1e-5
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(naming: .diffusers), to: folder)
      let file = try DiTFile(path: folder)
      #expect(file.config == config)
      #expect(output(try file.load()) == output(model))
      let other = try DiT(config: self.config, weights: RandomWeights())
      #expect(output(try file.load()) != output(other))
      #expect(file.files.contains { $0.hasSuffix("transformer/config.json") })
    }
  }

  /// Diffusers' label table has a row more than classes, also for a model that has none for no class.
  @Test(arguments: [false, true])
  func labelTablesHaveTheRowsThatDiffusersExpects(hasNullClass: Bool) throws {
    var config = config
    config.hasNullClass = hasNullClass
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: try DiTFile.metadata(config: config, classNames: [], name: "tiny"),
        classNames: [], as: .init(naming: .diffusers), to: folder)
      let text = try Data(contentsOf: URL(filePath: "\(folder)/transformer/config.json"))
      let table = try #require(try JSONSerialization.jsonObject(with: text) as? [String: Any])
      #expect(table["num_embeds_ada_norm"] as? Int == config.labelRows - 1)
      #expect(try DiTFile(path: folder).config.hasNullClass == hasNullClass)
    }
  }

  @Test func shapesTellTheConfiguration() throws {
    for (learnSigma, classes) in [(true, 3), (false, 7)] {
      var config = config
      config.learnSigma = learnSigma
      config.numClasses = classes
      let model = try DiT(config: config, weights: RandomWeights())
      try withFolder { folder in
        let path = "\(folder)/m.pt"
        _ = try ModelWriter.write(model, metadata: [:], classNames: [], as: .init(), to: path)
        try FileManager.default.removeItem(atPath: Sidecar.path(of: path))
        let error = #expect(throws: FileError.self) { try DiTFile(path: path) }
        #expect(error?.message.contains("num_heads") ?? false)
        #expect(try DiTFile(path: path, numHeads: 2).config == config)
        try Data("{\"config\": {\"num_heads\": 2}}".utf8).write(to: URL(filePath: path + ".json"))
        let file = try DiTFile(path: path)
        #expect(file.config == config)
        #expect(output(try file.load()) == output(model))
      }
    }
  }

  @Test func publishedModelsByName() throws {
    let parameters = [
      "DiT-S/2": 384, "DiT-B/4": 768, "DiT-L/4": 1024, "DiT-XL/2": 1152, "DiT-XL/8": 1152,
    ]
    for (name, hiddenSize) in parameters {
      let config = try #require(ModelShape(named: name, imageSize: 512))
      #expect(config.hiddenSize == hiddenSize && config.inputSize == 64)
      #expect(config.publishedName == name && config.numClasses == 1000)
    }
    #expect(ModelShape(named: "DiT-XL/3") == nil && ModelShape(named: "DiT-M/2") == nil)
    #expect(ModelShape(named: "DiT-XL/2", imageSize: 300) == nil)
  }

  /// Weights under every name that diffusers has given them, the plain ones first.
  @Test(arguments: [
    "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bf16.safetensors",
    "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.bin",
  ])
  func variantsOfAFolder(name: String) throws {
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(naming: .diffusers), to: folder)
      let plain = try DiffusersFolder.weights(in: "\(folder)/transformer")
      let expected = output(try DiTFile(path: folder).load())
      let target = "\(folder)/transformer/\(name)"
      if name.hasSuffix(".bin") {
        let file = try SafetensorsFile(path: plain)
        try TorchWriter.write(
          file.names.map { name in
            let shape = file.entry(name)?.shape ?? []
            return TensorItem(name: name, shape: shape, floats: try file.floats(name))
          }, to: target)
      } else {
        try FileManager.default.copyItem(atPath: plain, toPath: target)
      }
      #expect(try DiffusersFolder.weights(in: "\(folder)/transformer") == plain)
      try FileManager.default.removeItem(atPath: plain)
      let file = try DiTFile(path: folder)
      #expect(try file.path == target && output(file.load()) == expected)
    }
  }

  /// A scheduler that asks for another process is refused by the key that does.
  @Test(arguments: [
    ("prediction_type", "\"v_prediction\""), ("beta_schedule", "\"scaled_linear\""),
    ("beta_end", "0.012"), ("num_train_timesteps", "100"), ("trained_betas", "[0.1]"),
    ("clip_sample", "true"), ("timestep_spacing", "\"trailing\""), ("steps_offset", "1"),
    ("rescale_betas_zero_snr", "true"), ("clip_sample", nil),
    ("_class_name", "\"FlowMatchEulerDiscreteScheduler\""), ("_class_name", "\"LCMScheduler\""),
  ])
  func schedulersOfOtherProcesses(key: String, value: String?) throws {
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(naming: .diffusers), to: folder)
      let path = "\(folder)/scheduler/scheduler_config.json"
      var entries = [
        "_class_name": "\"DDIMScheduler\"", "beta_start": "0.0001", "clip_sample": "false",
        "lambda_min_clipped": "-Infinity", "trained_betas": "null",
      ]
      func write() throws {
        let text = entries.map { "\"\($0.key)\": \($0.value)" }.joined(separator: ", ")
        try Data("{\(text)}".utf8).write(to: URL(filePath: path))
      }
      try write()
      _ = try DiTFile(path: folder)
      entries[key] = value
      try write()
      let error = #expect(throws: FileError.self) { try DiTFile(path: folder) }
      #expect(error?.message.contains("\"\(key)\"") == true)
      #expect(error?.message.contains("scheduler_config.json") == true)
    }
  }

  /// Integers and scales are those of a quantisation, whose rule no file states.
  @Test(arguments: ["blocks.0.attn.qkv.weight", "x_embedder.proj.bias", "blocks.0.attn.qkv.SCB"])
  func quantisedWeightsAreRefused(name: String) throws {
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      let path = "\(folder)/m.safetensors"
      var items = model.parameters.map {
        TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
      }
      if name.hasSuffix("SCB") { items.append(TensorItem(name: name, shape: [1], floats: [1])) }
      try SafetensorsWriter.write(items, metadata: [:], to: path)
      var bytes = try Data(contentsOf: URL(filePath: path))
      // The same bytes as integers.
      if !name.hasSuffix("SCB"), let place = bytes.range(of: Data("\"\(name)\":".utf8)),
        let type = bytes.range(of: Data("F32".utf8), in: place.upperBound..<bytes.endIndex)
      {
        bytes.replaceSubrange(type, with: Data("I32".utf8))
        try bytes.write(to: URL(filePath: path))
      }
      let error = #expect(throws: FileError.self) { try DiTFile(path: path, numHeads: 2).load() }
      #expect(error?.message.contains("'\(name)'") == true)
      #expect(error?.message.contains("quantised") == true)
    }
  }

  /// Folders of trainings are told what they are.
  @Test(arguments: [
    (".metadata", "dcp_to_torch"), ("latest", "mp_rank_00_model_states.pt"),
    ("run.json", "checkpoints/model"),
  ])
  func foldersOfTrainingsAreNamed(file: String, advice: String) throws {
    try withFolder { folder in
      try Data().write(to: URL(filePath: "\(folder)/\(file)"))
      let error = #expect(throws: FileError.self) { try DiTFile(path: folder) }
      #expect(error?.message.contains(advice) == true)
    }
  }

  /// diffusers computes the position table, so a learned one cannot go there.
  @Test func learnedPositionsStayInTheOfficialNaming() throws {
    struct Learned: WeightSource {
      func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) throws -> Tensor {
        try RandomWeights().tensor(
          name, shape, name == "pos_embed" ? .normal(0.5) : initializer)
      }
    }
    let model = try DiT(config: config, weights: Learned())
    try withFolder { folder in
      let error = #expect(throws: FileError.self) {
        try ModelWriter.write(
          model, metadata: [:], classNames: [], as: .init(naming: .diffusers), to: folder + "/x")
      }
      #expect(error?.message.contains("pos_embed") == true)
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(), to: folder + "/x.pt")
      #expect(
        output(try DiTFile(path: folder + "/x.pt", numHeads: 2).load()) == output(model))
    }
  }

  @Test func embeddersThatDifferAreRefused() throws {
    let model = try DiT(config: config, weights: RandomWeights())
    try withFolder { folder in
      _ = try ModelWriter.write(
        model, metadata: [:], classNames: [], as: .init(naming: .diffusers), to: folder)
      let path = try DiffusersFolder.weights(in: "\(folder)/transformer")
      let file = try SafetensorsFile(path: path)
      let changed = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"
      let items = try file.names.map { name in
        var floats = try file.floats(name)
        if name == changed { floats[0] += 1 }
        return TensorItem(name: name, shape: try #require(file.entry(name)).shape, floats: floats)
      }
      try SafetensorsWriter.write(items, metadata: [:], to: path)
      let error = #expect(throws: FileError.self) { try DiTFile(path: folder).load() }
      #expect(error?.message.contains(changed) ?? false)
    }
  }
}
