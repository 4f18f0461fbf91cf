import Foundation
import Plans
import Testing

/// Names, paths and echoes from outside reach neither the terminal nor a report raw, and no refusal is long.
@Suite struct OutsideTextTests {
  private static let hostile = "n\u{1b}]0;t\u{7}\u{9b}31m\u{202e}\u{200b}日本\rx"
  private static let misleading = "m\u{202e}\u{200b}日本e\u{301}"
  private static let long = String(repeating: "long", count: 1250)

  /// The scalars of a text that a terminal obeys or that nobody sees.
  private func obeyed(_ text: String) -> [String] {
    text.unicodeScalars.filter {
      let properties = $0.properties
      return properties.generalCategory == .control && $0 != "\n"
        || properties.isDefaultIgnorableCodePoint
    }.map { String($0.value, radix: 16) }
  }

  private func expectHarmless(
    _ scratch: Scratch, _ arguments: [String], code: Int32 = 0, shows: String? = nil,
    at location: SourceLocation = #_sourceLocation
  ) throws {
    let outcome = try scratch.run(arguments)
    let comment = Comment("\(arguments.map { String($0.prefix(60)) }): \(outcome.complaint)")
    #expect(outcome.code == code, comment, sourceLocation: location)
    #expect(obeyed(outcome.output) == [], comment, sourceLocation: location)
    #expect(obeyed(outcome.complaint) == [], comment, sourceLocation: location)
    #expect(outcome.complaint.count < 1400, comment, sourceLocation: location)
    if let shows {
      #expect(
        (outcome.output + outcome.complaint).contains(shows), comment, sourceLocation: location)
    }
    if arguments.contains("--json") {
      #expect(throws: Never.self, comment, sourceLocation: location) {
        try JSONSerialization.jsonObject(with: Data(outcome.output.utf8))
      }
    }
  }

  @Test func filesWithHostileNames() throws {
    let scratch = try Scratch()
    let name = Self.hostile + ".safetensors"
    _ = try scratch.tinyModel(name, classNames: [Self.hostile, "b\nc"] + (2..<10).map { "c\($0)" })
    let shown = "n\\u{1b}]0;t\\u{7}\\u{9b}31m\\u{202e}\\u{200b}日本"
    // A plan takes no control characters, but what else misleads.
    let plan = "p\(Self.misleading).json"
    _ = try scratch.tinyModel(Self.misleading)
    for json in [[], ["--json"]] {
      try expectHarmless(scratch, ["inspect", name, "--tensors"] + json)
      try expectHarmless(
        scratch,
        ["plan", "new", plan, "--force", "--model", Self.misleading, "--name", Self.misleading]
          + json)
      try expectHarmless(scratch, ["plan", "show", plan] + json)
      try expectHarmless(scratch, ["plan", "validate", plan] + json)
      try expectHarmless(scratch, ["runs", "--runs", Self.hostile] + json)
    }
    try expectHarmless(scratch, ["inspect", name], shows: "\(shown)\\rx.safetensors")
    try expectHarmless(scratch, ["inspect", name], shows: "classes: \(shown)\\rx, b\\nc")
    try expectHarmless(
      scratch, ["plan", "new", "p.json", "--model", name, "--name", Self.hostile], code: 1)
    try expectHarmless(
      scratch, ["sample", "\(Self.hostile).pt", "--output", "x.png"], code: 1, shows: shown)
    try expectHarmless(scratch, ["runs", "show", Self.hostile], code: 1, shows: shown)
    try expectHarmless(scratch, [Self.hostile], code: 2, shows: shown)
    try expectHarmless(
      scratch, ["sample", name, "--classes", Self.hostile, "--output", "x.png"], code: 2)
  }

  @Test func aRunWithAHostileName() throws {
    let scratch = try Scratch()
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan {
      $0.name = Self.misleading + " | <b>"
      $0.data = data
    }
    try expectHarmless(scratch, ["distill", "plan.json"])
    let id = try #require(
      try FileManager.default.contentsOfDirectory(atPath: scratch.runs).first { !$0.hasPrefix(".") }
    )
    for json in [[], ["--json"]] {
      try expectHarmless(scratch, ["runs"] + json)
      try expectHarmless(scratch, ["runs", "show", id] + json)
      try expectHarmless(scratch, ["runs", "wait", id] + json)
      try expectHarmless(scratch, ["compare", id] + json)
    }
    try expectHarmless(scratch, ["compare", id, "--markdown"], shows: "日本e\u{301} \\| <b>")
    try expectHarmless(
      scratch, ["report", id, "--samples", "20", "--steps", "2", "--output", "report.html"])
    let page = try scratch.text("report.html")
    #expect(obeyed(page) == [] && page.contains("m\\u{202e}\\u{200b}日本") && !page.contains("<b>"))
    // Lines of a log are lines, and nothing else of them is obeyed.
    let log = try FileHandle(forWritingTo: URL(fileURLWithPath: "\(scratch.runs)/\(id)/log.txt"))
    try log.seekToEnd()
    try log.write(contentsOf: Data("one\u{1b}[2Jtwo\nthree\n".utf8))
    try expectHarmless(scratch, ["runs", "show", id], shows: "one\\u{1b}[2Jtwo\nthree")
  }

  @Test(arguments: [
    ["\(long)"], ["sample", "\(long)", "--output", "x.png"], ["inspect", "\(long)"],
    ["sample", "model.safetensors", "--output", "x.png", "--classes", "\(long)"],
    ["sample", "model.safetensors", "--output", "\(long)"], ["sample", "--\(long)"],
    ["sample", "model.safetensors", "--seed", "\(long)", "--output", "x.png"],
    ["plan", "new", "p.json", "--model", "\(long)"], ["plan", "set", "\(long)"],
    ["plan", "set", "plan.json", "--operator", "\(long)"],
    ["plan", "set", "plan.json", "--blocks", "\(long)", "--operator", "skip"],
    ["plan", "set", "plan.json", "--blocks", "0", "--operator", "mlp", "--set", "\(long)=1"],
    ["plan", "show", "odd.json"], ["runs", "show", "\(long)"],
    ["runs", "--runs", "plan.json/\(long)"],
    ["convert", "model.safetensors", "--to", "\(long)"], ["parity", "\(long)"],
    ["bench", "--work", "\(long)"], ["distill", "plan.json", "--timeout", "\(long)"],
    ["plan", "import", "odd.yaml", "p.json"], ["runs", "clean", "\(long)"], ["\(long)", "\(long)"],
  ])
  func refusalsAreShort(arguments: [String]) throws {
    let scratch = try Scratch()
    try scratch.tinyPlan()
    try scratch.put("{\"\(Self.long)\": 1}", "odd.json")
    try scratch.put("\(Self.long): [\(Self.long), \"\u{7}", "odd.yaml")
    let outcome = try scratch.run(arguments)
    let comment = Comment(rawValue: String(outcome.complaint.prefix(3000)))
    #expect(outcome.complaint.count < 1300 && obeyed(outcome.complaint) == [], comment)
    // A directory of runs that is not there is an empty one.
    if arguments.first != "runs" || arguments.contains("show") {
      #expect([1, 2].contains(outcome.code) && outcome.complaint.hasPrefix("Error: "), comment)
    }
  }
}
