import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Runs
import Search
import TensorCore
import Text

/// `espalier search`: the best plans of a model for some budgets.
struct SearchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "search",
    abstract: "Find the best plans for budgets of time, FLOPs, parameters or memory.",
    discussion: """
      Chooses among the operators of the model's library ('espalier library build') by an exact dynamic \
      programme over all budgets, evaluates diverse plans whole, improves the best, and shows them beside \
      baselines that save as much: interleaved, last, lowest and highest locality, and random blocks, each \
      with the operator that suits it best, and the teacher with step caching. Errors are those of the guided \
      prediction relative to the teacher, before and after a short stage 2; with several seeds all rows have \
      the same noise, and differences to the first row have 95 % intervals.
      """)

  @Argument(
    help: .init(
      "A plan, whose edits are kept and whose data and stage 2 are used, or a model. \(modelHelp)"))
  var model = "demo"
  @Option(
    help: .init(
      "What may be spent, such as time=0.8: a fraction of the teacher's time, flops, parameters or memory; may be"
        + " repeated for the same measure.", valueName: "measure=fraction"))
  var budget: [String] = ["time=0.8"]
  @Option(
    help: .init("Slots that keep the teacher's operator, such as 7.attention; may be repeated."))
  var keep: [String] = []
  @Option(help: "Largest number of different operators.") var mostOperators: Int?
  @Option(help: "Diverse plans that are evaluated whole for each budget.") var pool = 6
  @Option(help: "Slots in which these differ at least.") var distance = 4
  @Option(help: "Single changes of the best plan that are tried.") var swaps = 6
  @Option(help: "Plans of the search for each budget that are reported.") var finalists = 2
  @Option(help: "Steps of stage 2 before the second error; 0 for none.") var recoverySteps = 40
  @Option(help: "Seeds of noise and stage 2 with which every row is measured, 1 to 30.") var seeds =
    1
  @Option(
    help: .init(
      "Images of every row and seed that are compared with the teacher's from the same noise, at least 2 (default:"
        + " none)."))
  var images: Int?
  @Option(help: "Noisy samples of the errors.") var samples = ScoreSettings().samples
  @Option(help: "Images of a timed forward pass, as the library was built with.")
  var batch = ScoreSettings().timingBatch
  @OptionGroup var root: LibraryCommand.RootOptions
  @OptionGroup var launch: LaunchOptions
  @OptionGroup var runs: RunsOptions
  @OptionGroup var output: OutputOptions

  /// The measure of all budgets, and their fractions.
  private func budgets() throws -> (Measure, [Double]) {
    let parts = budget.map { $0.split(separator: "=", maxSplits: 1).map(String.init) }
    let measures = Set(parts.map { $0.first ?? "" })
    guard measures.count == 1, let measure = measures.first.flatMap(Measure.init) else {
      throw ValidationError(
        "--budget: give one of \(Measure.allCases.map(\.rawValue).joined(separator: ", ")) as measure=fraction, the"
          + " same for all, such as time=0.8")
    }
    let fractions = try zip(parts, budget).map { part, text in
      guard part.count == 2, let value = Double(part[1]), (1e-3...1).contains(value) else {
        throw ValidationError(
          "--budget: '\(text)' is no measure=fraction with a fraction above 0, at most 1")
      }
      return value
    }
    return (measure, fractions)
  }

  func validate() throws {
    _ = try budgets()
    if let bad = keep.first(where: { SlotID($0) == nil }) {
      throw ValidationError("--keep: '\(bad)' is no slot; give one such as 7.attention")
    }
    try require("--images", images, in: SearchRequest.imageRange)
    for (name, value, range) in [
      ("--seeds", seeds, SearchRequest.seedRange),
      ("--pool", pool, 1...100), ("--distance", distance, 1...1000), ("--swaps", swaps, 0...1000),
      ("--finalists", finalists, 1...100), ("--recovery-steps", recoverySteps, 0...1_000_000),
      ("--samples", samples, 1...100_000), ("--batch", batch, 1...4096),
      ("--most-operators", mostOperators ?? 1, 0...64),
    ] where !range.contains(value) {
      throw ValidationError("\(name) is \(value); give \(range.lowerBound) to \(range.upperBound)")
    }
  }

  func run() throws {
    let (measure, fractions) = try budgets()
    let plan = try PlanOrModel(model, name: "search").plan
    var request = SearchRequest(
      planPath: "plan.json", measure: measure.rawValue, budgets: fractions)
    (request.kept, request.mostOperators, request.pool) = (keep, mostOperators, pool)
    (request.distance, request.swaps, request.finalists) = (distance, swaps, finalists)
    (request.recoverySteps, request.seeds, request.images) = (recoverySteps, seeds, images)
    request.score = ScoreSettings(of: plan.model.shape.family)
    request.score.samples = samples
    request.score.timingBatch = batch
    request.root = root.library.map { URL(filePath: $0).path }
    let run = try launch.begin(.search(request), plan: plan, root: runs.root)
    guard launch.follows else {
      if output.json { return try output.printJSON(["run": run.path]) }
      return print(run.path)
    }
    try RunReport.follow(run, output: output, tellsDone: false)
    let path = "\(run.path)/\(SearchReport.fileName)"
    if output.json {
      return print(
        json: String(decoding: try AtomicFile.read(path, limit: 64 << 20), as: UTF8.self))
    }
    print(lines: Self.table(try SearchReport.read(in: run.path), in: run.path))
  }

  private static func table(_ report: SearchReport, in folder: String) -> String {
    var lines = [
      "teacher \(short(1000 * report.teacherSeconds)) ms; \(report.candidates) candidates; all budgets solved in"
        + " \(short(report.solveMilliseconds)) ms"
    ]
    if let warning = report.timeWarning { lines.append("warning: \(warning)") }
    let columns = Array(Self.columns.prefix(report.images == nil ? 7 : 9))
    for budget in report.budgets {
      lines.append("")
      lines.append("\(report.measure) \(numberText(budget.fraction)) of the teacher's")
      if budget.rows.isEmpty {
        let least = report.front.map(\.fraction).min() ?? 1
        lines.append("no plan meets it: the library's operators reach \(short(least))")
        continue
      }
      lines.append(columns.map { TextWidth.pad($0.title, $0.width) }.joined())
      for row in budget.rows {
        let cells = columns.map { TextWidth.pad($0.text(row) ?? "-", $0.width) }.joined()
        let cache = row.cache.map { "--cache \(short($0.threshold))" }
        lines.append(cells + (row.plan ?? cache ?? ""))
      }
      let notes = [
        budget.rankAgreement.map { "sums rank whole errors with \(short($0))" },
        budget.recoveryAgreement.map { "errors rank those after stage 2 with \(short($0))" },
      ].compactMap(\.self)
      if !notes.isEmpty { lines.append(notes.joined(separator: "; ") + " (Spearman)") }
    }
    lines.append("")
    if let seeds = report.seeds, seeds > 1 {
      lines.append(
        "\(seeds) seeds: means ± standard errors; differences to the first row ± half of a 95 % interval"
      )
    }
    if let own = report.teacherAgreements {
      lines.append("the teacher agrees with the judge in \(percent(own.mean)) of the images")
    }
    lines.append("plans in \(folder)")
    return lines.joined(separator: "\n")
  }

  /// A column of the table: title, width and what it says of a row; nil for nothing.
  private typealias Column = (title: String, width: Int, text: (SearchReport.Row) -> String?)

  /// Columns of the table; the last two are of compared images.
  private static var columns: [Column] {
    [
      ("plan", 22, { $0.origin }),
      ("changes", 9, { $0.cache == nil ? String($0.changes.count) : nil }),
      ("time", 9, { $0.timeFraction.map(short) }),
      ("sum", 11, { $0.cache == nil ? short($0.sum) : nil }),
      ("error", 18, { text($0.error, $0.errorStandardError) }),
      (
        "after stage 2", 18,
        { row in row.recoveredError.map { text($0, row.recoveredStandardError) } }
      ),
      ("less the first", 20, { $0.errorDifference.map { text($0.mean, $0.halfWidth) } }),
      ("distance", 18, { $0.distances.map { text($0.mean, $0.standardError) } }),
      ("agreement", 11, { $0.agreements.map { percent($0.mean) } }),
    ]
  }

  /// A value with its uncertainty.
  private static func text(_ value: Double, _ error: Double?) -> String {
    error.map { "\(short(value)) ± \(short($0))" } ?? short(value)
  }
}
