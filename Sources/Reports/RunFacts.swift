import Files
import Foundation
import Plans
import Runs

/// What a training has left in its run directory, read without computing anything.
package struct RunFacts: Sendable {
  /// Where it is.
  package let run: RunDirectory
  /// What was asked for.
  package let request: JobRequest
  /// The plan that it trains.
  package let plan: GraftPlan
  /// Where it stands.
  package let summary: RunSummary
  /// All that its events tell.
  package let history: RunHistory
  /// A line for each file that could not be used as an image, if any.
  package let skipped: [String]

  /// Reads a run.
  ///
  /// - Throws: `RunError` for a run that trains nothing, `FileError` or `PlanError` for a damaged
  ///   one.
  package init(_ run: RunDirectory) throws {
    self.run = run
    request = try run.request()
    guard let planPath = request.job.planPath else {
      throw RunError(
        "\(run.path): trains nothing, so there is nothing to report; name a run of 'espalier distill'"
          + " or 'finetune'")
    }
    plan = try GraftPlan.load(path: run.resolve(planPath))
    var follower = RunFollower(run, keepsCurves: true)
    summary = follower.poll()
    history = follower.history
    let list = "\(run.path)/skipped.txt"
    if FileManager.default.fileExists(atPath: list) {
      skipped = String(decoding: try AtomicFile.read(list, limit: 64 << 20), as: UTF8.self)
        .split(separator: "\n").map(String.init)
    } else {
      skipped = []
    }
  }

  /// The stage of grafting, 1 or 2.
  package var stage: Int {
    if case .finetune = request.job { 2 } else { 1 }
  }

  /// Whether a worker may still change what the run holds.
  package var isAlive: Bool { summary.isAlive }

  /// Checkpoints that the training began with, later ones winning; none for fresh weights.
  package var startWeights: [String] {
    guard case .finetune(_, let weights) = request.job else { return [] }
    return weights.map { (try? run.weightsPath($0)) ?? $0 }
  }
}

extension Job {
  /// The plan of a training, relative to its run directory; nil for other jobs.
  fileprivate var planPath: String? {
    switch self {
    case .distill(let path), .finetune(let path, _): path
    case .preview, .analyze: nil
    }
  }
}
