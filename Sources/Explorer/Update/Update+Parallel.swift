import Plans

extension AppState {
  /// Makes the selected blocks parallel, or splits them when all of them are; with the name of a merge,
  /// sets that for all of them.
  mutating func join(_ argument: String?) {
    var merge: ParallelMerge?
    if let argument {
      merge = ParallelMerge(rawValue: argument)
      guard merge != nil else {
        notice = .warning("join takes \(ParallelMerge.names), not \(argument)")
        return
      }
    }
    switch joining(merge) {
    case .success(let change):
      if let merge { lastMerge = merge }
      let changed = document.edit(change.title) { $0.parallel = change.parallel }
      notice = .note(changed ? change.title : "nothing changed: the blocks are merged so already")
      dropSelection()
    case .failure(let error):
      notice = .warning("\(error)")
    }
  }

  /// The pairs after joining or splitting the selected blocks and what that is called, or why it
  /// cannot be done.
  func joining(
    _ merge: ParallelMerge?
  ) -> Result<(title: String, parallel: [BlockPair: ParallelMerge]), PlanError> {
    let blocks = Set(targets.map(\.block)).sorted()
    var free = blocks.filter { plan.pair(of: $0) == nil }
    var next = plan
    if free.isEmpty, merge == nil {
      next.split(blocks)
    } else {
      let chosen = merge ?? lastMerge
      if merge != nil {
        for pair in blocks.compactMap(plan.pair(of:)) { next.parallel[pair] = chosen }
      }
      // One block means itself and the next.
      if free.count == 1, free[0] + 1 < depth { free.append(free[0] + 1) }
      do throws(PlanError) {
        try next.join(free, merge: chosen)
      } catch {
        return .failure(error)
      }
    }
    let changed = Set(plan.parallel.keys).union(next.parallel.keys)
      .filter { plan.parallel[$0] != next.parallel[$0] }.sorted()
    return .success((Self.title(changed, next), next.parallel))
  }

  private static func title(_ changed: [BlockPair], _ plan: GraftPlan) -> String {
    let place =
      changed.count == 1
      ? "blocks \(changed[0].first) and \(changed[0].second)" : "\(changed.count) pairs of blocks"
    guard let merge = changed.lazy.compactMap({ plan.parallel[$0] }).first else {
      return "\(place) one after the other"
    }
    return "\(place) in parallel, merged by \(merge.summary)"
  }
}
