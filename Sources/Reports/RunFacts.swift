import Files
import Foundation
import Plans
import Runs

/// Recorded facts of a training run, read from its directory without computation.
package struct RunFacts: Sendable {
  /// The run directory.
  package let run: RunDirectory
  /// The request of the job.
  package let request: JobRequest
  /// The plan that is trained.
  package let plan: GraftPlan
  /// Status summary.
  package let summary: RunSummary
  /// History of its events.
  package let history: RunHistory
  /// One line per file skipped because it is not a readable image.
  package let skipped: [String]

  /// Reads a run.
  ///
  /// - Throws: `FileError` for a job other than training, also `PlanError` for a damaged
  ///   run.
  package init(_ run: RunDirectory) throws {
    self.run = run
    request = try run.request()
    guard let planPath = request.job.planPath else {
      throw FileError(
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

  /// Stage of grafting, 1 or 2.
  package var stage: Int {
    if case .finetune = request.job { 2 } else { 1 }
  }

  /// Whether a worker may still change the run.
  package var isAlive: Bool { summary.isAlive }

  /// Initial checkpoints, later ones overriding earlier ones; empty for freshly drawn weights.
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
    case .preview, .analyze, .library, .search, .measure, .report, .sample, .evaluate: nil
    }
  }
}
