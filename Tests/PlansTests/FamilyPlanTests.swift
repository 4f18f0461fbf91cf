import Files
import Operators
import Plans
import Testing

/// What the family of a model decides in a plan.
@MainActor @Suite("Families in plans")
struct FamilyPlanTests {
  private let pixArt: ModelShape = {
    OperatorRegistry.fillCatalog()
    var shape = ModelShape(
      family: .pixart, depth: 28, hiddenSize: 1152, numHeads: 16, patchSize: 2, inputSize: 256,
      numClasses: 0)
    shape.captionChannels = 4096
    return shape
  }()

  private func plan(_ shape: ModelShape) -> GraftPlan {
    GraftPlan(
      named: "x", model: ModelReference(path: "x.safetensors", shape: shape, contentHash: "0"))
  }

  /// The published model has 610,856,096 parameters; its graft of the paper has 1.5 times fewer FLOPs.
  @Test func costOfPixArt() throws {
    var plan = plan(pixArt)
    #expect(plan.cost().original.parameters == 610_856_096)
    plan.apply(.paper)
    try plan.validate()
    let (original, edited) = plan.cost()
    #expect((original.flops * 1e-12 * 10).rounded() / 10 == 52.6)
    #expect((original.flops / edited.flops * 100).rounded() / 100 == 1.5)
  }

  @Test func presetOfThePaper() throws {
    var plan = plan(pixArt)
    plan.apply(.paper)
    let blocks = plan.edits.keys.map(\.block).sorted()
    #expect(blocks == [8, 10, 12, 14, 16, 18] + Array(20...27))
    #expect(plan.edits.values.allSatisfy { $0.name == "hyena_x" })
    #expect(plan.stage2.trained == .lora && plan.stage2.loraRank == 64)
    #expect(plan.stage1.samples == 8000)
    let read = try GraftPlan.parse(String(decoding: plan.json(), as: UTF8.self), file: "x")
    #expect(read == plan && read.model.shape.captionChannels == 4096)
    // Operators that are chosen already stay.
    var own = self.plan(pixArt)
    own.edits[SlotID(block: 3, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 3])
    own.apply(.paper)
    #expect(own.edits.count == 1)
  }

  @Test func adaptersNameLayersOfTheFamily() throws {
    var plan = plan(pixArt)
    plan.stage2.loraTargets = [.modulation]
    let error = #expect(throws: PlanError.self) { try plan.validate() }
    #expect(error?.description.contains("adaLN_modulation.1") == true)
    var shape = ModelShape(
      family: .sit, depth: 2, hiddenSize: 24, numHeads: 2, patchSize: 2, inputSize: 8,
      numClasses: 10)
    var sit = self.plan(shape)
    #expect(sit.stage2.trained == .all)
    try sit.validate()
    let text = String(decoding: try sit.json(), as: UTF8.self)
    #expect(text.contains(#""family": "sit""#))
    #expect(try GraftPlan.parse(text, file: "x").model.shape.family == .sit)
    sit.stage2.trained = .lora
    sit.stage2.loraTargets = [.captionQuery]
    #expect(throws: PlanError.self) { try sit.validate() }
    shape.numClasses = 0
    #expect(throws: PlanError.self) { try self.plan(shape).validate() }
  }
}
