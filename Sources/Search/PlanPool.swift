import Plans

extension ParetoSolver.Solution {
  /// Number of slots in which two solutions differ.
  package func distance(to other: ParetoSolver.Solution) -> Int {
    func bySlot(_ changes: [Change]) -> [SlotID: Change] {
      changes.reduce(into: [:]) { result, change in
        for id in change.slots { result[id] = change }
      }
    }
    let (one, two) = (bySlot(changes), bySlot(other.changes))
    return Set(one.keys).union(two.keys).count { one[$0] != two[$0] }
  }
}

/// Good solutions that differ from each other.
package enum PlanPool {
  /// Finds solutions for one budget, the best first, each at least `distance` slots away from all before.
  ///
  /// A candidate that earlier solutions share costs more in later ones, by a growing share of its loss, until a
  /// solution is far enough; one that never gets there ends the pool. The losses of the result are the true ones.
  /// - Parameters:
  ///   - candidates: Changes of slots and pairs.
  ///   - depth: Number of blocks.
  ///   - measure: What the budget is counted in.
  ///   - saving: What a solution must save.
  ///   - constraints: Restrictions on every solution.
  ///   - count: Largest number of solutions.
  ///   - distance: Smallest number of slots in which two solutions differ.
  /// - Returns: The solutions; none if the budget cannot be met.
  package static func solutions(
    _ candidates: [Candidate], depth: Int, measure: Measure, saving: Double,
    constraints: ParetoSolver.Constraints = .init(), count: Int, distance: Int
  ) -> [ParetoSolver.Solution] {
    let largest = candidates.map(\.loss).filter(\.isFinite).max() ?? 0
    let byChange = Dictionary(candidates.map { ($0.change, $0) }) { first, _ in first }
    var pool: [ParetoSolver.Solution] = []
    var penalties: [Change: Double] = [:]
    var attempts = 0
    while pool.count < count, attempts < 12 * count {
      attempts += 1
      let raised = candidates.map { candidate in
        var candidate = candidate
        candidate.loss += penalties[candidate.change] ?? 0
        return candidate
      }
      let solver = ParetoSolver(
        raised, depth: depth, measure: measure, constraints: constraints, bins: 1024)
      guard let found = solver.solution(saving: saving) else { break }
      if pool.allSatisfy({ found.distance(to: $0) >= distance }) {
        let loss = found.loss - found.changes.reduce(0) { $0 + (penalties[$1] ?? 0) }
        pool.append(.init(changes: found.changes, loss: loss, saving: found.saving))
      }
      for change in found.changes {
        let own = byChange[change]?.loss ?? 0
        penalties[change, default: 0] += max(0.25 * own, 0.02 * largest)
      }
    }
    return pool.sorted { $0.loss < $1.loss }
  }
}
