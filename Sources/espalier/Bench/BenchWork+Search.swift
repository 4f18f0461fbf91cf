import Plans
import Search
import TensorCore

extension BenchWork {
  /// The search's solution for all budgets, with random losses and savings: 17 candidates in each of 28 blocks.
  static let search = [
    BenchWork(
      id: "solve_demo", title: "best plans for all budgets, 28 blocks, 476 candidates", units: 476,
      unit: "candidates/s"
    ) { _ in
      let random = RandomStream(seed: 1, "bench/search")
      var candidates: [Candidate] = []
      for block in 0..<demo.depth {
        for (slot, count) in [(Slot.attention, 11), (.mlp, 6)] {
          for index in 0..<count {
            // Names do not matter, as long as they differ.
            let spec = OperatorSpec("candidate\(slot)\(index)")
            let saving = random.uniform(candidates.count) * (slot == .attention ? 1e-4 : 5e-5)
            candidates.append(
              Candidate(
                .slot(SlotID(block: block, slot: slot), spec),
                loss: random.uniform(1000 + candidates.count) * saving,
                saving: Amounts(time: saving)))
          }
        }
      }
      return { [candidates] in
        _ = ParetoSolver(candidates, depth: demo.depth, measure: .time).front()
      }
    }
  ]
}
