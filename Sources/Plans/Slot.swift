/// The two places of a block where an operator can be grafted.
package enum Slot: String, Codable, CaseIterable, Sendable {
  /// The sequence mixer, which exchanges information between tokens.
  case attention
  /// The channel mixer, which works on each token by itself.
  case mlp
}

/// One slot of one block of a model.
///
/// Written as `7.attention`, also as a key in JSON objects.
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

extension SlotID: Codable, CodingKeyRepresentable {
  /// Reads the name from a single string.
  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = SlotID(text) else {
      throw DecodingError.dataCorrupted(
        .init(codingPath: decoder.codingPath, debugDescription: "\(text) names no slot"))
    }
    self = value
  }

  /// Writes the name as a single string.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }

  /// The name as the key of a JSON object.
  package var codingKey: any CodingKey { Key(stringValue: description) }

  /// Reads the name from the key of a JSON object.
  package init?(codingKey: some CodingKey) {
    self.init(codingKey.stringValue)
  }

  private struct Key: CodingKey {
    var stringValue: String
    var intValue: Int? { nil }

    init(stringValue: String) { self.stringValue = stringValue }
    init?(intValue: Int) { nil }
  }
}
