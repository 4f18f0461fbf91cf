/// Two adjacent blocks in parallel, with the same input; written as `2+3`.
package struct BlockPair: Hashable, Comparable, Sendable {
  /// Index of the earlier block of the pretrained model.
  package let first: Int

  /// Makes a pair of a block and the next one.
  package init(first: Int) { self.first = first }

  /// The later block.
  package var second: Int { first + 1 }
  /// Both blocks.
  package var blocks: [Int] { [first, second] }
  /// The slots of both blocks.
  package var slots: [SlotID] {
    blocks.flatMap { block in Slot.allCases.map { SlotID(block: block, slot: $0) } }
  }

  /// Orders by block.
  package static func < (one: BlockPair, other: BlockPair) -> Bool { one.first < other.first }
}

extension BlockPair: LosslessStringConvertible {
  /// Reads `2+3`; `nil` for anything else.
  package init?(_ text: String) {
    guard let first = text.split(separator: "+").first.flatMap({ Int($0) }), first >= 0,
      first < Int.max
    else { return nil }
    self.init(first: first)
    guard description == text else { return nil }
  }

  /// The pair's name, for example `2+3`.
  package var description: String { "\(first)+\(second)" }
}

/// Merge of the outputs a and b of two parallel blocks; x is the input of both.
package enum ParallelMerge: String, SettingChoice {
  /// Learned linear layer, W [a; b] + bias (section 6 of the paper).
  case projection
  /// (a + b) / 2.
  case mean
  /// a + b - x: sum of the residual updates of both blocks.
  case residual

  /// Short description.
  package var summary: String {
    switch self {
    case .projection: "a learned projection of both outputs"
    case .mean: "the mean of both outputs"
    case .residual: "the input and what both blocks add to it"
    }
  }

  /// Names of all merges, for help texts and errors.
  package static let names = allCases.map(\.rawValue).joined(separator: ", ")
}

/// Unit of change of a plan, which stage 1 trains with one target and one loss.
///
/// Written as the slot or the pair, also as a key in JSON objects.
package enum GraftSite: Hashable, Sendable {
  /// A slot with a replacement operator.
  case slot(SlotID)
  /// Two parallel blocks with all their operators, including replacements.
  case pair(BlockPair)

  /// Blocks of the site.
  package var blocks: [Int] {
    switch self {
    case .slot(let id): [id.block]
    case .pair(let pair): pair.blocks
    }
  }

  /// The slots that it holds, in order.
  package var slots: [SlotID] {
    switch self {
    case .slot(let id): [id]
    case .pair(let pair): pair.slots
    }
  }

  /// The first of its slots.
  package var firstSlot: SlotID {
    switch self {
    case .slot(let id): id
    case .pair(let pair): SlotID(block: pair.first, slot: .attention)
    }
  }

  /// Name of the site with its kind, for sentences.
  package var phrase: String {
    switch self {
    case .slot(let id): "slot \(id)"
    case .pair(let pair): "pair \(pair)"
    }
  }
}

extension GraftSite: Comparable {
  /// Orders by first slot; a pair precedes its slots.
  package static func < (one: GraftSite, other: GraftSite) -> Bool {
    if one.firstSlot != other.firstSlot { return one.firstSlot < other.firstSlot }
    if case .pair = one, case .slot = other { return true }
    return false
  }
}

extension GraftSite: LosslessStringConvertible {
  /// Reads `7.attention` or `2+3`; `nil` for anything else.
  package init?(_ text: String) {
    if let id = SlotID(text) {
      self = .slot(id)
    } else if let pair = BlockPair(text) {
      self = .pair(pair)
    } else {
      return nil
    }
  }

  /// The name, for example `7.attention` or `2+3`.
  package var description: String {
    switch self {
    case .slot(let id): id.description
    case .pair(let pair): pair.description
    }
  }
}

extension GraftSite: Codable, CodingKeyRepresentable {
  /// Reads the name from a single string.
  package init(from decoder: any Decoder) throws {
    let text = try decoder.singleValueContainer().decode(String.self)
    guard let value = GraftSite(text) else {
      throw DecodingError.dataCorrupted(
        .init(
          codingPath: decoder.codingPath,
          debugDescription: "\(text) names neither a slot nor a pair of blocks"))
    }
    self = value
  }

  /// Writes the name as a single string.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.singleValueContainer()
    try container.encode(description)
  }

  /// The name as the key of a JSON object.
  package var codingKey: any CodingKey { FieldKey(description) }

  /// Reads the name from the key of a JSON object.
  package init?(codingKey: some CodingKey) {
    self.init(codingKey.stringValue)
  }
}
