import Evaluation
import Files
import Foundation
import Text

/// Table of evaluations beside each other: numbers, how they were obtained, and what keeps them from being compared.
package struct EvaluationTable {
  private let names: [String]
  private let reports: [EvaluationReport]

  /// Makes a table of named evaluations.
  ///
  /// - Throws: `FileError` for evaluations of several kinds, whose numbers never compare.
  package init(_ evaluations: [(name: String, report: EvaluationReport)]) throws(FileError) {
    (names, reports) = (evaluations.map(\.name), evaluations.map(\.report))
    guard let first = reports.first,
      let other = zip(names, reports).first(where: { !$0.1.isOfOneKind(with: first) })
    else { return }
    throw FileError(
      "\(other.0): holds numbers of another kind than \(names[0]), which do not compare; compare evaluations of"
        + " one kind")
  }

  /// Labels and numbers of a report, with their standard errors and intervals.
  package static func numbers(_ report: EvaluationReport) -> [(label: String, value: String)] {
    let (short, percent) = (Figures.short, Figures.percent)
    func interval(_ bounds: [Double]?) -> String {
      bounds.map { " (90 %: \(short($0[0])) to \(short($0[1])))" } ?? ""
    }
    switch report.numbers {
    case .set(let set):
      let isInception = set.spatialFrechetDistance != nil || set.inceptionScore != nil
      let rows: [(String, String?)] = [
        (
          isInception ? "FID" : "Fréchet distance",
          short(set.frechetDistance) + interval(set.frechetInterval)
        ),
        ("sFID", set.spatialFrechetDistance.map(short)),
        (
          "inception score",
          set.inceptionScore.map { value in
            short(value) + (set.inceptionScoreDeviation.map { " ± \(short($0))" } ?? "")
          }
        ),
        ("precision", set.precision.map(percent)), ("recall", set.recall.map(percent)),
        (
          "KID",
          set.kernelDistance.map { value in
            short(value) + (set.kernelDistanceDeviation.map { " ± \(short($0))" } ?? "")
          }
        ),
        ("CMMD", set.clipDiscrepancy.map(short)),
        (
          "sliced Wasserstein",
          set.slicedWasserstein.map { value in
            short(value) + (set.slicedWassersteinError.map { " ± \(short($0))" } ?? "")
          }
        ),
      ]
      return rows.compactMap { label, value in value.map { (label, $0) } }
    case .paired(let paired):
      func text(_ estimate: PairedDistance.Estimate) -> String {
        "\(short(estimate.value)) ± \(short(estimate.standardError))"
      }
      return [("paired distance, latents", text(paired.latents))]
        + (paired.features.map { [("paired distance, features", text($0))] } ?? [])
    case .judged(let judged):
      return [
        ("agreement (judge)", share(judged.agreement, judged.samples)),
        ("Fréchet distance (judge)", short(judged.frechetDistance)),
        ("  floor, two fresh sets", short(judged.frechetFloor)),
        ("precision (judge, k = 3)", share(judged.precision, judged.samples)),
        ("recall (judge, k = 3)", share(judged.recall, judged.samples)),
        ("score (judge)", short(judged.judgeScore)),
        ("judge on fresh images", percent(judged.judgeAccuracy)),
      ]
    }
  }

  /// A share of independent samples with its standard error.
  private static func share(_ value: Double, _ samples: Int) -> String {
    let error = (value * (1 - value) / Double(max(1, samples))).squareRoot()
    return "\(Figures.percent(value)) ± \(Figures.percent(error))"
  }

  /// Conditions in which the evaluations differ, in sentences; empty if their numbers compare.
  package var mismatches: [String] {
    let conditions = reports.map(\.provenance.conditions)
    let keys = Set(conditions.flatMap(\.keys)).sorted()
    return keys.compactMap { key in
      let values = conditions.map { $0[key] ?? "not stated" }
      guard Set(values).count > 1 else { return nil }
      let list = zip(names, values).map { "\($1) in \($0)" }.joined(separator: ", ")
      return "the numbers do not compare as they are: \(key) is \(list)"
    }
  }

  /// Restrictions on the numbers, and mismatches.
  package var notes: [String] {
    var seen: Set<String> = []
    return (reports.flatMap(\.provenance.notes) + mismatches).filter { seen.insert($0).inserted }
  }

  package var headings: [String] { [""] + names }

  /// A row for each number and each statement about how they were obtained, with a cell for each evaluation.
  package var rows: [[String]] {
    Self.merged(reports.map(Self.numbers))
      + Self.merged(reports.map { $0.provenance.entries.map { ($0.key, $0.value) } })
  }

  /// Rows by label, in the order of their first appearance.
  private static func merged(_ columns: [[(label: String, value: String)]]) -> [[String]] {
    var labels: [String] = []
    for (label, _) in columns.joined() where !labels.contains(label) { labels.append(label) }
    return labels.map { label in
      [label] + columns.map { column in column.first { $0.label == label }?.value ?? "–" }
    }
  }

  /// The lines of the table, and notes.
  package var lines: [String] {
    TextWidth.table((names.count > 1 ? [headings] : []) + rows, widest: names.count > 1 ? 44 : 200)
      + notes.map { "note: \($0)" }
  }

  var html: [HTML] {
    [.table(headings, rows)]
      + notes.map { .tag("p", ["class": "note"], "\($0.prefix(1).uppercased())\($0.dropFirst()).") }
  }
}
