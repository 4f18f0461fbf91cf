import Explorer
import Foundation
import Plans
import Runs
import Search
import TerminalUI

extension Samples {
  static let lowRank = OperatorSpec("linear").normalized(for: shape)
  static let gated = OperatorSpec("hyena_x").normalized(for: shape)

  /// Costs of three operators of every slot: those of early blocks are dear, and the linear map saves most.
  static func costs(teacher: Double? = 0.0072) -> ReplacementCosts {
    var candidates: [Candidate] = []
    for block in 0..<28 {
      let depth = Foundation.exp(-Double(block) / 4)
      func add(_ slot: SlotID, _ spec: OperatorSpec, _ loss: Double, _ saving: Double) {
        let (old, new) = (
          shape.operatorCost(shape.original(slot.slot)), shape.operatorCost(spec)
        )
        candidates.append(
          Candidate(
            .slot(slot, spec), loss: loss * depth, standardError: loss * depth / 4,
            saving: Amounts(
              time: saving, flops: old.flops - new.flops,
              parameters: Double(old.parameters - new.parameters), memory: old.bytes - new.bytes)))
      }
      add(attention(block), gated, 0.02, 0.00004)
      add(attention(block), lowRank, 0.3, 0.00009)
      add(attention(block), OperatorSpec("mamba2").normalized(for: shape), 0.05, -0.0002)
      add(mlp(block), narrow.normalized(for: shape), 0.001, 0.00001)
      add(mlp(block), lowRank, 0.6, 0.00003)
    }
    return ReplacementCosts(
      candidates,
      conditions: .init(processor: "test", threads: 2, batch: 2, precision: "bf16"),
      teacherSeconds: teacher,
      trained: Dictionary(uniqueKeysWithValues: candidates.map { ($0.change, 40) }))
  }

  /// A finished search with a plan and two baselines.
  static func finishedSearch() -> FinishedSearch {
    func row(_ origin: String, _ blocks: [Int], _ error: Double, _ fraction: Double)
      -> FinishedSearch.Row
    {
      var plan = GraftPlan(named: "", model: model)
      for block in blocks { plan.edits[attention(block)] = gated }
      return FinishedSearch.Row(
        origin: origin, changes: plan.changes, error: error, recovered: error / 3,
        timeFraction: fraction, fraction: fraction)
    }
    return FinishedSearch(
      id: "s1", name: "search", measure: .time,
      rows: [
        row("search", Array(18...27), 0.004, 0.93), row("interleaved", [1, 3, 5, 7], 0.05, 0.94),
        row("random 0", [2, 9, 17], 0.03, 0.95),
      ])
  }

  /// The busy state with a library and a finished search.
  static func scored(_ size: Size, empty: Bool = false) -> AppState {
    var state = empty ? state(size) : busy(size)
    if empty { state.analysis = .ready(analysis()) }
    (state.library.costs, state.library.searches) = (costs(), [finishedSearch()])
    return state
  }

  /// The search for the best plans with its front.
  static func searching(_ size: Size, _ keys: Key...) -> AppState {
    var state = scored(size)
    press(&state, "B")
    solve(&state)
    for key in keys {
      press(&state, key)
      solve(&state)
    }
    return state
  }

  /// Answers the question for a front as the work beside the screen does.
  static func solve(_ state: inout AppState) {
    guard let pane = state.searchPane, pane.isSolving else { return }
    let solver = ParetoSolver(
      state.library.costs?.candidates ?? [], depth: 28, measure: pane.measure,
      constraints: pane.constraints, bins: 512)
    _ = update(&state, .frontSolved(generation: pane.generation, solver.front()))
  }
}
