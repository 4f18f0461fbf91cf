import Foundation
import Models
import Nn
import Operators
import Plans
import TensorCore
import TestSupport
import Testing

/// Models with any operator go through files without a bit changing.
@MainActor @Suite("Round trips")
struct RoundTripTests {
  init() { OperatorRegistry.fillCatalog() }

  /// Random numbers even where a fresh model starts with zeros or ones.
  struct Noise: WeightSource {
    func tensor(_ name: String, _ shape: [Int], _ initializer: Initializer) -> Tensor {
      let random = RandomStream(seed: 7, name)
      switch initializer {
      case .table, .drawn: return initializer.tensor(shape, random)
      default: return Initializer.normal(0.2).tensor(shape, random)
      }
    }
  }

  /// One replacement each, by its operator's name and slot.
  nonisolated static var single: [[SlotID: OperatorSpec]] {
    OperatorRegistry.entries.flatMap { entry in
      Slot.allCases.filter(entry.descriptor.slots.contains).map { slot in
        [SlotID(block: 1, slot: slot): entry.descriptor.defaultSpec]
      }
    }
  }

  /// All operators in one model, each in the first free block of its slots.
  nonisolated static var all: [SlotID: OperatorSpec] {
    var edits: [SlotID: OperatorSpec] = [:]
    for entry in OperatorRegistry.entries {
      for slot in entry.descriptor.slots {
        let block = edits.keys.count { $0.slot == slot }
        edits[SlotID(block: block, slot: slot)] = entry.descriptor.defaultSpec
      }
    }
    return edits
  }

  @Test func everyOperatorIsInTheMixedModel() {
    #expect(
      Set(Self.all.values.map(\.name)) == Set(OperatorRegistry.entries.map(\.descriptor.name)))
    #expect(Self.single.count == Self.all.count)
  }

  @Test(arguments: single + [all])
  func filesKeepEveryBit(edits: [SlotID: OperatorSpec]) throws {
    let config = ModelShape(
      depth: 1 + (edits.keys.map(\.block).max() ?? 0), hiddenSize: 64, numHeads: 2, patchSize: 2,
      inputSize: 8, numClasses: 3)
    let model = try DiT(config: config, edits: edits, weights: Noise())
    var plan = GraftPlan(
      named: "round trip",
      model: ModelReference(path: "teacher.pt", shape: config, contentHash: "0"))
    plan.edits = edits
    try plan.validate()
    var metadata = try DiTFile.metadata(config: config, classNames: [], name: "tiny")
    metadata[DiTFile.planKey] = String(decoding: try plan.json(), as: UTF8.self)
    let expected = output(model)
    #expect(expected.allSatisfy { $0.isFinite })

    let folder = FileManager.default.temporaryDirectory.appending(path: UUID().uuidString).path
    try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
    defer { try? FileManager.default.removeItem(atPath: folder) }
    // Each file is written from the one before.
    var source = model
    for name in ["a.pt", "b.safetensors", "c.pt"] {
      let path = "\(folder)/\(name)"
      _ = try ModelWriter.write(source, metadata: metadata, classNames: [], as: .init(), to: path)
      let file = try DiTFile(path: path)
      #expect(file.plan?.edits == edits)
      #expect(Set(file.tensors.names) == Set(model.parameters.map(\.name)))
      source = try file.load()
      for (read, written) in zip(source.parameters, model.parameters) {
        #expect(read.name == written.name && read.value.shape == written.value.shape)
        #expect(
          read.value.values.map(\.bitPattern) == written.value.values.map(\.bitPattern),
          "\(name): \(read.name)")
        #expect(file.tensors.entry(read.name)?.shape == written.value.shape)
      }
      #expect(output(source).map(\.bitPattern) == expected.map(\.bitPattern), "\(name)")
    }
  }

  private func output(_ model: DiT) -> [Float] {
    var random = RandomSequence(seed: 5)
    return model.predict(
      random.normal([2, 4, 8, 8]), Conditioning(timesteps: [3, 900], labels: [0, 3])
    ).values
  }
}
