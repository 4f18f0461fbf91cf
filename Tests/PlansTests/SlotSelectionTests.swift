import Plans
import Testing

@Suite struct SlotSelectionTests {
  /// Scores of 10 blocks: L32 rises by tenths, without block 4; `var` of MLPs only.
  private let scores = {
    var scores = SlotScores()
    for block in 0..<10 {
      for slot in Slot.allCases where block != 4 {
        scores["l32", default: [:]][SlotID(block: block, slot: slot)] = Double(block) / 10
      }
      scores["var", default: [:]][SlotID(block: block, slot: .mlp)] = block == 3 ? .nan : 5
    }
    return scores
  }()

  private func blocks(_ text: String, _ slot: Slot = .attention) throws -> [Int] {
    try SlotSelection.blocks(text, depth: 10, slot: slot, scores: scores)
  }

  @Test(arguments: [
    ("odd and L32 > .4", [5, 7, 9]),
    ("top 3 by L32", [7, 8, 9]),
    ("bottom 3 by l32", [0, 1, 2]),
    ("top 8 by L32 and not last 2", [1, 2, 3, 5, 6, 7]),
    ("above 6 and not mlp", [7, 8, 9]),
    ("below 2 or 5", [0, 1, 5]),
    ("L32>=.3 and L32<=.5", [3, 5]),
    ("not (odd or above 3)", [0, 2]),
    ("not not odd and below 4", [1, 3]),
    ("1,3 or every 4 and above 3", [1, 3, 4, 8]),
    ("L32 < 0.15 or 4", [0, 1, 4]),
    ("3 - 5", [3, 4, 5]),
  ])
  func selects(text: String, expected: [Int]) throws {
    #expect(try blocks(text) == expected)
  }

  @Test func kindsMakeBothKindsEligible() throws {
    func slots(_ text: String) throws -> [String] {
      try SlotSelection.parse(text, depth: 10, slot: .attention, scores: scores).map(\.description)
    }
    #expect(try slots("8-9") == ["8.attention", "9.attention"])
    #expect(try slots("above 7 and mlp") == ["8.mlp", "9.mlp"])
    #expect(try slots("9 and (attention or mlp)") == ["9.attention", "9.mlp"])
    // The score of one kind alone, and values that are no numbers, select nothing.
    #expect(try slots("var > 1").isEmpty)
    #expect(try blocks("top 9 by var", .mlp) == [0, 1, 2, 4, 5, 6, 7, 8, 9])
    let error = #expect(throws: PlanError.self) { try blocks("mlp and odd") }
    #expect(error?.message.contains("attention slots") == true)
  }

  @Test(arguments: [
    "", "and", "odd and", "odd odd", "(odd", "odd)", "not", "L32 >", "L32 > x", "L32 > nan",
    "L32 = 3", "top by L32", "top 0 by L32", "top 11 by L32", "above", "above 10", "above -1",
    "even or", "top 3 by", "loss > 1", "12", String(repeating: "(", count: 99) + "odd",
    String(repeating: "not ", count: 5000) + "odd",
  ])
  func refuses(text: String) {
    let error = #expect(throws: PlanError.self) { try blocks(text) }
    #expect((1...600).contains(error?.description.count ?? 0))
  }

  @Test func unknownScoresAreNamedWithTheRemedy() {
    let known = #expect(throws: PlanError.self) { try blocks("heat > 1") }
    #expect(
      known?.message.contains("\"heat\"") == true && known?.message.contains("l32, var") == true)
    let none = #expect(throws: PlanError.self) {
      try SlotSelection.parse(
        "L32 > 1", depth: 10, slot: .mlp, scores: SlotScores(remedy: "measure it"))
    }
    #expect(none?.message.hasSuffix("; measure it") == true)
  }
}
