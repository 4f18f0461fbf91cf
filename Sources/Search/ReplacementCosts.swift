import Plans

/// What replacing the operators of a model costs in quality and saves in time, as its library has measured it on this
/// machine.
package struct ReplacementCosts: Equatable, Sendable {
  /// Scored and timed operators, those of a slot in order of their price.
  package let candidates: [Candidate]
  /// What they were timed with; nil if none was timed on this machine.
  package let conditions: OperatorLibrary.TimingConditions?
  /// Measured seconds of a forward pass of the teacher; nil if they were not recorded.
  package let teacherSeconds: Double?
  /// Steps of the longest training of every operator that the library has weights of.
  package let trained: [Change: Int]
  /// Number of operators that are in the library, and of those that another machine timed.
  package let count, elsewhere: Int
  private let bySlot: [SlotID: [Candidate]]

  /// Costs of candidates.
  package init(
    _ candidates: [Candidate], conditions: OperatorLibrary.TimingConditions? = nil,
    teacherSeconds: Double? = nil, trained: [Change: Int] = [:], count: Int? = nil,
    elsewhere: Int = 0
  ) {
    self.candidates = candidates.sorted { one, other in
      guard let first = one.change.slots.first, let second = other.change.slots.first,
        first != second
      else { return one.isCheaper(than: other) }
      return first < second
    }
    (self.conditions, self.teacherSeconds) = (conditions, teacherSeconds)
    (self.trained, self.count, self.elsewhere) = (trained, count ?? candidates.count, elsewhere)
    bySlot = Dictionary(grouping: self.candidates) {
      $0.change.slots.first ?? SlotID(block: 0, slot: .attention)
    }
  }

  /// The candidates of a slot, the cheapest first.
  package func candidates(of slot: SlotID) -> [Candidate] { bySlot[slot] ?? [] }

  /// An operator in a slot; nil if it was not scored or not timed there.
  package func candidate(_ spec: OperatorSpec, in slot: SlotID) -> Candidate? {
    candidates(of: slot).first { $0.change == .slot(slot, spec) }
  }

  /// The operators of a kind of slot, in order of their median price over the slots.
  package func operators(of slot: Slot) -> [OperatorSpec] {
    var prices: [OperatorSpec: [Double]] = [:]
    for candidate in candidates {
      guard case .slot(let id, let spec) = candidate.change, id.slot == slot else { continue }
      prices[spec, default: []].append(candidate.price)
    }
    let medians = prices.mapValues { $0.sorted()[$0.count / 2] }
    return medians.sorted {
      ($0.value, OperatorCatalog.label($0.key)) < ($1.value, OperatorCatalog.label($1.key))
    }
    .map(\.key)
  }

  /// The slots whose operator as a plan has it is in the library, with the steps of its training.
  package func trained(for plan: GraftPlan) -> [SlotID: Int] {
    let shape = plan.model.shape
    return plan.edits.reduce(into: [:]) { result, edit in
      result[edit.key] = trained[.slot(edit.key, edit.value.normalized(for: shape))]
    }
  }
}

extension OperatorLibrary {
  /// What the library says of costs: those with the conditions that most operators were timed with on a processor.
  ///
  /// - Parameters:
  ///   - shape: The teacher's architecture.
  ///   - processor: Name of the processor, by default of this machine's.
  /// - Returns: The costs; empty without a library.
  package func costs(
    for shape: ModelShape, on processor: String = TimingConditions.processorName
  ) -> ReplacementCosts {
    let entries = entries().map(\.entry)
    let timed = entries.filter { $0.score != nil && $0.timing != nil }
    let here = Dictionary(
      grouping: timed.compactMap(\.timing).filter { $0.conditions.processor == processor },
      by: \.conditions)
    let chosen = here.max {
      ($0.value.count, -$0.key.batch, $0.key.precision)
        < ($1.value.count, -$1.key.batch, $1.key.precision)
    }
    let teachers = (chosen?.value ?? []).compactMap(\.teacher).sorted()
    return ReplacementCosts(
      chosen.map { Self.candidates(entries, timedIn: $0.key, shape: shape) } ?? [],
      conditions: chosen?.key,
      teacherSeconds: teachers.isEmpty ? nil : teachers[teachers.count / 2],
      trained: entries.reduce(into: [:]) { result, entry in
        guard let slot = entry.slotID, slot.block < shape.depth else { return }
        let change = Change.slot(slot, entry.spec)
        result[change] = max(result[change] ?? 0, entry.recipe.steps)
      }, count: entries.count, elsewhere: timed.count - here.values.reduce(0) { $0 + $1.count })
  }
}
