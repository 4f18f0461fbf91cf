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
    var changes: [Change] = []
    var loss = 0.0
    var saving = Amounts()
    var bins = 0
    /// Number of blocks.
    var span = 1
    /// Bit of every operator that it has.
    var operators: UInt64 = 0
  }

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
    let candidates = candidates.filter { $0.loss.isFinite && $0.saving[measure].isFinite }
    (self.depth, self.measure, self.constraints, self.bins) = (depth, measure, constraints, bins)
    names = Set(candidates.map(\.change.operatorName)).sorted()
    // The largest saving of each block, of which pairs share two.
    var most = [Double](repeating: 0, count: depth)
    var bySlot: [SlotID: Double] = [:]
    for candidate in candidates {
      let saving = candidate.saving[measure]
      switch candidate.change {
      case .slot(let id, _): bySlot[id] = max(bySlot[id] ?? 0, saving)
      case .pair(let pair, _): most[pair.first] = max(most[pair.first], saving)
      }
    }
    for (id, saving) in bySlot where id.block < depth { most[id.block] += saving }
    width = max(most.reduce(0, +), .leastNormalMagnitude) / Double(bins)
    var byBlock = [[Candidate]](repeating: [], count: depth)
    for candidate in candidates {
      guard let block = candidate.change.slots.map(\.block).min(), block < depth else { continue }
      byBlock[block].append(candidate)
    }
    options = byBlock.enumerated().map { options(at: $0, of: $1) }
  }

  // MARK: - Options

  private func bins(_ saving: Double) -> Int {
    // A rounding error must not cost a bin. Where nothing saves anything, a loss of time is any number of bins.
    let (place, most) = ((saving / width + 1e-9).rounded(.down), Double(self.bins))
    return Int(min(max(place, -most), most))
  }

  /// An option with one more change.
  private func adding(_ candidate: Candidate, to option: Option) -> Option {
    var option = option
    option.changes.append(candidate.change)
    option.loss += candidate.loss
    option.saving = option.saving + candidate.saving
    option.bins += bins(candidate.saving[measure])
    option.operators |=
      names.firstIndex(of: candidate.change.operatorName).map { 1 << UInt64($0 % 64) } ?? 0
    return option
  }

  /// The nondominated options of a block: nothing, or changes of one or both slots, or a pair with the next one.
  private func options(at block: Int, of candidates: [Candidate]) -> [Option] {
    var combined = [Option()]
    var pairs: [Option] = []
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
        (isRequired ? [] : [option]) + own.map { adding($0, to: option) }
      }
    }
    for candidate in candidates {
      guard case .pair(let pair, _) = candidate.change, pair.second < depth,
        pair.slots.allSatisfy({ !constraints.kept.contains($0) && constraints.required[$0] == nil })
      else { continue }
      var option = adding(candidate, to: Option())
      option.span = 2
      pairs.append(option)
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
    // Fronts of several sets of operators are merged.
    Self.undominated(allowedOperators.flatMap { solutions(allowing: $0) }, by: measure)
  }

  /// The solution of the smallest loss that saves at least an amount; nil if none does.
  package func solution(saving: Double) -> Solution? {
    // A bin may hold less than the amount of its solution, so that all from the amount's own bin on count.
    let least = max(0, bins(saving) - 2 * depth)
    return allowedOperators.flatMap { solutions(allowing: $0, from: least) }
      .filter { $0.saving[measure] >= saving * (1 - 1e-12) }
      .min { ($0.loss, -$0.saving[measure]) < ($1.loss, -$1.saving[measure]) }
  }

  /// Every set of as many operators as are allowed.
  private var allowedOperators: [UInt64] {
    guard let most = constraints.mostOperators, most < names.count else { return [.max] }
    return subsets(of: names.count, size: max(0, most))
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

  /// The best solution of every bin from one on, without those that a later bin matches.
  private func solutions(allowing operators: UInt64, from least: Int = 0) -> [Solution] {
    // Two states where neighbours interact: whether the last block is unchanged (0) or changed (1).
    let kinds = constraints.neighborLoss == 0 ? 1 : 2
    var table = (0...depth).map { _ in (0..<kinds).map { _ in State(bins + 1) } }
    table[0][0].losses[0] = 0
    // The highest bin that is reached before each block.
    var highest = [Int](repeating: 0, count: depth + 1)
    for block in 0..<depth {
      for (index, option) in options[block].enumerated() {
        guard option.operators & ~operators == 0, block + option.span <= depth else { continue }
        let target = block + option.span
        highest[target] = max(highest[target], min(bins, highest[block] + option.bins))
        let isChanged = !option.changes.isEmpty
        let kind = kinds == 2 && isChanged ? 1 : 0
        let inside = option.span == 2 ? constraints.neighborLoss : 0
        for earlier in 0..<kinds {
          let extra =
            option.loss + inside + (earlier == 1 && isChanged ? constraints.neighborLoss : 0)
          table[block][earlier].losses.withUnsafeBufferPointer { source in
            relax(
              &table[target][kind], from: source, through: highest[block], shift: option.bins,
              extra: extra, chosen: UInt16(index << 1 | (option.span - 1)), kind: earlier,
              kinds: kinds)
          }
        }
      }
    }
    var solutions: [Solution] = []
    var best = Double.infinity
    for bin in stride(from: bins, through: least, by: -1) {
      let kind =
        (0..<kinds).min { table[depth][$0].losses[bin] < table[depth][$1].losses[bin] } ?? 0
      let loss = table[depth][kind].losses[bin]
      guard loss < best else { continue }
      best = loss
      solutions.append(trace(table, bin: bin, kind: kind, kinds: kinds, loss: loss))
    }
    return solutions
  }

  private func relax(
    _ target: inout State, from source: UnsafeBufferPointer<Double>, through highest: Int,
    shift: Int, extra: Double, chosen: UInt16, kind: Int, kinds: Int
  ) {
    target.losses.withUnsafeMutableBufferPointer { losses in
      target.chosen.withUnsafeMutableBufferPointer { steps in
        target.from.withUnsafeMutableBufferPointer { from in
          let last = source.count - 1
          for bin in stride(from: max(0, -shift), through: highest, by: 1) {
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
    var chosen: [Option] = []
    while block > 0 {
      let state = table[block][kind]
      let (origin, step) = (Int(state.from[bin]), Int(state.chosen[bin]))
      block -= (step & 1) + 1
      chosen.append(options[block][step >> 1])
      (bin, kind) = (origin / kinds, origin % kinds)
    }
    chosen.reverse()
    return Solution(
      changes: chosen.flatMap(\.changes), loss: loss,
      saving: chosen.reduce(Amounts()) { $0 + $1.saving })
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
