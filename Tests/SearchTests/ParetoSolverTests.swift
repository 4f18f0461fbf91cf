import Library
import Operators
import Plans
import Search
import TensorCore
import Testing

@MainActor @Suite("Search of plans")
struct ParetoSolverTests {
  init() { OperatorRegistry.fillCatalog() }

  private func slot(_ block: Int, _ slot: Slot = .attention, _ name: String = "skip") -> Change {
    .slot(SlotID(block: block, slot: slot), OperatorSpec(name))
  }

  private func candidate(_ change: Change, loss: Double, saves: Double) -> Candidate {
    Candidate(change, loss: loss, saving: Amounts(time: saves))
  }

  /// Random candidates with savings that are whole bins, so that rounding plays no part.
  private func random(depth: Int, seed: UInt64, pairs: Bool) -> [Candidate] {
    let draws = RandomStream(seed: seed, "candidates")
    var index = 0
    func draw(_ bound: Int) -> Int {
      index += 1
      return draws.integer(below: bound, index)
    }
    var result: [Candidate] = []
    for block in 0..<depth {
      for slot in Slot.allCases {
        for name in ["skip", "linear_attention", "hyena_x"]
        where slot == .attention || name == "skip" {
          result.append(
            candidate(
              self.slot(block, slot, name), loss: Double(1 + draw(50)), saves: Double(draw(9) - 1)))
        }
      }
      if pairs, block + 1 < depth {
        result.append(
          candidate(
            .pair(BlockPair(first: block), .mean), loss: Double(1 + draw(60)),
            saves: Double(draw(12))))
      }
    }
    return result
  }

  /// The smallest loss that saves at least each amount, by trying everything.
  private func exhaustive(
    _ candidates: [Candidate], depth: Int, most: Int? = nil, neighborLoss: Double = 0
  ) -> (Double) -> Double {
    var all: [(saving: Double, loss: Double)] = []
    func extend(_ block: Int, _ chosen: [Candidate]) {
      guard block < depth else {
        let changed = Set(chosen.flatMap { $0.change.slots.map(\.block) })
        let neighbors = changed.count { changed.contains($0 + 1) }
        if let most, Set(chosen.map(\.change.operatorName)).count > most { return }
        all.append(
          (
            chosen.reduce(0) { $0 + $1.saving.time },
            chosen.reduce(0) { $0 + $1.loss } + Double(neighbors) * neighborLoss
          ))
        return
      }
      func own(_ slot: Slot) -> [[Candidate]] {
        [[]]
          + candidates.filter {
            guard case .slot(let id, _) = $0.change else { return false }
            return id == SlotID(block: block, slot: slot)
          }.map { [$0] }
      }
      for first in own(.attention) {
        for second in own(.mlp) { extend(block + 1, chosen + first + second) }
      }
      for candidate in candidates {
        if case .pair(let pair, _) = candidate.change, pair.first == block {
          extend(block + 2, chosen + [candidate])
        }
      }
    }
    extend(0, [])
    return { saving in all.filter { $0.saving >= saving }.map(\.loss).min() ?? .infinity }
  }

  @Test(arguments: [UInt64(1), 2, 3])
  func allBudgetsAgreeWithTryingEverything(seed: UInt64) {
    let depth = 4
    let candidates = random(depth: depth, seed: seed, pairs: true)
    for neighborLoss in [0, 7.0] {
      var constraints = ParetoSolver.Constraints()
      constraints.neighborLoss = neighborLoss
      let solver = ParetoSolver(
        candidates, depth: depth, measure: .time, constraints: constraints, bins: 4096)
      let best = exhaustive(candidates, depth: depth, neighborLoss: neighborLoss)
      for saving in stride(from: 0.0, through: 40, by: 1) {
        let found = solver.solution(saving: saving)
        #expect((found?.loss ?? .infinity) == best(saving), "saving \(saving), seed \(seed)")
        if let found { #expect(found.saving.time >= saving) }
      }
    }
  }

  @Test func atMostKOperatorsAgreesWithTryingEverything() {
    let depth = 3
    let candidates = random(depth: depth, seed: 5, pairs: true)
    for most in 0...3 {
      var constraints = ParetoSolver.Constraints()
      constraints.mostOperators = most
      let solver = ParetoSolver(
        candidates, depth: depth, measure: .time, constraints: constraints)
      let best = exhaustive(candidates, depth: depth, most: most)
      for saving in stride(from: 0.0, through: 30, by: 1) {
        #expect((solver.solution(saving: saving)?.loss ?? .infinity) == best(saving))
      }
    }
  }

  @Test func locksHold() throws {
    let candidates = random(depth: 6, seed: 9, pairs: true)
    var constraints = ParetoSolver.Constraints()
    let (kept, required) = (SlotID(block: 1, slot: .attention), SlotID(block: 4, slot: .attention))
    constraints.kept = [kept]
    constraints.required = [required: OperatorSpec("hyena_x")]
    let front = ParetoSolver(
      candidates, depth: 6, measure: .time, constraints: constraints
    ).front()
    try #require(front.count > 3)
    for solution in front {
      #expect(!solution.changes.contains { $0.slots.contains(kept) })
      #expect(solution.changes.contains(slot(4, .attention, "hyena_x")))
    }
    // The front rises in both respects.
    for (one, two) in zip(front, front.dropFirst()) {
      #expect(one.loss < two.loss && one.saving.time < two.saving.time)
    }
  }

  @Test func aPoolIsDiverse() {
    let candidates = random(depth: 12, seed: 3, pairs: false)
    let pool = PlanPool.solutions(
      candidates, depth: 12, measure: .time, saving: 25, count: 6, distance: 4)
    #expect(pool.count == 6)
    for (index, one) in pool.enumerated() {
      #expect(one.saving.time >= 25)
      for other in pool[(index + 1)...] { #expect(one.distance(to: other) >= 4) }
    }
    let best = ParetoSolver(candidates, depth: 12, measure: .time).solution(saving: 25)
    #expect(pool.first?.loss == best?.loss)
  }

  /// Operators that all take longer than the original ones leave nothing to choose, whatever the budget.
  @Test(arguments: [-1e-9, -1e-3, -1e300])
  func nothingSaves(loss: Double) {
    let slower = (0..<3).map { candidate(slot($0), loss: 1, saves: loss * Double($0 + 1)) }
    let solver = ParetoSolver(slower, depth: 3, measure: .time)
    #expect(solver.front().map(\.changes) == [[]])
    for saving in [1e-3, 1e300] { #expect(solver.solution(saving: saving) == nil) }
    // One that saves little beside one that loses much.
    let mixed = slower + [candidate(slot(0, .mlp), loss: 2, saves: 1e-12)]
    let least = ParetoSolver(mixed, depth: 3, measure: .time).solution(saving: 1e-12)
    #expect(least?.changes == [slot(0, .mlp)])
  }

  /// Reference values: the mean and its interval of 1, 2, 4 by Student's distribution with two degrees of freedom.
  @Test func intervalsOfSeeds() throws {
    let values = SeedValues([1, 2, 4])
    #expect(abs(values.mean - 7.0 / 3) < 1e-12)
    let error = try #require(values.standardError)
    #expect(abs(error - 0.881917) < 1e-6)
    #expect(abs(try #require(values.halfWidth) - 3.794577) < 1e-5)
    #expect(SeedValues([5]).halfWidth == nil)
    // A paired difference is surer than its parts.
    let difference = SearchReport.Difference(SeedValues([1.5, 2.5, 4.5]).minus(values))
    #expect(difference.mean == 0.5 && difference.halfWidth == 0)
    // 97.5 % quantiles of 12 and 29 degrees of freedom.
    for (count, quantile) in [(13, 2.17881), (30, 2.04523)] {
      let many = SeedValues((0..<count).map { Double($0) })
      let ratio = try #require(many.halfWidth) / (try #require(many.standardError))
      #expect(abs(ratio - quantile) < 2e-3)
    }
  }

  /// A solution for one amount is that of the front.
  @Test func oneBudgetIsAPointOfTheFront() {
    let candidates = random(depth: 8, seed: 4, pairs: true)
    var constraints = ParetoSolver.Constraints()
    for most in [Int?.none, 2] {
      constraints.mostOperators = most
      for bins in [37, 4096] {
        let solver = ParetoSolver(
          candidates, depth: 8, measure: .time, constraints: constraints, bins: bins)
        let front = solver.front()
        for saving in stride(from: -2.0, through: 60, by: 1.5) {
          let expected = front.first { $0.saving.time >= saving * (1 - 1e-12) }
          #expect(solver.solution(saving: saving)?.loss == expected?.loss)
        }
      }
    }
  }

  @Test func ranksShareTies() {
    #expect(Ranking.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1)
    #expect(Ranking.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1)
    // Ranks 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
    #expect(
      abs(Ranking.spearman([1, 2, 2, 3], [1, 2, 3, 4]) - 4.5 / (4.5 * 5).squareRoot()) < 1e-12)
  }

  @Test func baselinesStopAtTheBudget() throws {
    let candidates = (0..<6).map { candidate(slot($0), loss: 1, saves: 2) }
    let order = Baseline.interleaved.order(depth: 6, locality: [])
    #expect(order == [1, 3, 5, 0, 2, 4])
    let changes = try #require(
      Baseline.changes(
        candidates, slot: .attention, spec: OperatorSpec("skip"), order: order, measure: .time,
        saving: 5)
    )
    #expect(changes == [slot(1), slot(3), slot(5)])
    #expect(
      Baseline.changes(
        candidates, slot: .attention, spec: OperatorSpec("skip"), order: order, measure: .time,
        saving: 13
      )
        == nil)
    let locality = [0.3, 0.1, 0.9, 0.5]
    #expect(Baseline.leastLocal.order(depth: 4, locality: locality) == [1, 0, 3, 2])
    #expect(Baseline.mostLocal.order(depth: 4, locality: locality) == [2, 3, 0, 1])
    #expect(Baseline.random.order(depth: 3, locality: [], permutation: [2, 0, 1]) == [2, 0, 1])
  }
}
