/// A run's place in the queue of its run root.
package struct QueuePlace: Codable, Equatable, Sendable {
  /// Higher ones go first; among equals the oldest.
  package var priority: Int
  /// The priorities that a person can give.
  package static let priorities = FileNumber.priorities
  /// Ids of runs that must be done before.
  package var after: [String]

  /// Names a place.
  package init(priority: Int = 0, after: [String] = []) {
    self.priority = priority
    self.after = after
  }
}

/// When a run that waits in the queue begins.
package struct QueueTurn: Codable, Equatable, Sendable {
  /// Why a run cannot begin although it were its turn.
  package enum Obstacle: Codable, Equatable, Sendable {
    /// This run goes on or waits itself.
    case unfinished(String)
    /// This run has ended as anything but done, or is gone (nil); that does not change by itself.
    case broken(String, RunState?)
  }

  /// Its place among the runs that wait, from 1 on.
  package let position: Int
  /// What it waits for beside its turn; nil when it may begin.
  package let obstacle: Obstacle?

  /// States a turn.
  package init(position: Int, obstacle: Obstacle?) {
    (self.position, self.obstacle) = (position, obstacle)
  }

  /// Whether it will not begin unless somebody does something.
  package var isBlocked: Bool {
    if case .broken = obstacle { true } else { false }
  }

  /// Why it waits, in a few words; nil when it only waits for its turn.
  package var reason: String? {
    switch obstacle {
    case nil: nil
    case .unfinished(let id): "after \(id)"
    case .broken(let id, let state):
      "\(id), which must be done before, is \(state?.name ?? "gone")"
    }
  }
}

extension RunSummary {
  /// Why it waits in the queue and, where it will not begin by itself, the command that helps; nil when it
  /// only waits for its turn.
  package var waitsFor: String? {
    guard let reason = turn?.reason else { return nil }
    guard case .broken(let other, let state) = turn?.obstacle else { return reason }
    return state == nil
      ? "\(reason); 'espalier runs cancel \(id)' takes this one out of the queue"
      : "\(reason); 'espalier runs retry \(other)' takes that one up again"
  }
}

extension [RunSummary] {
  /// Gives the runs that wait in the queue their turns: by priority, then age.
  package mutating func takeTurns() {
    let states = Dictionary(map { ($0.id, $0.state) }) { first, _ in first }
    let waiting = indices.filter { self[$0].place != nil && self[$0].state == .queued }.sorted {
      let (one, other) = (self[$0], self[$1])
      let (first, second) = (one.place?.priority ?? 0, other.place?.priority ?? 0)
      return first != second
        ? first > second : (one.createdAt ?? 0, one.id) < (other.createdAt ?? 0, other.id)
    }
    for (position, index) in waiting.enumerated() {
      let before = (self[index].place?.after ?? []).filter { states[$0] != .done }
      let broken = before.first { states[$0]?.isEnded ?? true }
      self[index].turn = QueueTurn(
        position: position + 1,
        obstacle: broken.map { .broken($0, states[$0]) } ?? before.first.map { .unfinished($0) })
    }
  }
}

extension RunDirectory {
  /// Gives the run another priority in the queue.
  ///
  /// - Throws: `RunError` when it does not wait there or belongs to another user, `FileError` when
  ///   the disk fails.
  package func setPriority(_ priority: Int) throws {
    let isChanged = try withLock {
      var request = try request()
      guard request.queue != nil, summary().state == .queued else { return false }
      request.queue?.priority = priority
      try writeRequest(request)
      return true
    }
    guard isChanged == true else {
      throw RunError("\(path): does not wait in the queue; 'espalier runs' shows what does")
    }
  }
}
