import Files
import Foundation
import TensorCore
import Text

/// Result of one reference file.
package struct ParityResult: Sendable {
  /// The name of the case.
  package let name: String
  /// All comparisons.
  package let comparisons: [Comparison]
  /// Reason why the case did not complete, in one sentence; nil if it did.
  package let failure: String?

  /// Makes the result of a case from its comparisons.
  init(name: String, comparisons: [Comparison], failure: String?) {
    (self.name, self.comparisons, self.failure) = (name, comparisons, failure)
  }

  /// Collects the comparisons of a case without reference tensors; an error becomes its failure.
  init(_ name: String, collect: (inout [Comparison]) throws -> Void) {
    var comparisons: [Comparison] = []
    var failure: String?
    do {
      try collect(&comparisons)
    } catch {
      failure = String(describing: error)
    }
    self.init(name: name, comparisons: comparisons, failure: failure)
  }

  /// Whether the case ran and every comparison is within its tolerance.
  package var passes: Bool {
    failure == nil && !comparisons.isEmpty && comparisons.allSatisfy(\.passes)
  }

  /// The comparison of a kind with the largest error relative to its tolerance.
  package func worst(_ kind: Comparison.Kind) -> Comparison? {
    comparisons.filter { $0.kind == kind }.max { $0.strain < $1.strain }
  }
}

/// Results of a folder of reference files.
package struct ParityReport: Sendable {
  /// A file, a folder or a part of a file that is not supported.
  package struct Unsupported: Sendable, Codable, Equatable {
    package let name: String
    package let reason: String
  }

  /// The folder.
  package let directory: String
  /// Precision of the products in linear layers and convolutions.
  package let precision: Precision
  /// One result per supported file, by name.
  package private(set) var results: [ParityResult] = []
  /// Files and parts that were not run.
  package private(set) var unsupported: [Unsupported] = []

  /// Whether at least one case ran and all passed.
  package var passes: Bool { !results.isEmpty && results.allSatisfy(\.passes) }

  /// Runs every reference file of a folder.
  ///
  /// A damaged file is a failed case, not an error.
  /// - Parameters:
  ///   - directory: The folder, with files `*.safetensors`.
  ///   - precision: Precision of the products in linear layers and convolutions; bfloat16 skips
  ///     families without such layers.
  ///   - onResult: Called after each case.
  /// - Throws: `FileError` if the folder cannot be read or holds no reference file.
  package init(
    directory: String, precision: Precision = .float32,
    onResult: (ParityResult) -> Void = { _ in }
  ) throws {
    self.directory = directory
    self.precision = precision
    let folder = URL(filePath: directory)
    let entries: [String]
    do {
      entries = try FileManager.default.contentsOfDirectory(atPath: directory).sorted()
    } catch {
      let exists = FileManager.default.fileExists(atPath: directory)
      throw FileError(
        "\(directory): \(exists ? "is no folder that can be read" : "no such folder"), expected a"
          + " folder of reference files; check the path")
    }
    let files = entries.filter { $0.hasSuffix(".safetensors") }
    // A folder of one family by itself is run as a part of the folder above.
    let own = folder.standardizedFileURL.lastPathComponent
    let isPart =
      (ParityCase.hasFixtures(own) || ParityCase.family(of: own)?.runFolder != nil)
      && !files.contains { ParityCase.family(of: String($0.dropLast(12))) != nil }
    guard isPart || !files.isEmpty else {
      throw FileError(
        "\(directory): has no file *.safetensors, expected a folder of reference files; check the"
          + " path")
    }
    func add(_ result: ParityResult?) {
      guard let result else { return }
      results.append(result)
      onResult(result)
    }
    for entry in isPart ? [own] : entries {
      let path = isPart ? folder.path : folder.appending(path: entry).path
      if entry.hasSuffix(".safetensors") {
        add(run(String(entry.dropLast(".safetensors".count)), path: path))
        continue
      }
      // A folder holds expectations in other formats, fixtures, or both.
      if precision == .float32, let run = ParityCase.family(of: entry)?.runFolder {
        add(run(entry, path))
      }
      guard ParityCase.hasFixtures(entry) else { continue }
      for file in try FileManager.default.contentsOfDirectory(atPath: path).sorted()
      where file.hasSuffix(".safetensors") {
        add(run("\(entry)/\(file.dropLast(".safetensors".count))", path: "\(path)/\(file)"))
      }
    }
    unsupported.sort { $0.name < $1.name }
  }

  /// Runs one file; nil if it is not supported.
  private mutating func run(_ name: String, path: String) -> ParityResult? {
    var check: ParityCheck?
    do {
      let fixture = try Fixture(path: path)
      guard let family = ParityCase.family(of: name) else {
        unsupported.append(Unsupported(name: name, reason: "no case of this name is known"))
        return nil
      }
      guard precision == .float32 || family.hasRounding else {
        unsupported.append(Unsupported(name: name, reason: "is not checked in bfloat16"))
        return nil
      }
      if let reason = try family.refusal(fixture) {
        unsupported.append(Unsupported(name: name, reason: reason))
        return nil
      }
      let current = try ParityCheck(fixture, precision: precision)
      check = current
      try family.run(current)
      try current.requireComplete()
      return ParityResult(name: name, comparisons: current.comparisons, failure: nil)
    } catch {
      return ParityResult(
        name: name, comparisons: check?.comparisons ?? [], failure: String(describing: error))
    }
  }
}

// MARK: - Presentation

extension ParityReport {
  /// Header of the table of results.
  package static let tableHead =
    "case                 forward  allowed  gradient allowed  checks  result"

  /// Row of the table, and one line per failed comparison.
  package static func rows(_ result: ParityResult) -> String {
    func pair(_ worst: Comparison?) -> String {
      TextWidth.pad(worst.map { number($0.error) } ?? "-", 9)
        + TextWidth.pad(worst.map { number($0.tolerance) } ?? "-", 9)
    }
    var lines = [
      column(result.name) + pair(result.worst(.forward))
        + pair(result.worst(.gradient)) + TextWidth.padLeft(String(result.comparisons.count), 6)
        + "  "
        + (result.passes ? "pass" : "FAIL")
    ]
    if let failure = result.failure { lines.append("  \(failure)") }
    let failed = result.comparisons.filter { !$0.passes }
    for comparison in failed.prefix(8) {
      lines.append(
        "  \(comparison.tensor): error \(number(comparison.error)), allowed"
          + " \(number(comparison.tolerance))")
    }
    if failed.count > 8 { lines.append("  and \(failed.count - 8) more") }
    return lines.joined(separator: "\n")
  }

  /// List of unsupported files, and the summary.
  package var closing: String {
    var lines: [String] = []
    if !unsupported.isEmpty {
      lines.append("\nNot supported by this build:")
      for item in unsupported { lines.append("  \(Self.column(item.name))\(item.reason)") }
    }
    let passed = results.count(where: \.passes)
    lines.append(
      "\n\(passed) of \(results.count) supported cases pass, \(unsupported.count) not supported.")
    return lines.joined(separator: "\n")
  }

  /// The report as JSON with stable key order.
  package func json() throws -> String {
    struct Case: Encodable {
      let name: String
      let passes: Bool
      let failure: String?
      let forward, gradient: Comparison?
      let comparisons: [Comparison]
    }
    struct Report: Encodable {
      let directory: String
      let passes: Bool
      let passed, failed: Int
      let cases: [Case]
      let unsupported: [Unsupported]
    }
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.sortedKeys, .prettyPrinted, .withoutEscapingSlashes]
    encoder.nonConformingFloatEncodingStrategy = .convertToString(
      positiveInfinity: "infinity", negativeInfinity: "-infinity", nan: "nan")
    let passed = results.count(where: \.passes)
    let report = Report(
      directory: directory, passes: passes, passed: passed, failed: results.count - passed,
      cases: results.map {
        Case(
          name: $0.name, passes: $0.passes, failure: $0.failure, forward: $0.worst(.forward),
          gradient: $0.worst(.gradient), comparisons: $0.comparisons)
      }, unsupported: unsupported)
    return String(decoding: try encoder.encode(report), as: UTF8.self)
  }

  /// Pads a name to the first column without truncating it.
  private static func column(_ name: String) -> String {
    TextWidth.pad(name, max(20, TextWidth.columns(of: name))) + " "
  }

  private static func number(_ value: Double) -> String {
    if value == 0 { return "0" }
    return value.isFinite ? String(format: "%.1e", value) : "not finite"
  }
}
