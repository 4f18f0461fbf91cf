import Foundation
import Plans

/// Runs that were queued together, each after the one before it.
///
/// A run that does not end as done keeps those after it waiting, with the reason in their turns;
/// taken up again, it lets them go on.
package struct RunChain: Equatable, Sendable {
  /// The runs in their order.
  package let runs: [RunSummary]
  /// Estimated seconds of every run that has not ended; nil if nothing is known to estimate it by.
  package let estimates: [Double?]

  /// Finds a chain among runs; nil if there are no runs of it.
  ///
  /// - Parameters:
  ///   - id: Identifier of the chain.
  ///   - all: Summaries of all runs, with the work of their plans.
  package init?(_ id: String, among all: [RunSummary]) {
    runs = all.filter { $0.chain?.id == id }.sorted {
      ($0.chain?.index ?? 0) < ($1.chain?.index ?? 0)
    }
    guard !runs.isEmpty else { return nil }
    estimates = runs.map { run in
      if run.state.isEnded { return 0 }
      if let left = run.secondsLeft { return left }
      return Self.seconds(of: run, by: all)
    }
  }

  /// Seconds that a run will take.
  private static func seconds(of run: RunSummary, by all: [RunSummary]) -> Double? {
    run.kind.flatMap { seconds(of: $0, modelHash: run.modelHash, work: run.work, by: all) }
  }

  /// Seconds that a job will take, by the pace of the last one of its kind and model that is done.
  ///
  /// - Parameters:
  ///   - kind: Kind of the job.
  ///   - modelHash: Digest of its model.
  ///   - work: Samples that it trains on; nil for one that does not train.
  ///   - all: Summaries of all runs, with the work of their plans.
  /// - Returns: nil if there was none.
  package static func seconds(
    of kind: Job.Kind, modelHash: String, work: Double?, by all: [RunSummary]
  ) -> Double? {
    let known = all.filter {
      $0.kind == kind && $0.modelHash == modelHash && $0.state == .done && $0.duration ?? 0 > 0
    }
    guard let last = known.max(by: { $0.id < $1.id }), let duration = last.duration else {
      return nil
    }
    guard let work else { return duration }
    return last.work.map { duration * work / max(1, $0) }
  }

  /// The run that goes on or comes next; nil at the end of the chain.
  package var current: RunSummary? { runs.first { $0.state != .done } }

  /// Number of runs that are done.
  package var doneCount: Int { runs.count { $0.state == .done } }

  /// Estimated seconds until its end; nil unless something is left and known.
  package var secondsLeft: Double? {
    let known = estimates.compactMap(\.self)
    return known.isEmpty || isOver ? nil : known.reduce(0, +)
  }

  /// Whether nothing is left to do, or nothing can be done without intervention.
  package var isOver: Bool {
    guard let current else { return true }
    return current.state.isEnded || current.turn?.isBlocked == true
  }

  /// Kinds of runs whose time is not known.
  package var unknown: [Job.Kind] {
    zip(runs, estimates).compactMap { run, seconds in seconds == nil ? run.kind : nil }
  }

  /// Why it stands still; nil while it goes on or when it is done.
  package var reason: String? {
    guard let current, isOver else { return nil }
    return "\(current.kind?.rawValue ?? "a run") is \(current.state.name)"
      + (current.end.map { ": \($0.text)" } ?? "")
  }
}

extension GraftPlan {
  /// Number of samples that a stage trains on, with repetitions.
  package func work(_ kind: Job.Kind?) -> Double {
    kind == .finetune
      ? Double(stage2.steps) * Double(stage2.batchSize)
      : Double(stage1.totalSteps) * Double(stage1.batchSize)
  }
}

/// Place of a run in a chain.
package struct ChainPlace: Codable, Equatable, Sendable {
  /// Identifier of the chain.
  package let id: String
  /// Position, from 0.
  package let index: Int
  /// Number of runs.
  package let count: Int

  /// Makes a place.
  package init(id: String, index: Int, count: Int) {
    (self.id, self.index, self.count) = (id, index, count)
  }
}

extension RunLauncher {
  /// Queues both stages of a plan, measurements and a report, each after the one before it.
  ///
  /// - Parameters:
  ///   - plan: A plan with changes.
  ///   - template: Request with the common properties; its job and queue are replaced.
  ///   - priority: Priority of all runs.
  ///   - report: What is measured; its runs are replaced.
  /// - Returns: The runs in their order.
  /// - Throws: As `launch` does; runs that were queued before the failure are taken out again.
  package func launchChain(
    _ plan: GraftPlan, like template: JobRequest, priority: Int = 0, report: ReportRequest
  ) throws -> [RunDirectory] {
    for job in [
      Job.distill(planPath: "plan.json"), .finetune(planPath: "plan.json", weights: []),
    ] {
      var request = template
      request.job = job
      try require(request, plan: plan)
    }
    var runs: [RunDirectory] = []
    let chain = String(UInt64.random(in: .min ... .max), radix: 36)
    func add(_ job: Job, origins: [WeightOrigin]? = nil) throws {
      var request = template
      request.job = job
      if !job.kind.isTraining { request.engine = nil }
      request.origins = origins
      request.chain = ChainPlace(id: chain, index: runs.count, count: 4)
      request.queue = QueuePlace(priority: priority, after: runs.last.map { [$0.id] } ?? [])
      // The order of creation is that of the chain, also within one second.
      request.createdAt = template.createdAt + 0.001 * Double(runs.count)
      runs.append(try launch(request, plan: plan))
    }
    do {
      try add(.distill(planPath: "plan.json"))
      let first = runs[0].id
      try add(
        .finetune(planPath: "plan.json", weights: [first]),
        origins: [WeightOrigin(run: first, step: 0, sites: plan.sites)])
      var measured = report
      measured.runs = [runs[1].id]
      try add(.measure(measured))
      try add(.report(measured))
      return runs
    } catch {
      for run in runs.reversed() { _ = try? run.requestCancellation() }
      throw error
    }
  }
}
