import Foundation
import Plans
import Reports
import Runs
import Search
import TestSupport
import Testing

/// The section of a search on the HTML page.
@Suite struct SearchPageTests {
  private func report() -> SearchReport {
    func row(_ origin: String, _ count: Int, _ error: Double, _ recovered: Double?)
      -> SearchReport.Row
    {
      var row = SearchReport.Row(
        origin: origin, changes: (0..<count).map { "\($0).mlp r3" }, sum: error / 2,
        errors: [Estimate(value: error, standardError: error / 8)], fraction: 0.79,
        plan: "plan-1-1.json")
      (row.recoveredError, row.recoveredStandardError) = (recovered, recovered.map { $0 / 16 })
      (row.seconds, row.timeFraction) = (0.0056, 0.8125)
      return row
    }
    return SearchReport(
      measure: "time", teacherSeconds: 0.007, candidates: 476, solveMilliseconds: 81.5,
      front: [
        .init(fraction: 1, sum: 0, changes: []),
        .init(fraction: 0.9, sum: 0.001, changes: ["1.mlp r3"]),
        .init(fraction: 0.7, sum: 0.1, changes: ["1.mlp r3", "2.mlp r3"]),
      ],
      budgets: [
        .init(
          fraction: 0.8,
          rows: [
            row("search", 17, 0.004, 0.002), row("<interleaved>", 8, 0.25, 0.125),
            row("random 0", 9, 0.5, nil),
          ], rankAgreement: 0.9375, neighborLoss: 0.0625, recoveryAgreement: 0.75),
        .init(
          fraction: 0.1, rows: [], rankAgreement: nil, neighborLoss: 0, recoveryAgreement: nil),
      ])
  }

  @Test func aSearchHasPlotAndTable() throws {
    let scratch = try Scratch()
    let run = try scratch.searchRun("best <plans>")
    #expect(throws: (any Error).self) { try SearchFacts(run) }
    try report().write(in: run.path)
    #expect(SearchFacts.isSearch(run))
    let html = try ReportPage([], searches: [SearchFacts(run)]).html()
    #expect(html.contains("best &lt;plans&gt;: search for the best plans"))
    #expect(html.contains("476 scored operators") && html.contains("7 ms for a forward pass"))
    // The front without its first point, whose error has no logarithm, and the three plans.
    let svg = try #require(html.range(of: "<svg").map { html[$0.lowerBound...] })
    let path = try #require(
      svg.firstMatch(of: /<polyline class="train" points="([^"]*)"/)?.output.1)
    #expect(path.split(separator: " ").count == 2)
    #expect(html.components(separatedBy: "class=\"held\" cx").count == 2)
    #expect(html.components(separatedBy: "class=\"baseline\" cx").count == 3)
    // Budgets to the right and errors upwards.
    let ends = path.split(separator: " ").map { $0.split(separator: ",").compactMap { Double($0) } }
    #expect(ends[0][0] > ends[1][0] && ends[0][1] > ends[1][1])
    #expect(html.contains("0.70 of the teacher&#39;s time = 4.9 ms"))
    // The table has intervals, its best line is marked, and the ranks stand below.
    #expect(html.contains("0.004 ± 0.0005") && html.contains("0.002 ± 0.000125"))
    #expect(html.contains("&lt;interleaved&gt;") && html.contains("× 0.812"))
    #expect(html.contains("<tr class=\"front\"><td>search</td>"))
    #expect(html.contains("Sums rank the errors of whole plans with 0.9375"))
    #expect(html.contains("errors rank those after stage 2 with 0.75"))
    #expect(html.contains("add 0.0625 each") && html.contains("No plan of the library"))
    // What is read back is what was written.
    #expect(try SearchReport.read(in: run.path).budgets.first?.rows.count == 3)
    // Times that disagree by more than a tenth are told, in either direction.
    for (seconds, isTold) in [(0.0075, false), (0.0066, false), (0.0078, true), (0.0062, true)] {
      var other = report()
      other.libraryTeacherSeconds = seconds
      #expect((other.timeWarning != nil) == isTold, "\(seconds)")
      try other.write(in: run.path)
      let page = try ReportPage([], searches: [SearchFacts(run)]).html()
      #expect(page.contains("beside other work") == isTold)
    }
    try Data("{}".utf8).write(to: URL(filePath: run.path + "/" + SearchReport.fileName))
    #expect(throws: (any Error).self) { try SearchFacts(run) }
  }
}

extension Scratch {
  /// A run directory of a search.
  fileprivate func searchRun(_ name: String) throws -> RunDirectory {
    try RunDirectory.create(
      root: path,
      job: JobRequest(
        job: .search(SearchRequest(planPath: "plan.json", measure: "time", budgets: [0.8])),
        name: name, createdAt: 1_763_694_000, codeVersion: "0", modelHash: "c0ffee"),
      plan: plan(name))
  }
}
