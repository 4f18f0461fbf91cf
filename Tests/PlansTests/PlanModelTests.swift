import Plans
import Testing

/// Plans against the model that they are for.
extension PlanFileTests {
  @Test func planForAnotherModel() throws {
    let plan = sample()
    try plan.check(against: plan.model)
    var other = plan.model
    other.path = "elsewhere.safetensors"
    try plan.check(against: other)
    other.contentHash = "decaf"
    let hash = #expect(throws: PlanError.self) { try plan.check(against: other) }
    #expect(hash?.key == "model.content_hash")
    other = plan.model
    other.shape.depth = 12
    let shape = #expect(throws: PlanError.self) { try plan.check(against: other) }
    #expect(shape?.key == "model.depth")
    #expect(shape?.message.contains("says 28 and demo has 12") == true)
  }
}
