import Foundation
import Testing

/// A plan file with one thing wrong with it.
struct PlanFault: Sendable, CustomTestStringConvertible {
  let testDescription: String
  let find, replace: String
  let mentions: [String]

  init(_ name: String, _ find: String, _ replace: String, _ mentions: String...) {
    testDescription = name
    (self.find, self.replace, self.mentions) = (find, replace, mentions)
  }
}

/// Plans that must be refused, by every command that reads them, with file, line and key.
@Suite struct BadPlanTests {
  static let hyena = #"{"operator": "hyena_x", "config": {"short_filter_order": 4}}"#

  @Test(arguments: [
    PlanFault(
      "unknown operator", #""hyena_x""#, #""hyena_z""#, "plan.json:", "1.attention.operator",
      #"unknown operator "hyena_z", expected one of mha, swa, linear_attention"#),
    PlanFault(
      "wrong slot", hyena, #"{"operator": "mlp", "config": {}}"#, "plan.json:",
      "1.attention.operator", "mlp fits the mlp slot"),
    PlanFault(
      "block 28", #""block": 1,"#, #""block": 28,"#, "plan.json:", "blocks[1].block",
      "blocks 0 to 1, found 28"),
    PlanFault(
      "negative window", hyena, #"{"operator": "swa", "config": {"window_left": -1}}"#,
      "plan.json:", "1.attention.config.window_left", "expected 0 to 65536, found -1"),
    PlanFault(
      "unknown config key", "short_filter_order", "filter", "plan.json:",
      "1.attention.config.filter", "expected short_filter_order"),
    PlanFault(
      "unknown key", #""huber_delta""#, #""huber""#, "plan.json:", "stage1.huber",
      "expected one of mode"),
    PlanFault(
      "wrong JSON type", "\"streaming\",\n    \"steps\": 3,",
      "\"streaming\",\n    \"steps\": \"three\",", "plan.json:", "stage1.steps",
      #"expected a whole number, found the text "three""#),
    PlanFault(
      "unknown version", #""espalier_plan": 1"#, #""espalier_plan": 2"#, "plan.json:2:",
      "expected version 1, found 2"),
    PlanFault("no JSON", #""espalier_plan": 1,"#, #""espalier_plan" 1,"#, "plan.json:2:"),
    PlanFault(
      "another shape", #""hidden_size": 32"#, #""hidden_size": 64"#, "plan.json:",
      "model.hidden_size", "it says 64", "has 32"),
    PlanFault(
      "another content", #""content_hash": ""#, #""content_hash": "0000"#, "plan.json:",
      "model.content_hash", "made for other weights, it says 0000"),
  ])
  func refusesFaultyPlan(_ fault: PlanFault) throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let text = try scratch.text("plan.json")
    let faulty = text.replacingOccurrences(of: fault.find, with: fault.replace)
    try #require(faulty != text && text.components(separatedBy: fault.find).count == 2)
    try scratch.put(faulty, "plan.json")
    for command in [["plan", "validate", "plan.json"], ["distill", "plan.json"]] {
      try scratch.expectRefusal(command, mentions: fault.mentions)
    }
    try scratch.expectRefusal(
      ["sample", "model.safetensors", "--plan", "plan.json", "--output", "x.png"],
      mentions: fault.mentions)
  }

  @Test func refusesTruncatedPlan() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let text = try scratch.text("plan.json")
    try scratch.put(String(text.prefix(text.count / 2)), "plan.json")
    try scratch.expectRefusal(
      ["distill", "plan.json"], mentions: ["plan.json:", "not valid JSON", "correct the line"])
  }

  @Test func refusesPlanOfAnotherModel() throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    for command in ["sample", "evaluate"] {
      let output = command == "sample" ? ["--output", "x.png"] : []
      try scratch.expectRefusal(
        [command, "demo", "--plan", "plan.json"] + output,
        mentions: ["plan.json: model.depth: the plan was made for another model"])
    }
    try scratch.expectRefusal(
      ["plan", "validate", "plan.json", "--model", "demo"],
      mentions: ["plan.json: model.depth", "it says 2 and demo has 28"])
  }

  @Test func refusesEmptyPlan() throws {
    let scratch = try Scratch()
    let model = try scratch.tinyModel()
    #expect(try scratch.espalier("plan", "new", "empty.json", "--model", model).code == 0)
    try scratch.expectRefusal(
      ["distill", "empty.json"],
      mentions: ["empty.json: blocks: no slot is edited", "espalier plan set"])
  }

  @Test(arguments: [
    PlanFault("nothing", "", "", "nothing to change", "espalier plan set --help"),
    PlanFault("no blocks", "--operator mha", "", "--operator needs --blocks"),
    PlanFault("no operator", "--blocks odd", "", "--blocks needs --operator or --clear"),
    PlanFault("setting of nothing", "--config a=1", "", "--config needs --operator"),
    PlanFault(
      "both", "--blocks 1 --operator mha --clear mlp", "", "either --operator or --clear"),
    PlanFault(
      "misspelt operator", "--blocks odd --operator hyenax", "", "'hyenax' is unknown",
      "mha, swa, linear_attention"),
    PlanFault(
      "which slot", "--blocks 1 --operator skip", "", "skip fits both slots", "--slot attention"),
    PlanFault("slot of nothing", "--steps 4 --slot mlp", "", "--slot needs --operator"),
    PlanFault("misspelt slot", "--clear attn", "", "attn", "attention"),
    PlanFault(
      "no number", "--blocks 1 --operator swa --config window_left=wide", "",
      "'window_left=wide' is not of the form key=number", "window_left=4"),
    PlanFault("unknown option", "--step 3", "", "Unknown option '--step'", "--help"),
  ])
  func plainUsageErrors(_ fault: PlanFault) throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let options = fault.find.split(separator: " ").map(String.init)
    try scratch.expectRefusal(
      ["plan", "set", "plan.json"] + options, code: 2, mentions: fault.mentions)
  }

  @Test(arguments: [
    PlanFault(
      "block 28", "--blocks 28 --operator mha", "", "--blocks: 28", "outside 0 to 1"),
    PlanFault("no blocks", "--blocks some --operator mha", "", "--blocks:", "every 2"),
    PlanFault(
      "negative window", "--blocks 1 --operator swa --config window_left=-1", "",
      "plan.json: 1.attention.config.window_left: expected 0 to 65536, found -1"),
    PlanFault(
      "unknown setting", "--blocks 1 --operator swa --config wide=1", "",
      "plan.json: 1.attention.config.wide", "expected window_left, window_right"),
    PlanFault(
      "not a number", "--blocks 1 --operator mlp --config expansion_ratio=nan", "",
      "plan.json: 1.mlp.config.expansion_ratio"),
    PlanFault("no steps", "--steps 0", "", "plan.json: stage1.steps", "found 0"),
    PlanFault("infinite rate", "--learning-rate inf", "", "plan.json: stage1.learning_rate"),
  ])
  func impossibleSettings(_ fault: PlanFault) throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    let options = fault.find.split(separator: " ").map(String.init)
    try scratch.expectRefusal(["plan", "set", "plan.json"] + options, mentions: fault.mentions)
  }
}
