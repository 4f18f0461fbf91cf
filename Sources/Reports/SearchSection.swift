import Files
import Foundation
import Runs
import Search

/// A search that is done, read from its run directory.
package struct SearchFacts: Sendable {
  /// The run directory.
  package let run: RunDirectory
  /// Name of the run.
  package let name: String
  /// What it has found.
  package let report: SearchReport

  /// Reads a search.
  ///
  /// - Throws: `FileError` if the run is not done or its report is damaged.
  package init(_ run: RunDirectory) throws {
    (self.run, name) = (run, try run.request().name)
    report = try SearchReport.read(in: run.path)
  }

  /// Whether a run is a search.
  package static func isSearch(_ run: RunDirectory) -> Bool {
    (try? run.request().job.kind) == .search
  }
}

/// Section of a report page for one search: the front with the evaluated plans, and a table of each budget.
struct SearchSection {
  let facts: SearchFacts
  /// Number of the section on the page.
  let number: Int

  private var report: SearchReport { facts.report }

  var html: HTML {
    var parts: [HTML] = [
      .tag("h2", ["id": "search-\(number)"], "\(facts.name): search for the best plans"),
      .table(
        ["", ""],
        [
          ["run", facts.run.id],
          ["teacher", "\(Figures.short(1000 * report.teacherSeconds)) ms for a forward pass"],
          ["candidates", "\(report.candidates) scored operators"],
          ["all budgets solved in", "\(Figures.short(report.solveMilliseconds)) ms"],
        ]),
    ]
    if let warning = report.timeWarning { parts.append(.tag("p", ["class": "note"], warning)) }
    if let chart = FrontChart(report: report).html {
      parts += [chart, .tag("p", ["class": "legend"], Self.legend)]
    }
    for budget in report.budgets { parts += section(budget) }
    parts.append(
      .tag(
        "p", ["class": "note"],
        "Errors are squared, of the guided prediction, relative to the teacher's, ± one standard error. The sum adds"
          + " the errors of single changes; the error is measured with all of them."))
    return .tag("section", [:], parts)
  }

  private static let legend =
    "── smallest sums of errors   ● plans of the search   ○ baselines, measured with all changes"

  private func section(_ budget: SearchReport.Budget) -> [HTML] {
    var parts: [HTML] = [
      .tag("h3", [:], "\(report.measure) \(Figures.short(budget.fraction)) of the teacher's")
    ]
    guard !budget.rows.isEmpty else {
      return parts + [.tag("p", ["class": "note"], "No plan of the library's operators meets it.")]
    }
    let best = budget.rows.map { $0.recoveredError ?? $0.error }.min()
    func estimate(_ value: Double, _ error: Double?) -> String {
      Figures.short(value) + (error.map { " ± \(Figures.short($0))" } ?? "")
    }
    parts.append(
      .table(
        [
          "plan", "changes", "time", "\(report.measure) by sums", "sum", "error", "after stage 2",
        ],
        budget.rows.map { row in
          [
            row.origin, "\(row.changes.count)",
            row.timeFraction.map { "× \(String(format: "%.3f", $0))" } ?? "–",
            String(format: "%.3f", row.fraction), Figures.short(row.sum),
            estimate(row.error, row.errorStandardError),
            row.recoveredError.map { estimate($0, row.recoveredStandardError) } ?? "–",
          ]
        }, numeric: Set(1...6),
        classes: budget.rows.map { ($0.recoveredError ?? $0.error) == best ? "front" : "" }))
    let ranks = [
      budget.rankAgreement.map { "Sums rank the errors of whole plans with \(Figures.short($0))" },
      budget.recoveryAgreement.map { "errors rank those after stage 2 with \(Figures.short($0))" },
    ].compactMap(\.self)
    if !ranks.isEmpty {
      parts.append(
        .tag("p", ["class": "note"], "\(ranks.joined(separator: "; ")) (Spearman's correlation)."))
    }
    if budget.neighborLoss > 0 {
      parts.append(
        .tag(
          "p", ["class": "note"],
          "Neighbouring changed blocks add \(Figures.short(budget.neighborLoss)) each."))
    }
    return parts
  }
}

/// The front of a search and its evaluated plans, error over the fraction of the teacher's amount, as inline SVG.
struct FrontChart {
  let report: SearchReport
  private let width = 720.0, height = 320.0
  private let margin = (left: 64.0, right: 12.0, top: 8.0, bottom: 26.0)

  init(report: SearchReport) { self.report = report }

  private struct Point {
    let fraction, error: Double
    let title: String
    let isBaseline: Bool
  }

  private var points: [Point] {
    report.budgets.flatMap(\.rows).map { row in
      let isTime = report.measure == Measure.time.rawValue
      return Point(
        fraction: isTime ? row.timeFraction ?? row.fraction : row.fraction, error: row.error,
        title:
          "\(row.origin): \(Figures.short(row.error)) ± \(Figures.short(row.errorStandardError))",
        isBaseline: !row.origin.hasPrefix("search"))
    }.filter { $0.fraction.isFinite && $0.error.isFinite && $0.error > 0 }
  }

  /// The chart; nil if there is nothing to show.
  var html: HTML? {
    let front = report.front.filter { $0.fraction.isFinite && $0.sum.isFinite && $0.sum > 0 }
    let points = points
    let fractions = front.map(\.fraction) + points.map(\.fraction)
    let exponents = (front.map(\.sum) + points.map(\.error)).map(log10)
    guard let left = fractions.min(), let right = fractions.max(), let low = exponents.min(),
      let high = exponents.max()
    else { return nil }
    let range = (low - 0.1)...(high + 0.1)
    func x(_ fraction: Double) -> Double {
      let share = right > left ? (fraction - left) / (right - left) : 0.5
      return margin.left + share * (width - margin.left - margin.right)
    }
    func y(_ error: Double) -> Double {
      let share = (log10(error) - range.lowerBound) / (range.upperBound - range.lowerBound)
      return height - margin.bottom - share * (height - margin.top - margin.bottom)
    }
    func number(_ value: Double) -> String { String(format: "%.1f", value) }
    func text(_ words: String, _ x: Double, _ y: Double, _ anchor: String) -> HTML {
      .tag("text", ["x": number(x), "y": number(y), "text-anchor": anchor], words)
    }
    var parts: [HTML] = [
      .tag("title", [:], "Error by \(report.measure), as a fraction of the teacher's")
    ]
    for tick in LossChart.ticks(range, limit: Int(height / 26)) {
      let at = number(y(tick))
      parts.append(
        .tag(
          "line",
          [
            "class": "grid", "x1": number(margin.left), "x2": number(width - margin.right),
            "y1": at, "y2": at,
          ], []))
      parts.append(text(Figures.short(tick), margin.left - 6, y(tick) + 4, "end"))
    }
    for (fraction, anchor) in [(left, "start"), (right, "end")] {
      let milliseconds =
        report.measure == Measure.time.rawValue
        ? " = \(Figures.short(1000 * report.teacherSeconds * fraction)) ms" : ""
      parts.append(
        text(
          "\(String(format: "%.2f", fraction)) of the teacher's \(report.measure)\(milliseconds)",
          x(fraction), height - 6, anchor))
    }
    let path = front.map { "\(number(x($0.fraction))),\(number(y($0.sum)))" }
    if path.count > 1 {
      parts.append(
        .tag("polyline", ["class": "train", "points": path.joined(separator: " ")], []))
    }
    for point in points {
      parts.append(
        .tag(
          "circle",
          [
            "class": point.isBaseline ? "baseline" : "held", "cx": number(x(point.fraction)),
            "cy": number(y(point.error)), "r": "4",
          ], [.tag("title", [:], point.title)]))
    }
    return .tag(
      "svg",
      [
        "viewBox": "0 0 \(number(width)) \(number(height))", "role": "img",
        "style": "max-width:720px",
      ],
      parts)
  }
}
