import Files

/// Place of a run in the queue of its root.
package struct QueuePlace: Codable, Equatable, Sendable {
  /// Priority; higher ones first, then the oldest.
  package var priority: Int
  /// Allowed priorities.
  package static let priorities = FileNumber.priorities
  /// Ids of runs that must be done first.
  package var after: [String]

  /// Makes a place.
  package init(priority: Int = 0, after: [String] = []) {
    self.priority = priority
    self.after = after
  }
}

/// Turn of a waiting run in the queue.
package struct QueueTurn: Codable, Equatable, Sendable {
  /// Unmet dependency of a run.
  package enum Obstacle: Codable, Equatable, Sendable {
    /// This run is running or waiting.
    case unfinished(String)
    /// This run ended unsuccessfully, or does not exist (nil).
    case broken(String, RunState?)
    /// This run is waiting and cannot start without intervention.
    case stuck(String)
  }

  /// Position among the waiting runs, from 1.
  package let position: Int
  /// Unmet dependency; nil if it may start.
  package let obstacle: Obstacle?

  /// Makes a turn.
  package init(position: Int, obstacle: Obstacle?) {
    (self.position, self.obstacle) = (position, obstacle)
  }

  /// Whether it cannot start without intervention.
  package var isBlocked: Bool {
    switch obstacle {
    case .broken, .stuck: true
    case nil, .unfinished: false
    }
  }

  /// Short reason for waiting; nil if it only waits for its turn.
  package var reason: String? {
    switch obstacle {
    case nil: nil
    case .unfinished(let id): "after \(id)"
    case .stuck(let id): "after \(id), which cannot begin"
    case .broken(let id, let state):
      "\(id), which must be done before, is \(state?.name ?? "gone")"
    }
  }
}

extension RunSummary {
  /// Reason for waiting and, if it cannot start without intervention, the command to use; nil if it
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
  /// Assigns turns to the waiting runs: by priority, then age.
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
    // What waits for a run that cannot begin cannot begin either.
    var blocked = Set(waiting.filter { self[$0].turn?.isBlocked == true }.map { self[$0].id })
    var isChanged = true
    while isChanged {
      isChanged = false
      for index in waiting where !blocked.contains(self[index].id) {
        guard let turn = self[index].turn,
          let other = self[index].place?.after.first(where: blocked.contains)
        else { continue }
        self[index].turn = QueueTurn(position: turn.position, obstacle: .stuck(other))
        blocked.insert(self[index].id)
        isChanged = true
      }
    }
  }
}

extension RunDirectory {
  /// Changes the priority of the run.
  ///
  /// - Throws: `FileError` when it is not waiting or belongs to another user, `FileError` when the
  ///   disk fails.
  package func setPriority(_ priority: Int) throws { try changePriority { _ in priority } }

  /// Changes the priority of the run by an amount, from the value that it has by then.
  ///
  /// - Throws: As `setPriority` does.
  package func raisePriority(by amount: Int) throws { try changePriority { $0 + amount } }

  private func changePriority(_ change: (Int) -> Int) throws {
    let isChanged = try withLock {
      var request = try request()
      guard let place = request.queue, summary().state == .queued else { return false }
      let range = QueuePlace.priorities
      request.queue?.priority = min(max(range.lowerBound, change(place.priority)), range.upperBound)
      try writeRequest(request)
      return true
    }
    guard isChanged == true else {
      throw FileError("\(path): does not wait in the queue; 'espalier runs' shows what does")
    }
  }
}
