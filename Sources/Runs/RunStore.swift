import Foundation
import Plans

/// The runs below a root as they are seen from outside.
///
/// A look costs what was appended since the last one: logs are read on from where they were left, and
/// runs that have ended cost a `stat` each.
package struct RunStore: Sendable {
  /// The directory of all runs.
  package let root: String
  /// Every run, newest first, as of the last look; in the queue's turns.
  package private(set) var summaries: [RunSummary] = []

  private let readsPlans: Bool
  private var entries: [String: Entry] = [:]
  private var order: [String] = []
  /// Runs whose losses by step are wanted.
  private var followed: Set<String> = []

  fileprivate struct Entry {
    var follower: RunFollower
    var summary: RunSummary?
    var changes: GraftPlan.Changes?
    /// Whether the worker is known to have ended, whatever the directory says.
    var hasEndedWorker = false
  }

  /// A store of which nothing was looked at yet.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - readsPlans: Whether the summaries tell what the runs' plans change.
  package init(root: String, readsPlans: Bool = false) {
    (self.root, self.readsPlans) = (root, readsPlans)
  }

  /// What is known of the run with this identifier.
  package func summary(_ id: String) -> RunSummary? { summaries.first { $0.id == id } }

  /// The directory of the run with this identifier.
  package func run(_ id: String) -> RunDirectory? { entries[id]?.follower.run }

  /// What the log of a run told up to the last look; with losses by step where the run is followed.
  package func history(_ id: String) -> RunHistory? { entries[id]?.follower.history }

  /// The runs that wait in the queue, in the order of their turns.
  package var waiting: [RunSummary] {
    summaries.filter { $0.turn != nil }.sorted {
      ($0.turn?.position ?? 0) < ($1.turn?.position ?? 0)
    }
  }

  /// Looks at the runs.
  ///
  /// - Parameters:
  ///   - now: The present.
  ///   - thorough: Whether to look for new and vanished runs too, and at those that have ended or wait.
  ///   - limit: Bytes of logs after which reading stops until the next look; runs that were not read to
  ///     their end yet are left out.
  /// - Returns: Identifiers of the runs whose logs have grown.
  @discardableResult
  package mutating func look(
    now: Date = Date(), thorough: Bool = true, limit: Int = RunFollower.logLimit
  ) -> Set<String> {
    if thorough { list() }
    var changed: Set<String> = []
    var budget = limit
    for id in order where budget > 0 {
      guard thorough || entries[id]?.needsLook ?? false else { continue }
      // Changed in place, so that long histories are not copied.
      let read = entries[id]?.look(now: now, limit: budget, readsPlans: readsPlans) ?? 0
      if read > 0 { changed.insert(id) }
      if limit < RunFollower.logLimit { budget -= read }
    }
    summaries = order.compactMap { entries[$0]?.summary }
    summaries.takeTurns()
    return changed
  }

  /// Adds a run that was made just now, before the next look finds it.
  package mutating func add(_ run: RunDirectory) {
    guard entries[run.id] == nil else { return }
    entries[run.id] = entry(run)
    order.insert(run.id, at: 0)
  }

  /// Keeps the losses by step of some runs from now on, and of no others.
  package mutating func follow(_ ids: Set<String>, now: Date = Date()) {
    for id in ids.symmetricDifference(followed) {
      guard let run = run(id) else { continue }
      entries[id]?.follower = RunFollower(run, keepsCurves: ids.contains(id))
      _ = entries[id]?.look(now: now, limit: RunFollower.logLimit, readsPlans: readsPlans)
    }
    followed = ids
  }

  /// Notes that a worker started from here has ended; it may have died before it left any trace.
  package mutating func noteEndedWorker(of id: String) { entries[id]?.hasEndedWorker = true }

  private mutating func list() {
    let runs = RunDirectory.list(root: root)
    order = runs.map(\.id)
    let present = Set(order)
    entries = entries.filter { present.contains($0.key) }
    for run in runs where entries[run.id] == nil { entries[run.id] = entry(run) }
  }

  private func entry(_ run: RunDirectory) -> Entry {
    Entry(follower: RunFollower(run, keepsCurves: followed.contains(run.id)))
  }
}

extension RunStore.Entry {
  /// Whether a look that is not thorough concerns it: its worker may be at work, or it was not read whole.
  fileprivate var needsLook: Bool {
    guard let summary, follower.isAtEnd else { return true }
    return summary.isAlive && summary.turn == nil
      && (summary.state != .queued || summary.place == nil)
  }

  /// Reads what was appended; the bytes that were read.
  fileprivate mutating func look(now: Date, limit: Int, readsPlans: Bool) -> Int {
    let before = follower.offset
    var seen = follower.poll(now: now, limit: limit)
    let read = Int(clamping: Int64(clamping: follower.offset) - Int64(clamping: before))
    guard follower.isAtEnd || limit == RunFollower.logLimit else { return max(0, read) }
    if hasEndedWorker, seen.state == .queued { seen.state = .lost }
    if readsPlans, seen.isTraining, changes == nil {
      changes = try? GraftPlan.load(path: follower.run.planPath).changes
    }
    seen.changes = changes
    summary = seen
    return max(0, read)
  }
}
