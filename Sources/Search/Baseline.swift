import Plans

/// Simple ways to choose the slots of one operator, to which a search is compared at equal saving.
package enum Baseline: CaseIterable, Sendable {
  case interleaved, last, leastLocal, mostLocal, random

  package var name: String {
    switch self {
    case .interleaved: "interleaved"
    case .last: "last blocks"
    case .leastLocal: "lowest locality"
    case .mostLocal: "highest locality"
    case .random: "random"
    }
  }

  /// Order in which blocks are changed, as many as the budget asks for.
  ///
  /// - Parameters:
  ///   - depth: Number of blocks.
  ///   - locality: Share of local attention of every block, for the orders by locality.
  ///   - permutation: All blocks in the order of `random`.
  /// - Returns: All blocks.
  package func order(depth: Int, locality: [Double], permutation: [Int] = []) -> [Int] {
    switch self {
    case .interleaved:
      return Array(stride(from: 1, to: depth, by: 2)) + Array(stride(from: 0, to: depth, by: 2))
    case .last: return (0..<depth).reversed()
    case .leastLocal: return (0..<depth).sorted { (locality[$0], $0) < (locality[$1], $1) }
    case .mostLocal: return (0..<depth).sorted { (-locality[$0], $0) < (-locality[$1], $1) }
    case .random: return permutation
    }
  }

  /// Changes of one operator in the order of the baseline until they save an amount; nil if all do not.
  ///
  /// - Parameters:
  ///   - candidates: Changes of single slots.
  ///   - slot: Slot of the changes.
  ///   - spec: The operator.
  ///   - order: Blocks in order.
  ///   - measure: What the saving is counted in.
  ///   - saving: The amount.
  /// - Returns: The changes.
  package static func changes(
    _ candidates: [Candidate], slot: Slot, spec: OperatorSpec, order: [Int],
    measure: Measure, saving: Double
  ) -> [Change]? {
    var byBlock: [Int: Candidate] = [:]
    for candidate in candidates {
      guard case .slot(let id, let own) = candidate.change, id.slot == slot, own == spec else {
        continue
      }
      byBlock[id.block] = candidate
    }
    var changes: [Change] = []
    var saved = 0.0
    for block in order {
      if saved >= saving { return changes }
      guard let candidate = byBlock[block] else { continue }
      changes.append(candidate.change)
      saved += candidate.saving[measure]
    }
    return saved >= saving ? changes : nil
  }
}
