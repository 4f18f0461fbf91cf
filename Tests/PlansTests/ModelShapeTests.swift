import Files
import Foundation
import Plans
import Testing

@Suite struct ModelShapeTests {
  private let shape = ModelShape(
    depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 2, inputSize: 32, numClasses: 1000)

  @Test func published() throws {
    try shape.validate(at: "model")
    #expect(shape.tokens == 256 && shape.outChannels == 8 && shape.labelRows == 1001)
    #expect(shape.nullClass == 1000)
  }

  private typealias Change = @Sendable (inout ModelShape) -> Void
  private static let faults: [(key: String, change: Change)] = [
    ("depth", { $0.depth = 0 }), ("depth", { $0.depth = 1_000_000_000 }),
    ("hidden_size", { $0.hiddenSize = 0 }), ("hidden_size", { $0.hiddenSize = 1154 }),
    ("num_heads", { $0.numHeads = -1 }), ("num_heads", { $0.numHeads = 7 }),
    ("patch_size", { $0.patchSize = 0 }), ("patch_size", { $0.patchSize = 3 }),
    ("input_size", { $0.inputSize = .max }), ("in_channels", { $0.inChannels = 0 }),
    ("num_classes", { $0.numClasses = 0 }), ("num_classes", { $0.family = .pixart }),
    ("mlp_ratio", { $0.mlpRatio = .nan }), ("mlp_ratio", { $0.mlpRatio = 1e300 }),
    ("frequency_shift", { $0.frequencyShift = 2 }),
    ("mlp_norm_epsilon", { $0.mlpNormEpsilon = 0 }),
  ]

  @Test func impossibleEntriesAreNamed() {
    for (key, change) in Self.faults { expectFault(key, change) }
  }

  private func expectFault(_ key: String, _ change: Change) {
    var shape = shape
    change(&shape)
    let fault = #expect(throws: PlanError.self) { try shape.validate(at: "model") }
    #expect(fault?.key == "model.\(key)")
    let error = #expect(throws: FileError.self) {
      try shape.validate(file: "config.json", names: [key: "their_name"])
    }
    #expect(error?.message.hasPrefix("config.json: config key 'their_name': ") == true)
  }

  /// What only other programs' models have stands in a plan where it differs, and is read again.
  @Test func conventionsAreKeptInPlans() throws {
    var other = shape
    (other.hasNullClass, other.frequencyShift, other.mlpNormEpsilon) = (false, 1, 1e-5)
    for shape in [shape, other] {
      let plan = GraftPlan(
        named: "p", model: ModelReference(path: "m", shape: shape, contentHash: "0"))
      let text = String(decoding: try plan.json(), as: UTF8.self)
      #expect(text.contains("has_null_class") == !shape.hasNullClass)
      #expect(try GraftPlan.parse(text, file: "p.json").model.shape == shape)
      let encoded = try JSONSerialization.jsonObject(with: JSONEncoder().encode(shape))
      #expect((encoded as? [String: Any])?["has_null_class"] as? Bool == shape.hasNullClass)
    }
  }
}
