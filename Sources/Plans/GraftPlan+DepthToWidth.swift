extension GraftPlan {
  /// Changes of a plan to its model, without names and training settings.
  package struct Changes: Equatable, Sendable {
    /// The replaced slots.
    package let edits: [SlotID: OperatorSpec]
    /// The pairs of parallel blocks.
    package let parallel: [BlockPair: ParallelMerge]

    /// Makes changes; none by default.
    package init(
      edits: [SlotID: OperatorSpec] = [:], parallel: [BlockPair: ParallelMerge] = [:]
    ) {
      (self.edits, self.parallel) = (edits, parallel)
    }

    /// Whether there are no changes.
    package var isEmpty: Bool { edits.isEmpty && parallel.isEmpty }

    /// Pair of a block, or nil.
    package func pair(of block: Int) -> BlockPair? {
      [BlockPair(first: block), BlockPair(first: block - 1)].first { parallel[$0] != nil }
    }

    /// Site of a slot: its pair, otherwise the slot if it is edited.
    package func site(of id: SlotID) -> GraftSite? {
      pair(of: id.block).map(GraftSite.pair) ?? (edits[id] == nil ? nil : .slot(id))
    }

    /// All sites in order; edited slots of parallel blocks are part of the site of the pair.
    package var sites: [GraftSite] {
      Set(parallel.keys.map(GraftSite.pair) + edits.keys.compactMap(site(of:))).sorted()
    }

    /// Whether both make the same change at a site of these changes, so that weights fit both.
    package func agree(with other: Changes, at site: GraftSite) -> Bool {
      guard other.site(of: site.firstSlot) == site else { return false }
      switch site {
      case .slot(let id):
        return edits[id] == other.edits[id]
      case .pair(let pair):
        return parallel[pair] == other.parallel[pair]
          && pair.slots.allSatisfy { edits[$0] == other.edits[$0] }
      }
    }
  }

  /// Changes of the plan to its model.
  package var changes: Changes { Changes(edits: edits, parallel: parallel) }

  /// Whether the plan does not change its model.
  package var isEmpty: Bool { changes.isEmpty }

  /// Number of sequential blocks; two parallel ones count once.
  package var depth: Int { model.shape.depth - parallel.count }

  /// Pair of a block, or nil.
  package func pair(of block: Int) -> BlockPair? { changes.pair(of: block) }

  /// Site of a slot: its pair, otherwise the slot if it is edited.
  package func site(of id: SlotID) -> GraftSite? { changes.site(of: id) }

  /// All sites in order; edited slots of parallel blocks are part of the site of the pair.
  package var sites: [GraftSite] { changes.sites }

  /// Whether both plans make the same changes at a site of this plan, so that weights fit both.
  package func agrees(with other: GraftPlan, at site: GraftSite) -> Bool {
    changes.agree(with: other.changes, at: site)
  }

  /// Puts adjacent blocks in parallel: the first two of `blocks`, the next two, and so on.
  ///
  /// - Parameters:
  ///   - blocks: Distinct blocks; for an existing pair only the merge changes.
  ///   - merge: Merge of the outputs.
  /// - Throws: `PlanError` for a block without neighbour in `blocks`, or in another pair; the plan
  ///   is then unchanged.
  package mutating func join(_ blocks: [Int], merge: ParallelMerge) throws(PlanError) {
    var joined = parallel
    var rest = blocks.sorted()[...]
    while let first = rest.popFirst() {
      let pair = BlockPair(first: first)
      guard pair.second < model.shape.depth else {
        throw PlanError(
          key: nil,
          "block \(first) is the last one, with none after it to be parallel to; choose others")
      }
      guard rest.popFirst() == pair.second else {
        throw PlanError(
          key: nil,
          "block \(first) is chosen without its neighbour \(pair.second);"
            + " choose neighbours in twos, such as \(pair.first)-\(pair.second)")
      }
      if let other = pair.blocks.lazy.compactMap(pair(of:)).first(where: { $0 != pair }) {
        throw PlanError(
          key: nil,
          "blocks \(other.first) and \(other.second) are parallel already, so \(pair) cannot be;"
            + " split them first")
      }
      joined[pair] = merge
    }
    parallel = joined
  }

  /// Makes the blocks of all pairs that contain one of `blocks` sequential again.
  package mutating func split(_ blocks: [Int]) {
    for pair in blocks.compactMap(pair(of:)) { parallel[pair] = nil }
  }
}

extension ModelShape {
  /// Cost of merging the outputs of two parallel blocks.
  ///
  /// Elementwise sums are not counted, like norms and gates.
  package func mergeCost(_ merge: ParallelMerge) -> OperatorCost {
    guard merge == .projection else { return OperatorCost() }
    let (length, width) = (Double(tokens), Double(self.hiddenSize))
    return OperatorCost(
      parameters: 2 * self.hiddenSize * self.hiddenSize + self.hiddenSize,
      projections: 4 * length * width * width, activations: length * width)
  }
}
