import Foundation
import Operators
import Plans
import Testing

@Suite("Depth to width in plans")
struct DepthToWidthTests {
  init() { OperatorRegistry.fillCatalog() }

  private let inPair = SlotID(block: 3, slot: .mlp)
  private let alone = SlotID(block: 7, slot: .attention)

  private func plan(_ parallel: [BlockPair: ParallelMerge] = [:]) -> GraftPlan {
    var plan = GraftPlan(
      named: "wide", model: ModelReference(path: "demo", shape: ditXL2, contentHash: "c0ffee"))
    plan.parallel = parallel
    return plan
  }

  private func sample() -> GraftPlan {
    var plan = plan([BlockPair(first: 2): .projection, BlockPair(first: 20): .residual])
    plan.edits[inPair] = OperatorSpec("mlp", ["expansion_ratio": 3])
    plan.edits[alone] = OperatorSpec("swa")
    var own = SiteOverride()
    own.loss = .l2
    plan.stage1.overrides[.pair(BlockPair(first: 20))] = own
    return plan
  }

  @Test func names() {
    #expect(BlockPair("2+3") == BlockPair(first: 2) && "\(BlockPair(first: 9))" == "9+10")
    for text in ["", "2", "2+", "+3", "3+2", "2+4", "02+3", "2+03", "-1+0", "2-3", "2+3+4", " 2+3"]
    {
      #expect(BlockPair(text) == nil, "\(text)")
    }
    #expect(BlockPair("\(Int.max)+0") == nil)
    #expect(GraftSite("2+3") == .pair(BlockPair(first: 2)))
    #expect(GraftSite("7.attention") == .slot(alone))
    #expect(GraftSite("2.attn") == nil)
    let sites = ["3.mlp", "2+3", "2.attention", "2.mlp", "0.mlp"].compactMap(GraftSite.init)
    #expect(
      sites.sorted().map(\.description) == ["0.mlp", "2+3", "2.attention", "2.mlp", "3.mlp"])
  }

  @Test func sitesAreKeysInJSON() throws {
    let losses: [GraftSite: Double] = [.pair(BlockPair(first: 2)): 0.5, .slot(alone): 0.25]
    let text = try JSONEncoder().encode(losses)
    #expect(
      (try JSONSerialization.jsonObject(with: text)) as? [String: Double]
        == ["2+3": 0.5, "7.attention": 0.25])
    #expect(try JSONDecoder().decode([GraftSite: Double].self, from: text) == losses)
    #expect(throws: DecodingError.self) {
      try JSONDecoder().decode([GraftSite].self, from: Data(#"["2+4"]"#.utf8))
    }
  }

  @Test func writesAndReads() throws {
    let text = String(decoding: try sample().json(), as: UTF8.self)
    #expect(
      text.contains(
        """
          "parallel": [
            {"blocks": [2, 3], "merge": "projection"},
            {"blocks": [20, 21], "merge": "residual"}
          ],
        """))
    #expect(text.contains(#""overrides": {"20+21": {"loss": "l2"}}"#))
    #expect(try GraftPlan.parse(text, file: "p.json") == sample())
    // A plan of before has no such key, and one without pairs is written as it was.
    let without = String(decoding: try plan().json(), as: UTF8.self)
    #expect(!without.contains("parallel"))
    #expect(try GraftPlan.parse(without, file: "p.json").parallel.isEmpty)
  }

  /// Each change to the good text, and the line, key and words of the refusal.
  @Test(
    arguments: [
      ("[2, 3]", "[2, 4]", 23, "parallel[0].blocks", "a block and the next one"),
      ("[2, 3]", "[3, 2]", 23, "parallel[0].blocks", "found [3, 2]"),
      ("[2, 3]", "[2]", 23, "parallel[0].blocks", "found [2]"),
      ("[2, 3]", "[2.5, 3.5]", 23, "parallel[0].blocks", "found [2.5, 3.5]"),
      ("[2, 3]", "[-1, 0]", 23, "parallel[0].blocks", "blocks 0 to 27"),
      ("[2, 3]", "[27, 28]", 23, "parallel[0].blocks", "blocks 0 to 27, found [27, 28]"),
      ("[2, 3]", "[1e300, 1e300]", 23, "parallel[0].blocks", "a block and the next one"),
      ("[2, 3]", "\"2+3\"", 23, "parallel[0].blocks", "each element a number"),
      ("[2, 3]", "[20, 21]", 24, "parallel[1].blocks", "shares a block with the pair 20+21"),
      ("[2, 3]", "[19, 20]", 24, "parallel[1].blocks", "shares a block with the pair 19+20"),
      (
        "\"residual\"", "\"sum\"", 24, "parallel[1].merge",
        #"expected "projection", "mean" or "residual""#
      ),
      ("\"residual\"", "1", 24, "parallel[1].merge", #"or "residual", found the number 1"#),
      (", \"merge\": \"residual\"", "", 24, "parallel[1].merge", "missing"),
      ("\"merge\": \"residual\"", "\"merged\": \"mean\"", 24, "parallel[1].merged", "unknown key"),
      ("\"parallel\": [", "\"parallel\": 3, \"x\": [", 22, "x", "unknown key"),
      ("\"20+21\": {", "\"20+22\": {", 56, "stage1.overrides.20+22", "such as 2+3"),
      ("\"20+21\": {", "\"27+28\": {", 56, "stage1.overrides.27+28", "found 28"),
      (
        "\"loss\": \"l2\"", "\"init\": \"transferred\"", 56, "stage1.overrides.20+21.init",
        "starts from the model's own weights"
      ),
      (
        "\"loss\": \"l2\"", "\"init\": \"ridge\"", 56, "stage1.overrides.20+21.init",
        "merge is residual"
      ),
      (
        "\"loss\": \"l2\"", "\"gate_scaled\": true", 56, "stage1.overrides.20+21.gate_scaled",
        "no gate"
      ),
    ] as [(String, String, Int, String, String)])
  func refusals(old: String, new: String, line: Int, key: String, says: String) throws {
    let good = String(decoding: try sample().json(), as: UTF8.self)
    let range = try #require(good.range(of: old))
    let text = good.replacingCharacters(in: range, with: new)
    let error = #expect(throws: PlanError.self) { try GraftPlan.parse(text, file: "p.json") }
    let found = try #require(error)
    #expect(found.line == line && found.key == key, "\(found)")
    #expect(found.message.contains(says), "\(found)")
  }

  @Test func impossiblePairsAreNotWritten() {
    for pairs in [[-1], [27], [4, 5]] {
      let plan = plan(Dictionary(uniqueKeysWithValues: pairs.map { (BlockPair(first: $0), .mean) }))
      let error = #expect(throws: PlanError.self, "\(pairs)") { try plan.json() }
      #expect(error?.key == "parallel")
    }
  }

  /// Section 6 of the paper: 14 pairs of DiT-XL/2 have 712 M parameters and depth 14.
  @Test func costOfTheGraftedDiTXL() throws {
    var plan = plan()
    try plan.join(Array(0..<28), merge: .projection)
    #expect(plan.depth == 14 && plan.parallel.count == 14)
    let (original, edited) = plan.cost()
    #expect(original.parameters == 675_129_632 && edited.parameters == 712_304_672)
    #expect(edited.flops - original.flops == 14 * 2 * 256 * 2304 * 1152)
    for merge in [ParallelMerge.mean, .residual] {
      try plan.join(Array(0..<28), merge: merge)
      #expect(plan.cost().edited == original && plan.depth == 14)
    }
  }

  @Test func joiningAndSplitting() throws {
    var plan = plan()
    try plan.join([8, 2, 9, 3], merge: .mean)
    #expect(plan.parallel == [BlockPair(first: 2): .mean, BlockPair(first: 8): .mean])
    #expect(plan.pair(of: 3) == BlockPair(first: 2) && plan.pair(of: 4) == nil)
    try plan.join([2, 3], merge: .residual)
    #expect(plan.parallel[BlockPair(first: 2)] == .residual)
    let kept = plan
    for (blocks, says) in [
      ([4], "without its neighbour 5"), ([4, 6], "without its neighbour 5"),
      ([4, 5, 6], "block 6 is chosen without"), ([27], "block 27 is the last one"),
      ([3, 4], "blocks 2 and 3 are parallel already"), ([4, 5, 7, 8], "blocks 8 and 9 are"),
    ] {
      let error = #expect(throws: PlanError.self) { try plan.join(blocks, merge: .mean) }
      #expect(error?.message.contains(says) == true, "\(blocks): \(error?.message ?? "")")
      #expect(plan == kept)
    }
    plan.split([0, 9])
    #expect(plan.parallel == [BlockPair(first: 2): .residual])
    plan.split([2, 3])
    #expect(plan.isEmpty && plan.depth == 28)
  }

  @Test func sitesHoldEverySlotOnce() {
    let plan = sample()
    #expect(plan.sites.map(\.description) == ["2+3", "7.attention", "20+21"])
    #expect(plan.site(of: inPair) == .pair(BlockPair(first: 2)))
    #expect(plan.site(of: alone) == .slot(alone))
    #expect(plan.site(of: SlotID(block: 7, slot: .mlp)) == nil)
    #expect(plan.stage1.loss(for: .pair(BlockPair(first: 2))) == .l1)
    #expect(plan.stage1.loss(for: .pair(BlockPair(first: 20))) == .l2)
  }

  @Test func plansAgreeWhereNothingDiffers() {
    let plan = sample()
    let pair = GraftSite.pair(BlockPair(first: 2))
    #expect(plan.sites.allSatisfy { plan.agrees(with: plan, at: $0) })
    var other = plan
    other.parallel[BlockPair(first: 2)] = .mean
    #expect(!plan.agrees(with: other, at: pair) && plan.agrees(with: other, at: .slot(alone)))
    other = plan
    other.edits[inPair] = nil
    #expect(!plan.agrees(with: other, at: pair) && !other.agrees(with: plan, at: pair))
    other.parallel = [:]
    #expect(!plan.agrees(with: other, at: pair))
    // A slot of a pair is trained as part of it, alone it is something else.
    other.edits[inPair] = plan.edits[inPair]
    #expect(!other.agrees(with: plan, at: .slot(inPair)))
    other.parallel = [BlockPair(first: 7): .mean]
    #expect(!plan.agrees(with: other, at: .slot(alone)))
  }
}
