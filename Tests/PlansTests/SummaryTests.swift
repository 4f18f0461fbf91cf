import Operators
import Plans
import Testing

/// Plans and selections of blocks in a few words.
@Suite struct SummaryTests {
  /// The words select the blocks that they were made from.
  @Test(arguments: [
    ([0, 1, 2, 3, 4, 5], "all"), ([1, 3, 5], "odd"), ([4, 0, 2], "even"), ([2], "2"),
    ([0, 1, 3, 5], "0-1,3,5"), ([1, 2, 3], "1-3"),
  ])
  func blocks(blocks: [Int], words: String) throws {
    #expect(LayerSelection.text(blocks, depth: 6) == words)
    #expect(try LayerSelection.parse(words, depth: 6) == blocks.sorted())
  }

  @Test func smallModels() {
    #expect(LayerSelection.text([0], depth: 1) == "all")
    #expect(LayerSelection.text([1], depth: 2) == "1")
  }

  @Test func plans() {
    OperatorRegistry.fillCatalog()
    let shape = ModelShape(
      depth: 6, hiddenSize: 48, numHeads: 4, patchSize: 2, inputSize: 8, inChannels: 4,
      numClasses: 10)
    var plan = GraftPlan(
      named: "test", model: ModelReference(path: "demo", shape: shape, contentHash: "c0ffee"))
    #expect(plan.summary == "no change")
    for block in [1, 3, 5] {
      plan.edits[SlotID(block: block, slot: .attention)] = OperatorSpec("linear_attention")
    }
    plan.edits[SlotID(block: 0, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 3])
    plan.edits[SlotID(block: 2, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 6])
    plan.parallel[BlockPair(first: 4)] = .mean
    let labels = [OperatorSpec("linear_attention"), plan.spec(SlotID(block: 0, slot: .mlp))].map {
      OperatorCatalog.descriptor(named: $0.name)?.label($0) ?? ""
    }
    #expect(plan.summary.hasPrefix("\(labels[1]) in mlp of 0; \(labels[0]) in attention of odd; "))
    #expect(plan.summary.hasSuffix(" in mlp of 2; 4-5 parallel in pairs (mean)"))
  }
}
