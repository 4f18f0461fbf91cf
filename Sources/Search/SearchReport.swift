import Files
import Foundation

/// What a search writes as `search.json` in its run directory.
package struct SearchReport: Codable, Sendable {
  /// One evaluated set of changes, or the teacher with step caching.
  package struct Row: Codable, Sendable {
    package let origin: String
    /// The changes, such as `7.attention hyena_x`; none of a teacher with step caching.
    package let changes: [String]
    /// Sum of the errors of the changes.
    package let sum: Double
    /// Error with all changes at once, the mean over seeds.
    package let error, errorStandardError: Double
    /// Factors of the rate of stage 2 by seed, 0 where no rate lowered the error; nil without stage 2.
    package var recoveryRates: [Double]?
    /// Error after a short stage 2, the mean over seeds.
    package var recoveredError, recoveredStandardError: Double?
    /// Measured seconds of a forward pass, and the fraction of the teacher's; with step caching those of an image.
    package var seconds, timeFraction: Double?
    /// Fraction of the teacher's amount that the budget is counted in, by the sums of the changes.
    package let fraction: Double
    /// File of the plan in the run directory.
    package var plan: String?
    /// What `error` and `recoveredError` are the means of, by seed; nil in reports of before.
    package var errors, recoveredErrors: SeedValues?
    /// Distance of samples from the teacher's of the same noise, relative to their spread, after stage 2, by seed.
    package var distances: SeedValues?
    /// Fraction of these samples that the judge assigns to their own class, by seed.
    package var agreements: SeedValues?
    /// Errors and distances less those of the first row, with the same seeds, each after stage 2.
    package var errorDifference, distanceDifference: Difference?
    /// Step caching.
    package var cache: Cache?

    package init(
      origin: String, changes: [String], sum: Double, errors: [Estimate], fraction: Double,
      plan: String? = nil
    ) {
      (self.origin, self.changes, self.sum) = (origin, changes, sum)
      let repeated = SeedValues(errors.map(\.value))
      self.errors = repeated
      // A single seed has the standard error of its samples.
      (error, errorStandardError) = (
        repeated.mean, repeated.standardError ?? errors[0].standardError
      )
      (self.fraction, self.plan) = (fraction, plan)
    }

    /// The errors that the teacher's distance is judged by: those after stage 2 where there was one.
    package var finalErrors: SeedValues? { recoveredErrors ?? errors }

    /// Sets what stage 2 has left.
    package mutating func recover(_ found: [Estimate]) {
      let repeated = SeedValues(found.map(\.value))
      recoveredErrors = repeated
      (recoveredError, recoveredStandardError) = (
        repeated.mean, repeated.standardError ?? found[0].standardError
      )
    }

    /// Compares the row with another one of the same seeds.
    package mutating func compare(with first: Row) {
      func difference(_ own: SeedValues?, _ other: SeedValues?) -> Difference? {
        guard let own, let other else { return nil }
        return Difference(own.minus(other))
      }
      errorDifference = difference(finalErrors, first.finalErrors)
      distanceDifference = difference(distances, first.distances)
    }
  }

  /// Mean of paired differences with half the width of its 95 % interval, nil for a single seed.
  package struct Difference: Codable, Equatable, Sendable {
    package let mean: Double
    package let halfWidth: Double?

    package init(_ differences: SeedValues) {
      (mean, halfWidth) = (differences.mean, differences.halfWidth)
    }
  }

  /// Settings of a step cache, and the share of evaluations that it saves.
  package struct Cache: Codable, Equatable, Sendable {
    package let threshold: Double
    package let forecasts: Bool
    package let reused: Double

    package init(threshold: Double, forecasts: Bool, reused: Double) {
      (self.threshold, self.forecasts, self.reused) = (threshold, forecasts, reused)
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
  /// The teacher's time when the library's operators were timed; nil in reports of before.
  package var libraryTeacherSeconds: Double?
  /// Seeds with which rows were measured, and compared images of each; nil in reports of before.
  package var seeds, images: Int?
  /// The teacher's fraction of images that the judge assigns to their own class, by seed.
  package var teacherAgreements: SeedValues?

  package init(
    measure: String, teacherSeconds: Double, candidates: Int, solveMilliseconds: Double,
    front: [FrontPoint], budgets: [Budget]
  ) {
    (self.measure, self.teacherSeconds, self.candidates) = (measure, teacherSeconds, candidates)
    (self.solveMilliseconds, self.front, self.budgets) = (solveMilliseconds, front, budgets)
  }

  /// Difference of two times of the same work, relative to either, above which one was measured beside other work.
  package static let timeTolerance = 0.1

  /// Whether two times of the same work differ by more than the tolerance.
  package static func differ(_ one: Double, _ other: Double) -> Bool {
    max(one, other) > (1 + timeTolerance) * min(one, other)
  }

  /// A sentence about times that disagree; nil if they agree.
  package var timeWarning: String? {
    guard let before = libraryTeacherSeconds, Self.differ(before, teacherSeconds) else {
      return nil
    }
    func text(_ seconds: Double) -> String { String(format: "%.3g ms", 1000 * seconds) }
    return
      "the teacher takes \(text(teacherSeconds)), and took \(text(before)) when the library's operators were"
      + " timed, so one of the two was measured beside other work; savings are scaled to the present time, repeat"
      + " the search on an idle machine"
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
