import Files

extension [RunSummary] {
  /// Why a run must stay; nil if it may be removed.
  ///
  /// Runs that are active, wait in the queue, or are named by a waiting run stay.
  package func reasonAgainstRemoving(_ run: RunSummary) -> String? {
    guard run.isRemovable else {
      return run.state == .queued && run.place != nil
        ? "\(run.name) waits in the queue; cancel it first"
        : "\(run.name) is \(run.state.name); cancel it first"
    }
    let waiting = first { $0.turn != nil && $0.place?.after.contains(run.id) == true }
    return waiting.map { "\($0.name) (\($0.id)) waits for \(run.name); cancel that one first" }
  }
}

extension RunSummary {
  /// Whether nothing works on it or will: it has ended, or its request cannot be used.
  package var isRemovable: Bool { state.isEnded || kind == nil && state == .queued }
}

extension RunDirectory {
  /// Removes the run, whose state is checked once more while it is locked.
  ///
  /// - Parameter all: Summaries of the runs of its root.
  /// - Throws: `FileError` when it must stay, another process works on it, it belongs to another user,
  ///   or it cannot be removed.
  package func remove(among all: [RunSummary]) throws {
    let summary = all.first { $0.id == id } ?? summary()
    if let reason = all.reasonAgainstRemoving(summary) { throw FileError("\(path): \(reason)") }
    guard try remove(if: \.isRemovable) else { throw busy }
  }
}
