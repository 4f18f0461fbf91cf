import Files
import Foundation
import Plans
import Runs
import Search

/// The library of the model's operators, and searches.
extension FileWork {
  /// Most finished searches that are shown.
  private static let searchLimit = 6

  /// Reads what the library and finished searches say.
  func readLibrary() -> Action {
    if store.summaries.isEmpty { store.look() }
    let done = store.summaries.filter {
      $0.kind == .search && $0.state == .done && $0.modelHash == model.contentHash
    }
    let searches = done.prefix(Self.searchLimit).compactMap { record -> FinishedSearch? in
      guard let run = store.run(record.id), let report = try? SearchReport.read(in: run.path),
        let measure = Measure(rawValue: report.measure)
      else { return nil }
      return FinishedSearch(
        id: record.id, name: record.name, measure: measure,
        rows: report.budgets.flatMap(\.rows).map { row in
          FinishedSearch.Row(
            origin: row.origin,
            changes: row.plan.flatMap { try? read(run.resolve($0)).changes },
            error: row.error, recovered: row.recoveredError, timeFraction: row.timeFraction,
            fraction: row.fraction)
        })
    }
    return .libraryRead(operators.costs(for: model.shape), searches)
  }

  /// Starts building the library or a search, or puts it into the queue.
  func startSearching(_ job: Job, _ plan: GraftPlan, _ options: RunOptions) -> Action {
    do {
      let place =
        options.isQueued ? QueuePlace(priority: options.priority, after: options.after) : nil
      _ = try start(job, name: plan.name, plan: plan, queue: place, options: options)
      return .searchingStarted(job.kind, isQueued: options.isQueued)
    } catch {
      return .controlFailed("\(error)")
    }
  }

  /// Files of the operators that the library provides, in order of slots.
  ///
  /// - Throws: `FileError` for an operator that is no longer there.
  func libraryPaths(of weights: PlanWeights) throws -> [String] {
    let sites = weights.librarySites
    guard !sites.isEmpty else { return [] }
    var plan = GraftPlan(named: "", model: model)
    plan.edits = weights.changes.edits
    let paths = operators.checkpoints(for: plan)
    return try sites.compactMap { site in
      guard case .slot(let slot) = site else { return nil }
      guard let path = paths[slot] else {
        throw FileError(
          "\(operators.folder): no longer has the operator of \(slot); build it again or distil the plan"
        )
      }
      return path
    }
  }
}
