import Checkpoints
import Files
import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import Testing

/// What tells a SiT from a DiT, which have the same tensors.
@MainActor @Suite("Recognition of families")
struct FamilyRecognitionTests {
  private let config = {
    OperatorRegistry.fillCatalog()
    return ModelShape(
      depth: 1, hiddenSize: 16, numHeads: 2, patchSize: 2, inputSize: 4, numClasses: 5)
  }()

  /// Opens a file of a DiT's tensors under a name, with more tensors and metadata.
  private func opened(
    _ name: String, prefix: String = "", extra: [String] = [], metadata: [String: String] = [:],
    then body: (any ModelFile) throws -> Void
  ) throws {
    let model = try DiT(config: config, weights: FreshWeights(seed: 1))
    let folder = NSTemporaryDirectory() + "families-" + UUID().uuidString
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    let path = "\(folder)/\(name)"
    try SafetensorsWriter.write(
      model.parameters.map {
        TensorItem(name: $0.name, shape: $0.value.shape, floats: $0.value.values)
      } + extra.map { TensorItem(name: $0, shape: [2], floats: [1, 2]) },
      metadata: metadata, to: path)
    try body(try ModelWeights(named: prefix + path).model(numHeads: 2))
  }

  @Test(arguments: [
    ("SiT-XL-2-256x256.safetensors", ModelFamily.sit), ("sit_small.safetensors", .sit),
    ("DiT-XL-2-256x256.safetensors", .dit), ("dit.safetensors", .dit),
    ("site.safetensors", .dit), ("model.safetensors", .dit),
  ])
  func names(name: String, family: ModelFamily) throws {
    try opened(name) { file in
      #expect(file.shape.family == family)
      let isClear = !["site.safetensors", "model.safetensors"].contains(name)
      #expect(file.notes.contains { $0.contains("of a DiT and of a SiT") } == !isClear)
    }
  }

  @Test func projectorsOfREPA() throws {
    try opened("last.safetensors", extra: ["projectors.0.0.weight", "projectors.0.0.bias"]) {
      file in
      #expect(file.shape.family == .sit)
      #expect(file.notes.contains { $0.contains("projectors") })
      let names = try file.network().parameters.map(\.name)
      #expect(!names.contains { $0.hasPrefix("projectors") })
    }
  }

  @Test func statedFamilies() throws {
    try opened("model.safetensors", prefix: "sit:") { file in
      #expect(file.shape.family == .sit && file.notes.isEmpty)
      let reference = try ModelFiles(file).reference()
      #expect(reference.path.hasPrefix("sit:/") && reference.shape.family == .sit)
      // The same file as a DiT is another model, for plans and caches.
      let path = String(reference.path.dropFirst(4))
      let other = try ModelFiles(ModelWeights(named: path).model(numHeads: 2)).contentHash()
      #expect(other != reference.contentHash)
    }
    // The family in a file's own configuration is kept, and outweighs its name.
    var own = config
    own.family = .sit
    let metadata = try DiTFile.metadata(config: own, classNames: [], name: "x")
    try opened("DiT-x.safetensors", metadata: metadata) { file in
      #expect(file.shape == own)
      let kept = try file.metadata()
      #expect(kept["config"] == metadata["config"])
    }
    #expect(throws: FileError.self) {
      try self.opened("x.safetensors", prefix: "dit:", metadata: metadata) { _ in }
    }
    #expect(throws: FileError.self) {
      try self.opened("x.safetensors", prefix: "pixart:") { _ in }
    }
  }

  @Test func namesOfPublishedModels() throws {
    let shape = try #require(ModelShape(named: "SiT-XL/2"))
    #expect(shape.family == .sit && shape.depth == 28 && shape.publishedName == "SiT-XL/2")
    #expect(ModelShape(named: "DiT-B/4")?.publishedName == "DiT-B/4")
    #expect(ModelShape(named: "PixArt-XL/2") == nil)
  }
}
