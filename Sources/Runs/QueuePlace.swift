/// A run's place in the queue of its run root.
package struct QueuePlace: Codable, Equatable, Sendable {
  /// Higher ones go first; among equals the oldest.
  package var priority: Int
  /// Ids of runs that must be done before.
  package var after: [String]

  /// Names a place.
  package init(priority: Int = 0, after: [String] = []) {
    self.priority = priority
    self.after = after
  }
}

/// What the queue needs to know of a run.
package struct QueueEntry: Equatable, Sendable {
  /// The run's id.
  package let id: String
  /// Its place; nil for a run that is not in the queue.
  package let place: QueuePlace?
  /// When it was asked for, in seconds since 1970.
  package let createdAt: Double
  /// What has become of it.
  package let state: RunState
  /// Whether it trains; previews and analyses take nobody's turn.
  package let isTraining: Bool

  /// Describes a run.
  package init(
    id: String, place: QueuePlace?, createdAt: Double, state: RunState, isTraining: Bool = true
  ) {
    (self.id, self.place, self.createdAt) = (id, place, createdAt)
    (self.state, self.isTraining) = (state, isTraining)
  }

  /// Describes a run that was looked at; nil for one whose request cannot be read.
  package init?(_ run: RunDirectory, _ request: JobRequest?, _ state: RunState) {
    guard let request else { return nil }
    self.init(
      id: run.id, place: request.queue, createdAt: request.createdAt, state: state,
      isTraining: request.job.isTraining)
  }
}

/// A run that waits for its turn.
package struct WaitingRun: Equatable, Sendable {
  /// Why a run cannot begin although it were its turn.
  package enum Obstacle: Equatable, Sendable {
    /// This run goes on or waits itself.
    case unfinished(String)
    /// This run has ended as anything but done, or is gone; that does not change by itself.
    case broken(String, state: String)
  }

  /// The run's id.
  package let id: String
  /// Its priority.
  package let priority: Int
  /// Ids of runs that must be done before.
  package let after: [String]
  /// What it waits for beside its turn; nil when it may begin.
  package let obstacle: Obstacle?

  /// Why it waits, in a few words; nil when it only waits for its turn.
  package var reason: String? {
    switch obstacle {
    case nil: nil
    case .unfinished(let id): "after \(id)"
    case .broken(let id, let state): "\(id), which must be done before, is \(state)"
    }
  }

  /// Why it waits and, where it will not begin by itself, the command that helps; nil when it only waits
  /// for its turn.
  package var explanation: String? {
    guard case .broken(let id, let state) = obstacle else { return reason }
    let help =
      state == Self.gone
      ? "'espalier runs cancel \(self.id)' takes this one out of the queue"
      : "'espalier runs retry \(id)' takes that one up again"
    return reason.map { "\($0); \(help)" }
  }

  /// The state of a run whose directory is no more.
  private static let gone = "gone"

  /// Whether it will not begin unless somebody does something.
  package var isBlocked: Bool {
    if case .broken = obstacle { true } else { false }
  }

  /// The runs below a root that wait, in the order in which they get their turns.
  package static func list(root: String) -> [WaitingRun] {
    var states = RunStates(root: root)
    return list(states.look())
  }

  /// The runs that wait, in the order in which they get their turns: by priority, then age.
  package static func list(_ runs: [QueueEntry]) -> [WaitingRun] {
    let states = Dictionary(runs.map { ($0.id, $0.state) }) { first, _ in first }
    let waiting = runs.filter { $0.place != nil && $0.state == .queued }.sorted { one, other in
      let (first, second) = (one.place?.priority ?? 0, other.place?.priority ?? 0)
      return (-first, one.createdAt, one.id) < (-second, other.createdAt, other.id)
    }
    return waiting.map { entry in
      let before = (entry.place?.after ?? []).filter { states[$0] != .done }
      let broken = before.first { states[$0]?.isEnded ?? true }
      return WaitingRun(
        id: entry.id, priority: entry.place?.priority ?? 0, after: entry.place?.after ?? [],
        obstacle: broken.map { .broken($0, state: states[$0]?.name ?? Self.gone) }
          ?? before.first.map { .unfinished($0) })
    }
  }
}

extension RunDirectory {
  /// Gives the run another priority in the queue.
  ///
  /// - Throws: `RunError` when it does not wait there, `FileError` when the disk fails.
  package func setPriority(_ priority: Int) throws {
    var request = try request()
    guard request.queue != nil, status().state == .queued else {
      throw RunError("\(path): does not wait in the queue; 'espalier runs' shows what does")
    }
    request.queue?.priority = priority
    try writeRequest(request)
  }
}
