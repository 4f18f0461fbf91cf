import Foundation
import Plans

/// Current state of all runs in a root directory.
///
/// Refreshing reads only appended log records, and calls `stat` once per ended run.
package struct RunStore: Sendable {
  /// The directory of all runs.
  package let root: String
  /// All runs as of the last refresh, newest first, with their turns in the queue.
  package private(set) var summaries: [RunSummary] = []

  private let readsPlans: Bool
  private var entries: [String: Entry] = [:]
  private var order: [String] = []
  /// Runs whose losses by step are stored.
  private var followed: Set<String> = []

  fileprivate struct Entry {
    var follower: RunFollower
    var summary: RunSummary?
    var plan: (changes: GraftPlan.Changes, work: Double)?
    /// Whether the worker is known to have ended, independent of the directory.
    var hasEndedWorker = false
  }

  /// Makes an empty store.
  ///
  /// - Parameters:
  ///   - root: The directory of all runs.
  ///   - readsPlans: Whether summaries include the changes of the plans.
  package init(root: String, readsPlans: Bool = false) {
    (self.root, self.readsPlans) = (root, readsPlans)
  }

  /// Summary of the run with an identifier.
  package func summary(_ id: String) -> RunSummary? { summaries.first { $0.id == id } }

  /// Directory of the run with an identifier.
  package func run(_ id: String) -> RunDirectory? { entries[id]?.follower.run }

  /// History of a run up to the last refresh; with losses by step if the run is followed.
  package func history(_ id: String) -> RunHistory? { entries[id]?.follower.history }

  /// Whether some logs are not read to their ends.
  package var hasUnread: Bool { order.contains { entries[$0]?.follower.isAtEnd == false } }

  /// Number of runs that are not read to their ends for the first time, and so have no summary yet.
  package var unreadCount: Int { order.count(where: { entries[$0]?.summary == nil }) }

  /// Runs that wait in the queue, in order of their turns.
  package var waiting: [RunSummary] {
    summaries.filter { $0.turn != nil }.sorted {
      ($0.turn?.position ?? 0) < ($1.turn?.position ?? 0)
    }
  }

  /// Refreshes the runs.
  ///
  /// - Parameters:
  ///   - now: Current time.
  ///   - thorough: Whether to include new, removed, ended and waiting runs.
  ///   - limit: Maximum number of log bytes to read; runs that are not read to their end are
  ///     omitted.
  /// - Returns: Identifiers of the runs whose logs have grown.
  @discardableResult
  package mutating func look(
    now: Date = Date(), thorough: Bool = true, limit: Int = RunFollower.logLimit
  ) -> Set<String> {
    if thorough { list() }
    var changed: Set<String> = []
    var budget = limit
    // Logs that are being read with their losses by step come last, so that others need not wait.
    let unread = followed.filter { entries[$0]?.follower.isAtEnd == false }
    let turns = unread.isEmpty ? order : order.filter { !unread.contains($0) } + unread.sorted()
    for id in turns where budget > 0 {
      guard thorough || entries[id]?.needsLook ?? false else { continue }
      // Mutated in place to avoid copying long histories.
      let read = entries[id]?.look(now: now, limit: budget, readsPlans: readsPlans) ?? 0
      if read > 0 { changed.insert(id) }
      if limit < RunFollower.logLimit { budget -= read }
    }
    if thorough { sort() }
    summaries = order.compactMap { entries[$0]?.summary }
    summaries.takeTurns()
    return changed
  }

  /// Adds a new run before the next refresh.
  package mutating func add(_ run: RunDirectory) {
    guard entries[run.id] == nil else { return }
    entries[run.id] = entry(run)
    order.insert(run.id, at: 0)
  }

  /// Sets the runs whose losses by step are stored.
  ///
  /// - Parameters:
  ///   - ids: The runs.
  ///   - now: Current time.
  ///   - limit: Maximum number of log bytes to read at once; the next refreshes go on.
  package mutating func follow(
    _ ids: Set<String>, now: Date = Date(), limit: Int = RunFollower.logLimit
  ) {
    var budget = limit
    for id in ids.symmetricDifference(followed) {
      guard let run = run(id) else { continue }
      entries[id]?.follower = RunFollower(run, keepsCurves: ids.contains(id))
      guard budget > 0 else { continue }
      let read = entries[id]?.look(now: now, limit: budget, readsPlans: readsPlans) ?? 0
      if limit < RunFollower.logLimit { budget -= read }
    }
    followed = ids
  }

  /// Records that a worker started by this process has ended, possibly before writing any event.
  package mutating func noteEndedWorker(of id: String) { entries[id]?.hasEndedWorker = true }

  private mutating func list() {
    let runs = RunDirectory.list(root: root)
    order = runs.map(\.id)
    let present = Set(order)
    entries = entries.filter { present.contains($0.key) }
    for run in runs where entries[run.id] == nil { entries[run.id] = entry(run) }
  }

  /// Sorts newest first: identifiers begin with the second of their creation, within it the request's time decides.
  private mutating func sort() {
    let keys = order.map { (second: $0.prefix(15), time: entries[$0]?.summary?.createdAt ?? 0) }
    order = order.indices.sorted { one, other in
      keys[one].second != keys[other].second
        ? keys[one].second > keys[other].second : keys[one].time > keys[other].time
    }.map { order[$0] }
  }

  private func entry(_ run: RunDirectory) -> Entry {
    Entry(follower: RunFollower(run, keepsCurves: followed.contains(run.id)))
  }
}

extension RunStore.Entry {
  /// Whether a refresh that is not thorough includes it: its worker may be running, or its log is
  /// not read to the end.
  fileprivate var needsLook: Bool {
    guard let summary, follower.isAtEnd else { return true }
    return summary.isAlive && summary.turn == nil
      && (summary.state != .queued || summary.place == nil)
  }

  /// Reads appended records; returns the number of bytes.
  fileprivate mutating func look(now: Date, limit: Int, readsPlans: Bool) -> Int {
    let before = follower.offset
    var seen = follower.poll(now: now, limit: limit)
    let read = Int(clamping: Int64(clamping: follower.offset) - Int64(clamping: before))
    guard follower.isAtEnd || limit == RunFollower.logLimit else { return max(0, read) }
    if hasEndedWorker, seen.state == .queued { seen.state = .lost }
    if readsPlans, seen.isTraining, plan == nil { plan = follower.run.plan(of: seen) }
    (seen.changes, seen.work) = (plan?.changes, plan?.work)
    summary = seen
    return max(0, read)
  }
}

extension RunDirectory {
  /// Changes and work of the recorded plan; nil if it cannot be read or is for another model than
  /// the request.
  fileprivate func plan(of summary: RunSummary) -> (changes: GraftPlan.Changes, work: Double)? {
    guard let plan = try? GraftPlan.load(path: planPath),
      plan.model.contentHash == summary.modelHash
    else { return nil }
    return (plan.changes, plan.work(summary.kind))
  }

  /// Reads the current summary with the changes of the recorded plan.
  package func summaryWithPlan() -> RunSummary {
    var summary = summary()
    guard summary.isTraining, let plan = plan(of: summary) else { return summary }
    (summary.changes, summary.work) = (plan.changes, plan.work)
    return summary
  }
}
