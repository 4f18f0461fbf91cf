import ArgumentParser
import Evaluation
import Files
import Foundation
import Plans
import Reports
import Runs
import Search
import Text

/// `espalier report`: results of trainings as an HTML page and as JSON.
struct ReportCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "report",
    abstract: "Measure trained grafts against their teachers and write an HTML report.",
    discussion: """
      The page is one HTML file that needs nothing else. What is measured (the judge's agreement and \
      Fréchet distance, sample grids, the time of a forward pass) is kept in the run as report.json and \
      taken from there as long as the run's weights stay the same; the first report of a run takes a \
      minute or more. Of a search the page shows the front of error and cost with the plans and baselines \
      that were evaluated, a table of them with standard errors, and rank correlations.
      """)

  @OptionGroup var selection: RunsSelection
  @Option(help: "The HTML file to write.") var output: String?
  @OptionGroup var drawing: MeasuringOptions
  @Option(help: "Images of each sample grid, at most one of every class; 0 for no grids.")
  var images = 10
  @OptionGroup var format: OutputOptions

  private struct Report: Encodable {
    let runs: [Entry]
    let comparison: [ComparisonRow]
    let evaluations: [EvaluationReport]?
    let searches: [SearchEntry]
  }

  private struct SearchEntry: Encodable {
    let run, name: String
    let report: SearchReport
  }

  private struct Entry: Encodable {
    let run: RunReport
    let plan: PlanSummary
    let measurements: Measurements?
    let messages: [String]
  }

  func validate() throws {
    guard output != nil || format.json else {
      throw ValidationError("there is nothing to write; give --output or --json")
    }
    try require("--images", images, in: ReportRequest.imageRange)
  }

  func run() throws {
    if let output { try AtomicFile.requireDestination(output) }
    let (facts, searches) = try selection.facts(andSearches: true)
    let evaluations = try selection.evaluations()
    let console = ProgressLine()
    let runs = try facts.map { facts in
      (
        facts: facts,
        measurements: try drawing.measure(
          facts, Set(Measuring.Part.allCases), images: images, console)
      )
    }
    console.finish()
    if let output {
      try ReportPage(runs, searches: searches, evaluations: evaluations).write(to: output)
    }
    if format.json {
      let entries = runs.map { facts, measurements in
        Entry(
          run: RunReport(facts.run, facts.summary, heldOut: facts.history.heldOut),
          plan: PlanSummary(facts.plan),
          measurements: measurements, messages: facts.history.messages)
      }
      try format.printJSON(
        Report(
          runs: entries, comparison: Comparison(runs).rows,
          evaluations: evaluations.isEmpty ? nil : evaluations.map(\.report),
          searches: searches.map {
            SearchEntry(run: $0.run.path, name: $0.name, report: $0.report)
          }))
    } else if let output {
      let count = runs.count + searches.count + evaluations.count
      print("\(output): \(count == 1 ? "1 run" : "\(count) runs")")
    }
  }
}

/// `espalier compare`: table of runs.
struct CompareCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "compare",
    abstract:
      "Print trained grafts beside each other, with the Pareto front of quality and cost marked.",
    discussion: """
      Shows what reports have measured before; --measure measures what is missing, without sample \
      grids. On the front is what no other line beats in quality (Fréchet distance where both have one, \
      otherwise the held-out loss where it measures the same: one stage, model and data, and in stage 1 \
      the same sites with the same regression losses) and cost (measured time over the teacher's where \
      both have one, otherwise FLOPs).
      """)

  @OptionGroup var selection: RunsSelection
  @Flag(help: "Measure agreement, Fréchet distance and time where they are missing.")
  var measure = false
  @OptionGroup var drawing: MeasuringOptions
  @Flag(help: "Print the table in Markdown.") var markdown = false
  @Flag(help: "Print instead the entries of the plans that differ, a column for each run.")
  var differences = false
  @OptionGroup var format: OutputOptions

  func validate() throws {
    guard !markdown || !format.json else {
      throw ValidationError("give either --markdown or --json, not both")
    }
    guard measure || drawing.isDefault else {
      throw ValidationError("--samples and --steps need --measure")
    }
    guard !differences || !markdown && !measure else {
      throw ValidationError("--differences excludes --markdown and --measure")
    }
  }

  private struct Difference: Encodable {
    let key: String
    let values: [String?]
  }

  func run() throws {
    if differences { return try printDifferences() }
    let evaluations = try selection.evaluations()
    if !evaluations.isEmpty { return try printEvaluations(evaluations) }
    let console = ProgressLine()
    let runs = try selection.facts().map { facts in
      (
        facts: facts,
        measurements: measure
          ? try drawing.measure(facts, [.judged, .speed], console)
          : try Measurements.cached(facts.run)
      )
    }
    console.finish()
    let comparison = Comparison(runs)
    if format.json { return try format.printJSON(comparison.rows) }
    print(lines: markdown ? comparison.markdown : comparison.text)
  }
}

extension CompareCommand {
  /// Prints numbers beside each other, and what keeps them from being compared.
  private func printEvaluations(_ evaluations: [(name: String, report: EvaluationReport)]) throws {
    guard try selection.facts().isEmpty else {
      throw ValidationError("compare trainings, or evaluations, but not both at once")
    }
    guard !measure, !markdown else {
      throw ValidationError("--measure and --markdown are for trainings")
    }
    let table = try EvaluationTable(evaluations)
    if format.json {
      return try format.printJSON(
        EvaluationComparison(evaluations: evaluations.map(\.report), mismatches: table.mismatches))
    }
    print(lines: table.lines.joined(separator: "\n"))
  }

  private struct EvaluationComparison: Encodable {
    let evaluations: [EvaluationReport]
    let mismatches: [String]
  }

  private func printDifferences() throws {
    let facts = try selection.facts()
    let rows = GraftPlan.differingEntries(of: facts.map(\.plan))
    if format.json {
      return try format.printJSON(rows.map { Difference(key: $0.key, values: $0.values) })
    }
    let headings = [""] + facts.map { "\($0.request.name) \($0.run.shortID)" }
    let cells = rows.map { [$0.key] + $0.values.map { $0 ?? "–" } }
    print(
      lines: rows.isEmpty
        ? "the plans do not differ"
        : TextWidth.table([headings] + cells, widest: 60).joined(separator: "\n"))
  }
}

/// Several runs by id or path.
struct RunsSelection: ParsableArguments {
  @Argument(
    help: .init(
      "Runs: ids, unique beginnings of them, or paths; or plan files, for the runs that hold their"
        + " weights.", valueName: "run|plan"))
  var ids: [String]
  @OptionGroup var mixture: MixtureOptions
  @OptionGroup var runs: RunsOptions

  /// Facts of the runs in the order given, but for evaluations.
  func facts() throws -> [RunFacts] {
    try facts(andSearches: false).trainings
  }

  /// Facts of the trainings, and of the searches where these are wanted.
  func facts(andSearches: Bool) throws -> (trainings: [RunFacts], searches: [SearchFacts]) {
    let all = try ids.flatMap { try runs(of: $0) }.filter { !Self.isEvaluation($0) }
    let searches = andSearches ? all.filter(SearchFacts.isSearch) : []
    return (
      try all.filter { !searches.contains($0) }.map { try RunFacts($0) },
      try searches.map { try SearchFacts($0) }
    )
  }

  /// The numbers of the evaluations among the runs, with unique names.
  func evaluations() throws -> [(name: String, report: EvaluationReport)] {
    let found = try ids.flatMap { try runs(of: $0, tells: false) }.filter(Self.isEvaluation)
    let names = try found.map { try $0.request().name }
    return try zip(found, names).map { run, name in
      let isShared = names.count { $0 == name } > 1
      return (isShared ? "\(name) \(run.shortID)" : name, try EvaluationReport(in: run))
    }
  }

  private static func isEvaluation(_ run: RunDirectory) -> Bool {
    (try? run.request().job.kind) == .evaluate
  }

  /// The run with a name, or those that hold the weights of a plan file.
  private func runs(of name: String, tells: Bool = true) throws -> [RunDirectory] {
    var isDirectory: ObjCBool = false
    guard FileManager.default.fileExists(atPath: name, isDirectory: &isDirectory),
      !isDirectory.boolValue
    else { return [try RunSelection.find(name, root: runs.root)] }
    let weights = PlanWeights(matching: try GraftPlan.load(path: name), root: runs.root)
    guard !weights.sources.isEmpty else {
      throw FileError(
        "\(name): no run in \(runs.root) trained an operator as the plan has it; distil it first")
    }
    if tells { try mixture.requireConsent(to: weights, plan: name) }
    return try weights.runs.map { try RunSelection.find($0, root: runs.root) }
  }
}

/// Numbers of samples and steps of measurements.
struct MeasuringOptions: ParsableArguments {
  @Option(help: "Images that the judge sees of each model (default: as measured before, else 100).")
  var samples: Int?
  @Option(help: "Denoising steps (default: as measured before, else 25).") var steps: Int?

  /// Whether no option is given.
  var isDefault: Bool { samples == nil && steps == nil }

  func validate() throws {
    try require("--samples", samples, in: DrawingSettings.sampleRange)
    try require("--steps", steps, in: DrawingSettings.stepRange)
  }

  /// Computes missing measurements of a run, with progress.
  func measure(
    _ facts: RunFacts, _ parts: Set<Measuring.Part>, images: Int = 0, _ console: ProgressLine
  ) throws -> Measurements? {
    try Measuring(facts, parts: parts, images: images) { label, done, total in
      console.update("\(facts.request.name): \(label) \(done)/\(total)")
    }.measure(samples: samples, steps: steps)
  }
}
