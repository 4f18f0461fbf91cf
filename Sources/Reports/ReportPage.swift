import Evaluation
import Files
import Foundation
import Plans
import Runs

/// Self-contained HTML report of one or several runs.
package struct ReportPage {
  private let runs: [(facts: RunFacts, measurements: Measurements?)]
  private let searches: [SearchFacts]
  private let comparison: Comparison
  private let evaluations: [(name: String, report: EvaluationReport)]

  /// Makes a report of trainings with their measurements, of searches and of evaluations.
  package init(
    _ runs: [(facts: RunFacts, measurements: Measurements?)], searches: [SearchFacts] = [],
    evaluations: [(name: String, report: EvaluationReport)] = []
  ) {
    (self.runs, self.searches, self.evaluations) = (runs, searches, evaluations)
    comparison = Comparison(runs)
  }

  /// Writes the page atomically.
  ///
  /// - Throws: `FileError` for an image that cannot be read or a page that cannot be written.
  package func write(to path: String) throws {
    try AtomicFile.write(Data(try html().utf8), to: path)
  }

  /// The page.
  ///
  /// - Throws: `FileError` for an image that cannot be read, or evaluations of several kinds.
  package func html() throws -> String {
    let names = runs.map(\.facts.request.name) + searches.map(\.name) + evaluations.map(\.name)
    let title = names.count == 1 ? names[0] : "\(names.count) runs"
    var body: [HTML] = [.tag("h1", [:], "Espalier report: \(title)")]
    if runs.count > 1 { body += comparisonTable }
    if !evaluations.isEmpty {
      body += [.tag("h2", [:], "Evaluations")] + (try EvaluationTable(evaluations)).html
    }
    for (index, run) in runs.enumerated() {
      body.append(
        try RunSection(facts: run.facts, measurements: run.measurements, number: index + 1).html())
    }
    for (index, search) in searches.enumerated() {
      body.append(SearchSection(facts: search, number: index + 1).html)
    }
    let head: [HTML] = [
      .void("meta", ["charset": "utf-8"]),
      .void("meta", ["name": "viewport", "content": "width=device-width, initial-scale=1"]),
      .tag("title", [:], "Espalier: \(title)"), .tag("style", [:], [.verbatim(Self.style)]),
    ]
    let page = HTML.tag(
      "html", ["lang": "en"], [.tag("head", [:], head), .tag("body", [:], body)])
    return "<!DOCTYPE html>\n\(page.markup)\n"
  }

  private var comparisonTable: [HTML] {
    [
      .tag("h2", [:], "Comparison"),
      .table(
        Comparison.headings, comparison.rows.map(Comparison.cells), numeric: Comparison.numeric,
        classes: comparison.rows.map { $0.isOnParetoFront ? "front" : "" }),
      .tag(
        "p", ["class": "note"],
        """
        ● marks the Pareto front: no other line is at least as good in quality and cost and better in \
        one. Quality is the Fréchet distance where both lines have one, otherwise the held-out loss \
        where it measures the same (one stage, model and data; in stage 1 the same sites with the same \
        regression losses); cost is the measured \
        time over the teacher's where both have one, otherwise the operations.\
        \(comparison.note.map { " " + $0 } ?? "")
        """),
    ]
  }

  /// Style sheet with light and dark schemes, and a print layout.
  private static let style = """
    :root{color-scheme:light dark;--ink:#1d2126;--quiet:#68707a;--paper:#fff;--line:#d9dde2;\
    --train:#2f6fb0;--held:#c2571a;--fill:62%;--tone:86%;--mark:#e8f2e4}
    @media (prefers-color-scheme:dark){:root{--ink:#dfe3e8;--quiet:#98a1ab;--paper:#15181c;\
    --line:#343a41;--train:#6fa8e0;--held:#f0935a;--fill:38%;--tone:28%;--mark:#22301f}}
    @media print{:root{color-scheme:light;--ink:#000;--quiet:#444;--paper:#fff;--line:#bbb;\
    --train:#1f5a96;--held:#a8430c;--fill:62%;--tone:86%;--mark:#e8f2e4}
    *{print-color-adjust:exact;-webkit-print-color-adjust:exact}body{max-width:none;padding:0}\
    section{break-before:page}figure,table,.plan{break-inside:avoid}}
    body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;\
    max-width:62rem;margin:0 auto;padding:1rem 1.5rem 4rem}
    h1{font-size:1.5rem}h2{font-size:1.25rem;border-top:2px solid var(--line);padding-top:1rem;\
    margin-top:2.5rem}h3{font-size:1rem;margin:1.6rem 0 .5rem}
    .wide{overflow-x:auto}table{border-collapse:collapse;font-size:.87rem}
    th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line);\
    vertical-align:top}th{color:var(--quiet);font-weight:500}
    .number{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
    tr.front td{background:var(--mark)}
    .note,.legend,figcaption{color:var(--quiet);font-size:.87rem}
    .plan{display:flex;flex-wrap:wrap;gap:4px;align-items:flex-start;max-width:58.5rem}
    .block{width:3.7rem}.blocks{display:flex;gap:4px}
    .pair{border:1px solid var(--quiet);border-radius:4px;padding:2px}
    .index,.merge{font-size:.7rem;color:var(--quiet);text-align:center}
    .cell{border:1px solid var(--line);border-radius:3px;height:1.35rem;line-height:1.35rem;\
    font-size:.68rem;text-align:center;overflow:hidden;white-space:nowrap;margin-top:2px}
    .edited{background:hsl(var(--hue) var(--fill) var(--tone));border-color:hsl(var(--hue) 40% 50%)}
    .swatch{display:inline-block;width:1rem;height:.8rem;border-radius:2px;vertical-align:-1px}
    figure{margin:.5rem 1rem .5rem 0;display:inline-block;vertical-align:top}
    figure img{image-rendering:pixelated;display:block;max-width:100%;height:auto}
    .legend{white-space:pre-wrap}
    svg{width:100%;height:auto;display:block}svg text{fill:var(--quiet);font:11px system-ui,sans-serif}
    svg .grid{stroke:var(--line)}polyline{fill:none;stroke-width:1.5}
    polyline.train{stroke:var(--train)}circle.train{fill:var(--train)}
    polyline.held{stroke:var(--held);stroke-dasharray:5 3}circle.held{fill:var(--held)}
    circle.baseline{fill:var(--paper);stroke:var(--quiet);stroke-width:1.5}
    .train-text{color:var(--train)}.held-text{color:var(--held)}
    .sites{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:.6rem}
    .sites figure{margin:0;break-inside:avoid}
    """
}
