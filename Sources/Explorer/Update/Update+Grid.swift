import Plans

extension AppState {
  /// Moves the cursor.
  mutating func move(_ command: Command, argument: String?, count: Int?) {
    let times = count ?? 1
    switch command {
    case .down: cursor.block = min(depth - 1, cursor.block + times)
    case .up: cursor.block = max(0, cursor.block - times)
    case .pageDown: cursor.block = min(depth - 1, cursor.block + 7 * times)
    case .pageUp: cursor.block = max(0, cursor.block - 7 * times)
    case .left, .right:
      for _ in 0..<min(times, 2 * depth) { step(command == .right ? 1 : -1) }
    case .first: cursor.block = clamped(number(argument) ?? count ?? 0)
    case .last: cursor.block = clamped(number(argument) ?? count ?? depth - 1)
    case .nextEdited, .previousEdited:
      for _ in 0..<min(times, 2 * depth) { jump(forward: command == .nextEdited) }
    default: break
    }
  }

  /// One slot to the side; over the edge of a fold into the neighbouring fold.
  private mutating func step(_ direction: Int) {
    let fold = layout.blocksInFold
    if direction > 0 {
      if cursor.slot == .attention {
        cursor.slot = .mlp
      } else if cursor.block / fold < (depth - 1) / fold {
        cursor = SlotID(block: min(depth - 1, cursor.block + fold), slot: .attention)
      }
    } else if cursor.slot == .mlp {
      cursor.slot = .attention
    } else if cursor.block >= fold {
      cursor = SlotID(block: cursor.block - fold, slot: .mlp)
    }
  }

  private mutating func jump(forward: Bool) {
    let edited = Set(plan.edits.keys).union(plan.sites.map(\.firstSlot)).sorted()
    let target =
      forward
      ? edited.first { $0 > cursor } ?? edited.first
      : edited.last { $0 < cursor } ?? edited.last
    if let target { cursor = target }
  }

  private func clamped(_ block: Int) -> Int { min(max(0, block), depth - 1) }

  private func number(_ argument: String?) -> Int? { argument.flatMap { Int($0) } }

  /// Starts or ends a range, marks slots, or steps out of either.
  mutating func select(_ command: Command, argument: String?, count: Int?) -> [Effect] {
    switch command {
    case .range:
      anchor = anchor == nil ? cursor : nil
    case .mark:
      if anchor != nil {
        toggleMarks(Array(range))
        anchor = nil
        return []
      }
      for _ in 0..<min(count ?? 1, depth) {
        toggleMarks([cursor])
        if cursor.block + 1 == depth { break }
        cursor.block += 1
      }
    case .markPattern:
      guard let argument else {
        overlays.append(.prompt(Prompt(purpose: .mark(slot: cursor.slot))))
        return []
      }
      markBlocks(argument)
    case .escape:
      if anchor != nil { anchor = nil } else { marks.removeAll() }
    default: break
    }
    return []
  }

  /// Marks a pattern of blocks in the cursor's column, or says what is wrong with the pattern.
  mutating func markBlocks(_ text: String) {
    do {
      let slots = try SlotSelection.parse(
        text, depth: depth, slot: cursor.slot, scores: slotScores)
      marks.formUnion(slots)
      let isOneKind = slots.allSatisfy { $0.slot == cursor.slot }
      notice = .note(
        "\(Format.count(slots.count, isOneKind ? cursor.slot.slotName : "slot")) marked;"
          + " Esc takes the marks away")
    } catch {
      notice = .warning("\(error)")
    }
  }

  private mutating func toggleMarks(_ slots: [SlotID]) {
    if slots.allSatisfy(marks.contains) {
      marks.subtract(slots)
    } else {
      marks.formUnion(slots)
    }
  }

  /// The slots of the visual range, or the cursor's slot alone.
  package var range: [SlotID] {
    let from = anchor ?? cursor
    let blocks = min(from.block, cursor.block)...max(from.block, cursor.block)
    let slots = Slot.allCases.filter { $0 == from.slot || $0 == cursor.slot }
    return blocks.flatMap { block in slots.map { SlotID(block: block, slot: $0) } }
  }

  /// The slots that an edit changes: the range, else the marks, else the cursor's slot.
  package var targets: [SlotID] {
    if anchor != nil { return range.sorted() }
    return marks.isEmpty ? [cursor] : marks.sorted()
  }

  /// Forgets the range and the marks after they were used.
  mutating func dropSelection() {
    anchor = nil
    marks.removeAll()
  }
}
