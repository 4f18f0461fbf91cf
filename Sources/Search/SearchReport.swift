import Files
import Foundation

/// What a search writes as `search.json` in its run directory.
package struct SearchReport: Codable, Sendable {
  /// One evaluated set of changes.
  package struct Row: Codable, Sendable {
    package let origin: String
    /// The changes, such as `7.attention hyena_x`.
    package let changes: [String]
    /// Sum of the errors of the changes.
    package let sum: Double
    /// Error with all changes at once.
    package let error, errorStandardError: Double
    /// Error after a short stage 2.
    package var recoveredError, recoveredStandardError: Double?
    /// Measured seconds of a forward pass, and the fraction of the teacher's.
    package var seconds, timeFraction: Double?
    /// Fraction of the teacher's amount that the budget is counted in, by the sums of the changes.
    package let fraction: Double
    /// File of the plan in the run directory.
    package var plan: String?

    package init(
      origin: String, changes: [String], sum: Double, error: Estimate, fraction: Double,
      plan: String
    ) {
      (self.origin, self.changes, self.sum) = (origin, changes, sum)
      (self.error, errorStandardError) = (error.value, error.standardError)
      (self.fraction, self.plan) = (fraction, plan)
    }
  }

  /// What was found for one budget.
  package struct Budget: Codable, Sendable {
    package let fraction: Double
    package let rows: [Row]
    /// Rank correlation of the sums of single errors and the errors of whole plans.
    package let rankAgreement: Double?
    /// Error added for neighbouring changed blocks; 0 where sums rank well.
    package let neighborLoss: Double
    /// Rank correlation of errors before and after the recovery.
    package let recoveryAgreement: Double?

    package init(
      fraction: Double, rows: [Row], rankAgreement: Double?, neighborLoss: Double,
      recoveryAgreement: Double?
    ) {
      (self.fraction, self.rows, self.neighborLoss) = (fraction, rows, neighborLoss)
      (self.rankAgreement, self.recoveryAgreement) = (rankAgreement, recoveryAgreement)
    }
  }

  /// A point of the front of sums.
  package struct FrontPoint: Codable, Sendable {
    package let fraction, sum: Double
    package let changes: [String]

    package init(fraction: Double, sum: Double, changes: [String]) {
      (self.fraction, self.sum, self.changes) = (fraction, sum, changes)
    }
  }

  package let measure: String
  package let teacherSeconds: Double
  /// Number of scored operators.
  package let candidates: Int
  /// Milliseconds of the solution for all budgets.
  package let solveMilliseconds: Double
  package let front: [FrontPoint]
  package let budgets: [Budget]

  package init(
    measure: String, teacherSeconds: Double, candidates: Int, solveMilliseconds: Double,
    front: [FrontPoint], budgets: [Budget]
  ) {
    (self.measure, self.teacherSeconds, self.candidates) = (measure, teacherSeconds, candidates)
    (self.solveMilliseconds, self.front, self.budgets) = (solveMilliseconds, front, budgets)
  }

  /// Name of the file.
  package static let fileName = "search.json"

  /// Reads the report of a search from its run directory.
  ///
  /// - Throws: `FileError` if there is none or it is damaged.
  package static func read(in folder: String) throws -> SearchReport {
    let path = "\(folder)/\(fileName)"
    let text = Data(try AtomicFile.read(path, limit: 64 << 20))
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    do { return try decoder.decode(SearchReport.self, from: text) } catch {
      throw FileError("\(path): is no report of a search; search again")
    }
  }

  /// Writes the report to a run directory.
  ///
  /// - Throws: `FileError` if the disk is full or read-only.
  package func write(in folder: String) throws {
    let encoder = JSONEncoder()
    encoder.outputFormatting = [.prettyPrinted, .sortedKeys]
    encoder.keyEncodingStrategy = .convertToSnakeCase
    try AtomicFile.write(try encoder.encode(self), to: "\(folder)/\(Self.fileName)")
  }
}
