extension GraftPlan {
  /// Short description of the edits: `hyena_x k4 in attention of odd; 0-3 parallel in pairs`.
  ///
  /// - Precondition: the plan is valid.
  package var summary: String {
    var parts: [String] = []
    var order: [String] = []
    var blocks: [String: [Int]] = [:]
    for (id, spec) in edits.sorted(by: { $0.key < $1.key }) {
      let label = OperatorCatalog.label(spec)
      let text = "\(label) in \(id.slot.rawValue)"
      if blocks[text] == nil { order.append(text) }
      blocks[text, default: []].append(id.block)
    }
    for text in order {
      parts.append(
        "\(text) of \(LayerSelection.text(blocks[text] ?? [], depth: model.shape.depth))")
    }
    for merge in ParallelMerge.allCases {
      let joined = parallel.filter { $0.value == merge }.keys.flatMap(\.blocks)
      guard !joined.isEmpty else { continue }
      let text = LayerSelection.text(joined, depth: model.shape.depth)
      parts.append("\(text) parallel in pairs (\(merge.rawValue))")
    }
    return parts.isEmpty ? "no change" : parts.joined(separator: "; ")
  }
}

extension LayerSelection {
  /// Returns the shortest text that `parse` reads as `blocks` in a model of `depth` blocks.
  package static func text(_ blocks: some Collection<Int>, depth: Int) -> String {
    let sorted = Set(blocks).sorted()
    for word in ["all", "odd", "even"] {
      let selected = (try? parse(word, depth: depth)) ?? []
      if sorted == selected, word == "all" || selected.count > 1 { return word }
    }
    var ranges: [ClosedRange<Int>] = []
    for block in sorted {
      if let last = ranges.last, last.upperBound + 1 == block {
        ranges[ranges.count - 1] = last.lowerBound...block
      } else {
        ranges.append(block...block)
      }
    }
    return ranges.map { range in
      switch range.count {
      case 1: "\(range.lowerBound)"
      default: "\(range.lowerBound)-\(range.upperBound)"
      }
    }.joined(separator: ",")
  }
}
