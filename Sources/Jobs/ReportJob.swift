import Files
import Foundation
import Reports
import Runs

/// Measurements of trained grafts, and the report page of them.
///
/// Measurements are written to the measured runs, the page to this one.
struct ReportJob {
  let context: JobContext

  func perform(_ request: ReportRequest, writesPage: Bool) throws -> String {
    let root = context.run.root
    let facts = try request.runs.map { name in
      try RunFacts(RunDirectory.open(name.contains("/") ? name : "\(root)/\(name)"))
    }
    try context.emit(.started(pid: getpid(), totalSteps: facts.count))
    var throttle = Throttle()
    let runs = try facts.map { facts in
      (
        facts: facts,
        measurements: try Measuring(
          facts, parts: writesPage ? Set(Measuring.Part.allCases) : [.judged, .speed],
          images: request.images
        ) { label, done, total in
          try context.checkpoint(step: done)
          if throttle.isDue() || done == total {
            try context.emit(.progress(done: done, total: total, label: label))
          }
        }.measure(samples: request.samples, steps: request.steps)
      )
    }
    if let index = runs.firstIndex(where: { $0.measurements == nil }) {
      throw FileError(
        "\(facts[index].run.path): has no checkpoint, so there is nothing to measure; wait for its first"
          + " one")
    }
    for line in Comparison(runs).text.split(separator: "\n") {
      try context.emit(.message(String(line)))
    }
    guard writesPage else {
      return "\(facts.count == 1 ? "1 run" : "\(facts.count) runs") measured"
    }
    let page = request.page ?? "\(context.run.path)/report.html"
    try ReportPage(runs).write(to: page)
    return "report in \(page)"
  }
}
