import Foundation
import Pictures
import Plans
import Reports
import Runs
import TestSupport
import Testing

/// The HTML page, held against what must and must not stand in it.
@Suite struct PageTests {
  private func page(_ runs: (facts: RunFacts, measurements: Measurements?)...) throws -> String {
    try ReportPage(runs).html()
  }

  /// Every element that opens closes, in order; nothing points outside the file.
  private func expectSound(_ html: String, at location: SourceLocation = #_sourceLocation) {
    var open: [String] = []
    var rest = html[...]
    while let start = rest.firstIndex(of: "<"), let end = rest[start...].firstIndex(of: ">") {
      let inside = rest[rest.index(after: start)..<end]
      rest = rest[rest.index(after: end)...]
      let name = String(inside.prefix { $0 != " " })
      if name.hasPrefix("/") {
        #expect(open.popLast() == String(name.dropFirst()), sourceLocation: location)
      } else if !["!DOCTYPE", "meta", "img"].contains(name) {
        open.append(name)
      }
    }
    #expect(open.isEmpty, sourceLocation: location)
    for outside in ["http:", "https:", "<script", "<link", "url(", "@import"] {
      #expect(!html.contains(outside), "\(outside)", sourceLocation: location)
    }
  }

  @Test func oneRun() throws {
    let scratch = try Scratch()
    let plan = scratch.plan("<b>\"odd\"</b> & co") {
      $0.edits[SlotID(block: 3, slot: .mlp)] = OperatorSpec("mlp", ["expansion_ratio": 3])
      $0.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("swa")
      $0.parallel[BlockPair(first: 0)] = .projection
    }
    let facts = try scratch.run(plan, heldOut: 0.5, messages: ["take <care>\u{1B}[31m"])
    let html = try page((facts, nil))
    expectSound(html)
    #expect(html.contains("&lt;b&gt;&quot;odd&quot;&lt;/b&gt; &amp; co"))
    #expect(html.contains("take &lt;care&gt;\\u{1b}[31m") && !html.contains("<care>"))
    #expect(html.contains("∥ projection") && html.contains("class=\"cell edited\""))
    // The mean, the pair and the MLP, each with both curves; one value is not finite.
    #expect(html.components(separatedBy: "<svg").count == 4)
    #expect(html.components(separatedBy: "<polyline class=\"held\"").count == 4)
    #expect(html.contains("Not drawn: 1 not finite"))
    #expect(html.contains("1.5 → 0.5") && html.contains("learning_rate"))
    #expect(html.contains("the run has no checkpoint yet"))
  }

  @Test func measuredRunsWithImages() throws {
    let scratch = try Scratch()
    let first = try scratch.run(scratch.plan("first"), heldOut: 0.5)
    var measured = try scratch.measure(first, distance: 2, ratio: 0.5)
    measured.grids = [SampleGrid(role: .after, path: "samples/x.png")]
    measured.gridLabels = ["disc"]
    let picture = RGBImage(width: 3, height: 2, grey: 9)
    try picture.write(to: first.run.resolve("samples/x.png"))
    let second = try scratch.run(scratch.plan("second"), stage: 2, heldOut: 0.25)
    let path = scratch.path + "/page.html"
    try ReportPage([(first, measured), (second, nil)]).write(to: path)
    let html = try String(contentsOfFile: path, encoding: .utf8)
    expectSound(html)
    let png = try Data(contentsOf: URL(fileURLWithPath: first.run.resolve("samples/x.png")))
    #expect(html.contains("data:image/png;base64,\(png.base64EncodedString())"))
    #expect(html.contains("alt=\"graft, after stage 1\"") && html.contains("width=\"6\""))
    #expect(html.contains("tr class=\"front\""))
    // Comparison first, then a section each.
    let places = ["Comparison", "id=\"run-1\"", "id=\"run-2\""].map {
      html.range(of: $0)?.lowerBound
    }
    #expect(
      places.allSatisfy { $0 != nil }
        && places.compactMap(\.self) == places.compactMap(\.self).sorted())
    #expect(html.contains("two fresh sets") && html.contains("× 0.5"))
  }

  /// Every number of a run's log and request replaced by extremes: the page and the table are made all the
  /// same, or the file is named.
  @Test(arguments: ["run.json", "events.jsonl", "report.json"])
  func damagedRunsAreReported(name: String) throws {
    let scratch = try Scratch()
    let plan = scratch.plan("p") {
      $0.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("skip")
    }
    let facts = try scratch.run(plan, heldOut: 0.5, messages: ["m"])
    _ = try scratch.measure(facts, distance: 2, ratio: 0.5)
    let path = "\(facts.run.path)/\(name)"
    let text = try String(contentsOfFile: path, encoding: .utf8)
    for damaged in Damage.of(text, values: 6) {
      try Data(damaged.utf8).write(to: URL(fileURLWithPath: path))
      do {
        let read = try RunFacts(facts.run)
        let measured = try Measurements.cached(facts.run)
        expectSound(try page((read, measured), (facts, nil)))
        #expect(Comparison([(read, measured), (facts, nil)]).text.contains("skip"))
      } catch {
        #expect("\(error)".hasPrefix(path), "\(error)")
        #expect(name != "events.jsonl")
      }
    }
  }
}
