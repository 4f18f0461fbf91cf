/// The two places of a block where an operator can be grafted.
package enum Slot: String, Codable, CaseIterable, Sendable {
  /// The sequence mixer, which exchanges information between tokens.
  case attention
  /// The channel mixer, which works on each token by itself.
  case mlp
}

/// One slot of one block of a model; written as `7.attention`.
package struct SlotID: Hashable, Comparable, Sendable {
  /// The block, counted from 0 as in the official code.
  package var block: Int
  /// Which of the block's slots.
  package var slot: Slot

  /// Names a slot.
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

  /// The slot's name, for example `7.attention`.
  package var description: String { "\(block).\(slot.rawValue)" }
}
