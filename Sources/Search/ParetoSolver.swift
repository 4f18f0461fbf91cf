import Plans

/// Finds the changes with the smallest sum of losses for every budget at once, by a dynamic programme over
/// blocks and bins of saving.
///
/// Savings are rounded down to bins, so that a solution saves at least what its bin says; its amounts are those
/// of its changes.
package struct ParetoSolver {
  /// Restrictions on solutions.
  package struct Constraints: Equatable, Sendable {
    /// Slots that keep their operator.
    package var kept: Set<SlotID> = []
    /// Slots with a given operator.
    package var required: [SlotID: OperatorSpec] = [:]
    /// Largest number of different operators; nil for any.
    package var mostOperators: Int?
    /// Added for every two neighbouring blocks that are both changed.
    package var neighborLoss = 0.0

    package init() {}
  }

  /// A set of changes.
  package struct Solution: Equatable, Sendable {
    package let changes: [Change]
    /// Sum of the losses.
    package let loss: Double
    /// Sum of the savings.
    package let saving: Amounts
  }

  /// What can be done with a block, or with it and the next one.
  private struct Option {
    let changes: [Change]
    let loss: Double
    let bins: Int
    /// Number of blocks.
    let span: Int
    /// Bit of every operator that it has.
    let operators: UInt64
  }

  private let candidates: [Candidate]
  private let depth: Int
  private let measure: Measure
  private let constraints: Constraints
  private let bins: Int
  private let width: Double
  private let names: [String]
  /// Options that start at each block.
  private var options: [[Option]] = []

  /// Prepares a solution.
  ///
  /// - Parameters:
  ///   - candidates: Changes of single slots or pairs; of several for a slot at most one is chosen.
  ///   - depth: Number of blocks of the model.
  ///   - measure: What the budget is counted in.
  ///   - constraints: Restrictions.
  ///   - bins: Number of bins between nothing and the largest possible saving.
  package init(
    _ candidates: [Candidate], depth: Int, measure: Measure, constraints: Constraints = .init(),
    bins: Int = 4096
  ) {
    precondition(bins > 0 && depth > 0, "ParetoSolver: \(bins) bins, \(depth) blocks")
    self.candidates = candidates.filter { $0.loss.isFinite && $0.saving[measure].isFinite }
    (self.depth, self.measure, self.constraints, self.bins) = (depth, measure, constraints, bins)
    names = Set(self.candidates.map(\.change.operatorName)).sorted()
    // The largest saving of each block, of which pairs share two.
    var most = [Double](repeating: 0, count: depth)
    var bySlot: [SlotID: Double] = [:]
    for candidate in self.candidates {
      let saving = candidate.saving[measure]
      switch candidate.change {
      case .slot(let id, _): bySlot[id] = max(bySlot[id] ?? 0, saving)
      case .pair(let pair, _): most[pair.first] = max(most[pair.first], saving)
      }
    }
    for (id, saving) in bySlot where id.block < depth { most[id.block] += saving }
    width = max(most.reduce(0, +), .leastNormalMagnitude) / Double(bins)
    options = (0..<depth).map { options(at: $0) }
  }

  // MARK: - Options

  private func bins(_ saving: Double) -> Int {
    // A rounding error must not cost a bin.
    Int((saving / width + 1e-9).rounded(.down))
  }

  private func bit(_ change: Change) -> UInt64 {
    names.firstIndex(of: change.operatorName).map { 1 << UInt64($0 % 64) } ?? 0
  }

  /// The nondominated options of a block: nothing, or changes of one or both slots, or a pair with the next one.
  private func options(at block: Int) -> [Option] {
    var combined = [Option(changes: [], loss: 0, bins: 0, span: 1, operators: 0)]
    for slot in Slot.allCases {
      let id = SlotID(block: block, slot: slot)
      let own = candidates.filter { candidate in
        guard case .slot(id, let spec) = candidate.change, !constraints.kept.contains(id) else {
          return false
        }
        return constraints.required[id].map { $0 == spec } ?? true
      }
      let isRequired = constraints.required[id] != nil
      combined = combined.flatMap { option in
        (isRequired ? [] : [option])
          + own.map { candidate in
            Option(
              changes: option.changes + [candidate.change], loss: option.loss + candidate.loss,
              bins: option.bins + bins(candidate.saving[measure]), span: 1,
              operators: option.operators | bit(candidate.change))
          }
      }
    }
    let pairs = candidates.compactMap { candidate -> Option? in
      guard case .pair(let pair, _) = candidate.change, pair.first == block, pair.second < depth,
        pair.slots.allSatisfy({
          !constraints.kept.contains($0) && constraints.required[$0] == nil
        })
      else { return nil }
      return Option(
        changes: [candidate.change], loss: candidate.loss, bins: bins(candidate.saving[measure]),
        span: 2, operators: bit(candidate.change))
    }
    return undominated(combined) + undominated(pairs)
  }

  /// Options without those that save no more than another at no smaller loss, with no fewer operators.
  private func undominated(_ options: [Option]) -> [Option] {
    options.enumerated().filter { index, option in
      !options.enumerated().contains { other, better in
        guard other != index, better.bins >= option.bins, better.loss <= option.loss,
          better.operators & ~option.operators == 0
        else { return false }
        // Of equal ones the first stays.
        return better.bins > option.bins || better.loss < option.loss
          || better.operators != option.operators || other < index
      }
    }.map(\.element)
  }

  // MARK: - Solution

  /// Best solutions for all budgets: losses grow with savings, and none is dominated.
  package func front() -> [Solution] {
    guard let most = constraints.mostOperators, most < names.count else {
      return front(allowing: .max)
    }
    // Every set of that many operators; the fronts are merged.
    return Self.undominated(
      subsets(of: names.count, size: max(0, most)).flatMap { front(allowing: $0) }, by: measure)
  }

  /// The solution of the smallest loss that saves at least an amount; nil if none does.
  package func solution(saving: Double) -> Solution? {
    front().first { $0.saving[measure] >= saving * (1 - 1e-12) }
  }

  private func subsets(of count: Int, size: Int) -> [UInt64] {
    var result: [UInt64] = []
    func extend(_ set: UInt64, _ next: Int, _ left: Int) {
      guard left > 0, next < count else {
        result.append(set)
        return
      }
      for index in next..<count where count - index >= left {
        extend(set | 1 << UInt64(index % 64), index + 1, left - 1)
      }
    }
    extend(0, 0, min(size, count))
    return result
  }

  /// Table entry: losses by bin, and the step that gave each: twice the option's index plus its blocks less one,
  /// and the earlier bin times the number of kinds plus the earlier kind.
  private struct State {
    var losses: [Double]
    var chosen: [UInt16]
    var from: [Int32]

    init(_ bins: Int) {
      losses = .init(repeating: .infinity, count: bins)
      chosen = .init(repeating: 0, count: bins)
      from = .init(repeating: 0, count: bins)
    }
  }

  private func front(allowing operators: UInt64) -> [Solution] {
    // Two states where neighbours interact: whether the last block is unchanged (0) or changed (1).
    let kinds = constraints.neighborLoss == 0 ? 1 : 2
    let size = bins + 1
    var table = (0...depth).map { _ in (0..<kinds).map { _ in State(size) } }
    table[0][0].losses[0] = 0
    for block in 0..<depth {
      for (index, option) in options[block].enumerated() {
        guard option.operators & ~operators == 0, block + option.span <= depth else { continue }
        let target = block + option.span
        let isChanged = !option.changes.isEmpty
        let kind = kinds == 2 && isChanged ? 1 : 0
        let inside = option.span == 2 ? constraints.neighborLoss : 0
        for earlier in 0..<kinds {
          let extra =
            option.loss + inside + (earlier == 1 && isChanged ? constraints.neighborLoss : 0)
          table[block][earlier].losses.withUnsafeBufferPointer { source in
            relax(
              &table[target][kind], from: source, shift: option.bins, extra: extra,
              chosen: UInt16(index << 1 | (option.span - 1)), kind: earlier, kinds: kinds)
          }
        }
      }
    }
    // A later bin with no larger loss makes an earlier one superfluous.
    var solutions: [Solution] = []
    var best = Double.infinity
    for bin in stride(from: bins, through: 0, by: -1) {
      let kind =
        (0..<kinds).min { table[depth][$0].losses[bin] < table[depth][$1].losses[bin] } ?? 0
      let loss = table[depth][kind].losses[bin]
      guard loss < best else { continue }
      best = loss
      solutions.append(trace(table, bin: bin, kind: kind, kinds: kinds, loss: loss))
    }
    return Self.undominated(solutions, by: measure)
  }

  private func relax(
    _ target: inout State, from source: UnsafeBufferPointer<Double>, shift: Int, extra: Double,
    chosen: UInt16, kind: Int, kinds: Int
  ) {
    target.losses.withUnsafeMutableBufferPointer { losses in
      target.chosen.withUnsafeMutableBufferPointer { steps in
        target.from.withUnsafeMutableBufferPointer { from in
          let last = source.count - 1
          for bin in max(0, -shift)..<source.count {
            let loss = source[bin] + extra
            let reached = min(last, bin + shift)
            if loss < losses[reached] {
              losses[reached] = loss
              steps[reached] = chosen
              from[reached] = Int32(bin * kinds + kind)
            }
          }
        }
      }
    }
  }

  private func trace(
    _ table: [[State]], bin: Int, kind: Int, kinds: Int, loss: Double
  ) -> Solution {
    var (block, bin, kind) = (depth, bin, kind)
    var changes: [Change] = []
    while block > 0 {
      let state = table[block][kind]
      let (origin, chosen) = (Int(state.from[bin]), Int(state.chosen[bin]))
      block -= (chosen & 1) + 1
      changes += options[block][chosen >> 1].changes.reversed()
      (bin, kind) = (origin / kinds, origin % kinds)
    }
    let byChange = Dictionary(candidates.map { ($0.change, $0) }) { first, _ in first }
    let saving = changes.reduce(Amounts()) { $0 + (byChange[$1]?.saving ?? Amounts()) }
    return Solution(changes: changes.reversed(), loss: loss, saving: saving)
  }

  /// Solutions in ascending order of saving without those that another one matches in both respects.
  private static func undominated(_ solutions: [Solution], by measure: Measure) -> [Solution] {
    let ordered = solutions.sorted {
      ($0.saving[measure], -$0.loss) < ($1.saving[measure], -$1.loss)
    }
    var result: [Solution] = []
    var best = Double.infinity
    for solution in ordered.reversed() where solution.loss < best {
      best = solution.loss
      result.append(solution)
    }
    return result.reversed()
  }
}
