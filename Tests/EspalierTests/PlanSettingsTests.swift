import Foundation
import Plans
import Testing

/// `espalier plan set KEY=VALUE`, and the page that lists the keys.
@Suite struct PlanSettingsTests {
  @Test func theDocumentationIsCurrent() throws {
    let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
      .deletingLastPathComponent().deletingLastPathComponent()
    let page = try String(contentsOf: root.appending(path: "docs/settings.md"), encoding: .utf8)
    let listed = try Scratch().espalier("plan", "settings")
    #expect(
      listed.output == page,
      "docs/settings.md is out of date; run 'espalier plan settings > docs/settings.md'")
    let lines = page.split(separator: "\n")
    #expect(lines.count > 60 && lines.allSatisfy { $0.count <= 120 })
    let help = try Scratch().espalier("plan", "set", "--help").output
    for (section, rows) in GraftPlan.sections {
      for row in rows where !row.traits.contains(.siteOnly) {
        #expect(help.contains(section.isEmpty ? row.key : "\(section).\(row.key)"))
      }
    }
  }

  @Test func assignsSettingsByKey() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let set = try scratch.espalier(
      "plan", "set", "plan.json", "stage1.steps=500", "stage1.overrides.1.attention.loss=l2",
      "stage2.learning_rate=2e-4", "name=a=b", "--batch", "3")
    #expect(set.code == 0, "\(set.complaint)")
    #expect(set.output.contains("core FLOPs"))
    let plan = try GraftPlan.load(path: "\(scratch.path)/plan.json")
    #expect(plan.stage1.steps == 500 && plan.stage1.batchSize == 3 && plan.name == "a=b")
    #expect(plan.stage2.learningRate == 2e-4)
    let attention = GraftSite.slot(SlotID(block: 1, slot: .attention))
    #expect(plan.stage1.overrides[attention]?.loss == .l2)
    try scratch.expectRefusal(
      ["plan", "set", "plan.json", "stage1.steps=0"],
      mentions: ["plan.json: stage1.steps: expected 1 to 10000000, found 0"])
    try scratch.expectRefusal(
      ["plan", "set", "plan.json", "stage1.steps"], code: 2, mentions: ["KEY=VALUE"])
    // Nothing of a refused command is written.
    try scratch.expectRefusal(
      ["plan", "set", "plan.json", "seed=9", "stage1.stepz=1"], mentions: ["stage1.stepz"])
    #expect(try GraftPlan.load(path: "\(scratch.path)/plan.json") == plan)
  }

  @Test func pathsOfTheCommandLine() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    try FileManager.default.createDirectory(
      atPath: "\(scratch.path)/sub", withIntermediateDirectories: true)
    try FileManager.default.copyItem(
      atPath: "\(scratch.path)/plan.json", toPath: "\(scratch.path)/sub/plan.json")
    for option in [["--data", "d"], ["data.path=d"]] {
      #expect(try scratch.run(["plan", "set", "plan.json"] + option).code == 0)
      #expect(try scratch.text("plan.json").contains(#""data": {"path": "d", "flip": true}"#))
      #expect(try scratch.run(["plan", "set", "sub/plan.json"] + option).code == 0)
      #expect(
        try scratch.text("sub/plan.json").contains("\"data\": {\"path\": \"\(scratch.path)/d\""))
    }
    #expect(try scratch.espalier("plan", "set", "plan.json", "--data", "shapes").code == 0)
    #expect(try !scratch.text("plan.json").contains("\"data\""))
    try scratch.expectRefusal(
      ["plan", "set", "plan.json", "data.path="], mentions: ["data.path: expected a text of 1"])
    for command in [["plan", "set"], ["distill"], ["finetune"]] {
      let refused = try scratch.run(command + ["plan.json", "--data", ""])
      #expect(refused.code == 2 && refused.complaint.contains("--data is empty"), "\(command)")
    }
  }
}
