/// What a search writes as `search.json` in its run directory.
package struct SearchReport: Codable, Sendable {
  /// One evaluated set of changes.
  package struct Row: Codable, Sendable {
    package let origin: String
    /// The changes, such as `7.attention hyena_x`.
    package let changes: [String]
    package let sum, error, errorStandardError: Double
    package var recoveredError, recoveredStandardError: Double?
    /// Measured seconds of a forward pass, and the fraction of the teacher's.
    package var seconds, timeFraction: Double?
    /// Fraction of the teacher's amount that the budget is counted in, by the sums of the changes.
    package let fraction: Double
    /// File of the plan in the run directory.
    package var plan: String?
  }

  package struct Budget: Codable, Sendable {
    package let fraction: Double
    package let rows: [Row]
    /// Rank correlation of the sums of single errors and the errors of whole plans.
    package let rankAgreement: Double?
    package let neighborLoss: Double
    /// Rank correlation of errors before and after the recovery.
    package let recoveryAgreement: Double?
  }

  /// A point of the front of sums.
  package struct FrontPoint: Codable, Sendable {
    package let fraction, sum: Double
    package let changes: [String]
  }

  package let measure: String
  package let teacherSeconds: Double
  package let candidates: Int
  /// Milliseconds of the solution for all budgets.
  package let solveMilliseconds: Double
  package let front: [FrontPoint]
  package let budgets: [Budget]

  /// Name of the file.
  package static let fileName = "search.json"
}
