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
      baselines that save as much: interleaved, last, lowest and highest locality, and random blocks. Errors \
      are those of the guided prediction relative to the teacher, before and after a short stage 2.
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
    for (name, value, range) in [
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
    request.recoverySteps = recoverySteps
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
    let widths = [20, 9, 9, 11, 18, 18]
    func line(_ cells: [String]) -> String {
      zip(cells, widths).map { TextWidth.pad($0, $1) }.joined()
    }
    for budget in report.budgets {
      lines.append("")
      lines.append("\(report.measure) \(numberText(budget.fraction)) of the teacher's")
      if budget.rows.isEmpty {
        let least = report.front.map(\.fraction).min() ?? 1
        lines.append("no plan meets it: the library's operators reach \(short(least))")
        continue
      }
      lines.append(line(["plan", "changes", "time", "sum", "error", "after stage 2"]))
      for row in budget.rows {
        lines.append(
          line([
            row.origin, "\(row.changes.count)", row.timeFraction.map(short) ?? "-", short(row.sum),
            "\(short(row.error)) ± \(short(row.errorStandardError))",
            row.recoveredError.map { "\(short($0)) ± \(short(row.recoveredStandardError ?? 0))" }
              ?? "-",
          ]) + (row.plan ?? ""))
      }
      let notes = [
        budget.rankAgreement.map { "sums rank whole errors with \(short($0))" },
        budget.recoveryAgreement.map { "errors rank those after stage 2 with \(short($0))" },
      ].compactMap(\.self)
      if !notes.isEmpty { lines.append(notes.joined(separator: "; ") + " (Spearman)") }
    }
    lines.append("")
    lines.append("plans in \(folder)")
    return lines.joined(separator: "\n")
  }
}
