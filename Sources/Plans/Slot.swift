/// Slots of a block whose operators can be replaced.
package enum Slot: String, Codable, CaseIterable, Sendable {
  /// The sequence mixer, across tokens.
  case attention
  /// The channel mixer, per token.
  case mlp
}

/// One slot of one block of a model; written as `7.attention`.
package struct SlotID: Hashable, Comparable, Sendable {
  /// Index of the block, from 0 as in the official code.
  package var block: Int
  /// Kind of the slot.
  package var slot: Slot

  /// Makes a slot identifier.
  package init(block: Int, slot: Slot) {
    self.block = block
    self.slot = slot
  }

  /// Orders by block, attention before MLP.
  package static func < (first: SlotID, second: SlotID) -> Bool {
    if first.block != second.block { return first.block < second.block }
    return first.slot == .attention && second.slot == .mlp
  }
}

extension SlotID: LosslessStringConvertible {
  /// Reads `7.attention`; `nil` for anything else.
  package init?(_ text: String) {
    let parts = text.split(separator: ".", omittingEmptySubsequences: false)
    guard parts.count == 2, let block = Int(parts[0]), block >= 0, String(block) == parts[0],
      let slot = Slot(rawValue: String(parts[1]))
    else { return nil }
    self.init(block: block, slot: slot)
  }

  /// Name of the slot, for example `7.attention`.
  package var description: String { "\(block).\(slot.rawValue)" }
}
