import Plans
import Testing

@Suite struct LayerSelectionTests {
  @Test(arguments: [
    ("all", Array(0..<28)),
    (" Odd ", [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27]),
    ("even", [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26]),
    ("every 9", [0, 9, 18, 27]),
    ("every 9 from 2", [2, 11, 20]),
    ("last 3", [25, 26, 27]),
    ("first 2", [0, 1]),
    ("3-6", [3, 4, 5, 6]),
    ("7", [7]),
    ("5, 1,3 - 4,3", [1, 3, 4, 5]),
  ])
  func selects(text: String, blocks: [Int]) throws {
    #expect(try LayerSelection.parse(text, depth: 28) == blocks)
  }

  @Test(arguments: [
    "", "some", "28", "1-28", "6-3", "1,,2", "1 3", "-1", "+1", "1-2-3", "every", "every 0",
    "every 2 from 28", "every 2 to 4", "last 0", "last 29", "first x", "all odd", "٣",
    "99999999999999999999",
  ])
  func refuses(text: String) {
    let error = #expect(throws: PlanError.self) { try LayerSelection.parse(text, depth: 28) }
    #expect(error?.description.isEmpty == false)
  }

  @Test func slotNames() {
    #expect(SlotID("7.attention") == SlotID(block: 7, slot: .attention))
    #expect("\(SlotID(block: 12, slot: .mlp))" == "12.mlp")
    for text in ["7", "7.", ".mlp", "-1.mlp", "+1.mlp", "01.mlp", "7.attn", "7.mlp.x", " 7.mlp"] {
      #expect(SlotID(text) == nil, "\(text)")
    }
    let ids = [SlotID(block: 2, slot: .attention), SlotID(block: 1, slot: .mlp)]
    #expect(
      (ids + [SlotID(block: 1, slot: .attention)]).sorted().map(\.description) == [
        "1.attention", "1.mlp", "2.attention",
      ])
  }
}
