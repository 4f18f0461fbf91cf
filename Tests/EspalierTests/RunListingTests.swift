import Foundation
import Operators
import Plans
import Runs
import Testing

/// Lists, notes, tags, differences and removal of runs from the command line.
@Suite struct RunListingTests {
  private struct Row: Decodable {
    let id, note: String
    let tags: [String]
  }

  private struct Difference: Decodable {
    let key: String
    let values: [String?]
  }

  /// Two short distillations whose plans differ in the operator and the rate; the first is older.
  private func distilled(_ scratch: Scratch) throws -> [String] {
    let data = try scratch.tinyLatents()
    return try [("sliding", "swa", 1e-3), ("Hyena odd", "hyena_x", 2e-3)].map {
      (name, op, rate) in
      try scratch.tinyPlan {
        $0.name = name
        $0.data = data
        $0.edits = [SlotID(block: 1, slot: .attention): OperatorSpec(op)]
        $0.stage1.learningRate = rate
      }
      let outcome = try scratch.espalier("distill", "plan.json", "--json")
      try #require(outcome.code == 0, "\(outcome.complaint)")
      let run: RunSummary = try outcome.json()
      return try RunDirectory.open(run.run).id
    }
  }

  private func list(_ scratch: Scratch, _ arguments: String...) throws -> [String] {
    let rows: [Row] = try scratch.run(["runs", "list", "--json"] + arguments).json()
    return rows.map(\.id)
  }

  @Test func filtersOrdersNotesAndTags() throws {
    let scratch = try Scratch()
    let ids = try distilled(scratch)
    let (swa, hyena) = (ids[0], ids[1])
    #expect(try list(scratch) == [hyena, swa])
    #expect(try list(scratch, "--sort", "-age") == [swa, hyena])
    #expect(try list(scratch, "--sort", "name") == [hyena, swa])
    #expect(try list(scratch, "--filter", "op:swa") == [swa])
    #expect(try list(scratch, "--filter", "state:done kind:distill name:odd") == [hyena])
    #expect(try list(scratch, "--filter", "-op:swa engine:native") == [hyena])
    let none = try scratch.espalier("runs", "list", "--filter", "state:running")
    #expect(none.code == 0 && none.output.contains("none of 2 runs matches 'state:running'"))
    try scratch.expectRefusal(
      ["runs", "list", "--filter", "loss<"], code: 2, mentions: ["loss"])
    try scratch.expectRefusal(["runs", "list", "--sort", "size"], code: 2, mentions: ["size"])

    let tagged = try scratch.espalier("runs", "tag", swa, hyena, "--add", "paper", "--add", "v2")
    #expect(tagged.output == "\(swa): paper v2\n\(hyena): paper v2\n")
    let untagged = try scratch.espalier("runs", "tag", swa, "--remove", "paper", "--json")
    #expect(untagged.code == 0 && !untagged.output.contains("paper"))
    #expect(try list(scratch, "--filter", "tag:paper") == [hyena])
    try scratch.expectRefusal(["runs", "tag", swa, "--add", "two words"], mentions: ["two words"])

    #expect(try scratch.espalier("runs", "note", swa, "window of 4").output == "window of 4\n")
    #expect(try scratch.espalier("runs", "note", swa).output == "window of 4\n")
    #expect(try list(scratch, "--filter", "has:note") == [swa])
    #expect(try scratch.espalier("runs", "list").output.contains("#v2  “window of 4”"))
    #expect(try scratch.espalier("runs", "note", swa, "").output == "\n")
    #expect(try list(scratch, "--filter", "has:note").isEmpty)
  }

  @Test func onlyDifferencesAreCompared() throws {
    let scratch = try Scratch()
    let ids = try distilled(scratch)
    let rows: [Difference] = try scratch.run(["compare", "--differences", "--json"] + ids).json()
    let byKey = Dictionary(uniqueKeysWithValues: rows.map { ($0.key, $0.values) })
    #expect(byKey["stage1.learning_rate"] == ["0.001", "0.002"])
    let edit = try #require(rows.first { $0.key.hasPrefix("attention of ") }?.values)
    #expect(edit[0]?.hasPrefix("swa") == true && edit[1]?.hasPrefix("hyena_x") == true)
    #expect(byKey["stage1.steps"] == nil && byKey["stage1.batch_size"] == nil)
    let same = try scratch.espalier("compare", "--differences", ids[0], ids[0])
    #expect(same.output == "the plans do not differ\n")
    try scratch.expectRefusal(
      ["compare", "--differences", "--markdown", ids[0]], code: 2, mentions: ["--differences"])
  }

  @Test func removalIsOfAllOrOfNone() throws {
    let scratch = try Scratch()
    let ids = try distilled(scratch)
    let dry = try scratch.espalier("runs", "remove", ids[0], "--dry-run")
    #expect(dry.code == 0 && dry.output.contains("would be freed"))
    #expect(Set(try list(scratch)) == Set(ids))
    // One of two runs is still active.
    let data = try scratch.tinyLatents(count: 40)
    try scratch.tinyPlan(steps: 5_000_000, batch: 4) { $0.data = data }
    let busy = try scratch.espalier("distill", "plan.json", "--detach")
    let run = try RunDirectory.open(busy.output.trimmingCharacters(in: .whitespacesAndNewlines))
    let refused = try scratch.espalier("runs", "remove", ids[1], run.id)
    #expect(refused.code == 1 && refused.complaint.contains("cancel it first; nothing was removed"))
    #expect(try list(scratch).contains(ids[1]))
    _ = try scratch.espalier("runs", "cancel", run.id, "--hard")
    let removed = try scratch.espalier("runs", "remove", ids[1], ids[1])
    #expect(removed.code == 0 && removed.output.hasPrefix("\(ids[1])\n1 run, "))
    #expect(try list(scratch) == [run.id, ids[0]])
    #expect(!scratch.exists("\(scratch.runs)/\(ids[1])"))
  }
}
