import Plans
import Search

/// Evaluates sets of changes whole and improves the best ones.
package struct PlanSearch {
  /// A set of changes with what is known of it.
  package struct Result: Sendable {
    /// How it was found: `search`, or the name of a baseline.
    package var origin: String
    package let changes: [Change]
    /// Sum of the errors of its changes.
    package let sum: Double
    package let saving: Amounts
    /// Error with all changes at once.
    package var whole: Estimate?
    /// Error after a short stage 2.
    package var recovered: Estimate?
    /// Measured seconds of a forward pass.
    package var seconds: Double?

    package init(origin: String, changes: [Change], sum: Double, saving: Amounts) {
      (self.origin, self.changes, self.sum, self.saving) = (origin, changes, sum, saving)
    }
  }

  private let candidates: [Change: Candidate]
  private let all: [Candidate]
  private let depth: Int
  private let measure: Measure
  private let evaluate: ([Change]) throws -> Estimate

  /// Prepares a search.
  ///
  /// - Parameters:
  ///   - candidates: Scored changes.
  ///   - depth: Number of blocks.
  ///   - measure: What the budget is counted in.
  ///   - evaluate: Error of a model with all changes at once.
  package init(
    _ candidates: [Candidate], depth: Int, measure: Measure,
    evaluate: @escaping ([Change]) throws -> Estimate
  ) {
    self.candidates = Dictionary(candidates.map { ($0.change, $0) }) { first, _ in first }
    (all, self.depth, self.measure, self.evaluate) = (candidates, depth, measure, evaluate)
  }

  /// What a search of one budget found.
  package struct Found: Sendable {
    /// Evaluated sets, the smallest error first.
    package let results: [Result]
    /// Rank correlation of sums and whole errors in the pool; NaN where it says nothing.
    package let agreement: Double
    /// Loss added for neighbouring changed blocks; 0 if sums ranked well.
    package let neighborLoss: Double
  }

  /// Agreement below which an interaction of neighbours is fitted.
  private static let goodAgreement = 0.8

  /// Finds sets of changes that save an amount.
  ///
  /// - Parameters:
  ///   - saving: What must be saved.
  ///   - constraints: Restrictions.
  ///   - pool: Number of diverse sets that are evaluated whole, and their smallest distance.
  ///   - swaps: Number of single replacements in the best set that are tried.
  /// - Returns: The evaluated sets; empty if nothing saves enough.
  /// - Throws: Errors of `evaluate`.
  package func callAsFunction(
    saving: Double, constraints: ParetoSolver.Constraints, pool: (count: Int, distance: Int),
    swaps: Int
  ) throws -> Found {
    var results = try evaluated(
      PlanPool.solutions(
        all, depth: depth, measure: measure, saving: saving, constraints: constraints,
        count: pool.count, distance: pool.distance))
    let agreement = Ranking.spearman(results.map(\.sum), results.compactMap { $0.whole?.value })
    var neighborLoss = 0.0
    if results.count > 2, agreement < Self.goodAgreement {
      neighborLoss = interaction(results)
      if neighborLoss > 0 {
        var corrected = constraints
        corrected.neighborLoss = neighborLoss
        let known = Set(results.map { Set($0.changes) })
        results += try evaluated(
          PlanPool.solutions(
            all, depth: depth, measure: measure, saving: saving, constraints: corrected,
            count: max(1, pool.count / 2), distance: pool.distance
          ).filter { !known.contains(Set($0.changes)) })
      }
    }
    results.sort(by: Self.isBetter)
    if let best = results.first {
      results += try improved(best, saving: saving, constraints: constraints, tries: swaps)
      results.sort(by: Self.isBetter)
    }
    return Found(results: results, agreement: agreement, neighborLoss: neighborLoss)
  }

  private static func isBetter(_ one: Result, _ other: Result) -> Bool {
    (one.whole?.value ?? .infinity) < (other.whole?.value ?? .infinity)
  }

  /// A set of changes with the sums of its candidates.
  package func result(_ origin: String, _ changes: [Change]) -> Result {
    let own = changes.compactMap { candidates[$0] }
    return Result(
      origin: origin, changes: changes, sum: own.reduce(0) { $0 + $1.loss },
      saving: own.reduce(Amounts()) { $0 + $1.saving })
  }

  private func evaluated(_ solutions: [ParetoSolver.Solution]) throws -> [Result] {
    try solutions.map { solution in
      var result = result("search", solution.changes)
      result.whole = try evaluate(solution.changes)
      return result
    }
  }

  /// What a pair of neighbouring changed blocks adds, by least squares; never negative.
  private func interaction(_ results: [Result]) -> Double {
    let points = results.compactMap { result -> (neighbors: Double, rest: Double)? in
      guard let whole = result.whole else { return nil }
      let blocks = Set(result.changes.flatMap { $0.slots.map(\.block) })
      return (Double(blocks.count { blocks.contains($0 + 1) }), whole.value - result.sum)
    }
    let squares = points.reduce(0) { $0 + $1.neighbors * $1.neighbors }
    guard squares > 0 else { return 0 }
    return max(0, points.reduce(0) { $0 + $1.neighbors * $1.rest } / squares)
  }

  /// Tries single replacements in a set, those with the smallest sum first, and keeps what improves it.
  private func improved(
    _ best: Result, saving: Double, constraints: ParetoSolver.Constraints, tries: Int
  ) throws -> [Result] {
    var (current, found): (Result, [Result]) = (best, [])
    var tried: Set<Set<Change>> = [Set(best.changes)]
    for _ in 0..<tries {
      let moves = neighbors(of: current, saving: saving, constraints: constraints)
        .filter { !tried.contains(Set($0.changes)) }
      guard var move = moves.min(by: { $0.sum < $1.sum }) else { break }
      tried.insert(Set(move.changes))
      move.whole = try evaluate(move.changes)
      found.append(move)
      if Self.isBetter(move, current) { current = move }
    }
    return found
  }

  /// Sets that differ in one slot, or exchange one changed slot for another, and still save enough.
  private func neighbors(
    of result: Result, saving: Double, constraints: ParetoSolver.Constraints
  ) -> [Result] {
    let most = constraints.mostOperators ?? .max
    func fits(_ changes: [Change]) -> Result? {
      let next = self.result("search, swapped", changes)
      let names = Set(changes.map(\.operatorName))
      return next.saving[measure] >= saving && names.count <= most ? next : nil
    }
    let additions = all.filter { candidate in
      candidate.change.slots.allSatisfy {
        !constraints.kept.contains($0) && constraints.required[$0] == nil
      }
    }
    var moves: [Result] = []
    for (index, change) in result.changes.enumerated() {
      guard change.slots.allSatisfy({ constraints.required[$0] == nil }) else { continue }
      var rest = result.changes
      rest.remove(at: index)
      let taken = Set(rest.flatMap(\.slots))
      if let move = fits(rest) { moves.append(move) }
      for addition in additions
      where addition.change != change && taken.isDisjoint(with: addition.change.slots) {
        if let move = fits(rest + [addition.change]) { moves.append(move) }
      }
    }
    return moves
  }
}
