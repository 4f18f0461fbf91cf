extension GraftPlan {
  /// What a plan changes in its model, apart from names and training.
  package struct Changes: Equatable, Sendable {
    /// The replaced slots.
    package let edits: [SlotID: OperatorSpec]
    /// The pairs of parallel blocks.
    package let parallel: [BlockPair: ParallelMerge]

    /// States changes; none by default.
    package init(
      edits: [SlotID: OperatorSpec] = [:], parallel: [BlockPair: ParallelMerge] = [:]
    ) {
      (self.edits, self.parallel) = (edits, parallel)
    }

    /// Whether the model stays as it is.
    package var isEmpty: Bool { edits.isEmpty && parallel.isEmpty }
  }

  /// What the plan changes in its model.
  package var changes: Changes { Changes(edits: edits, parallel: parallel) }

  /// Whether the plan leaves its model as it is.
  package var isEmpty: Bool { changes.isEmpty }

  /// Number of blocks that follow each other: two parallel ones count once.
  package var depth: Int { model.shape.depth - parallel.count }

  /// The pair that a block is in, or `nil`.
  package func pair(of block: Int) -> BlockPair? {
    [BlockPair(first: block), BlockPair(first: block - 1)].first { parallel[$0] != nil }
  }

  /// The site that a slot belongs to: its pair, else itself when it is edited.
  package func site(of id: SlotID) -> GraftSite? {
    pair(of: id.block).map(GraftSite.pair) ?? (edits[id] == nil ? nil : .slot(id))
  }

  /// Every site in order; edited slots of parallel blocks are part of the pair's.
  package var sites: [GraftSite] {
    Set(parallel.keys.map(GraftSite.pair) + edits.keys.compactMap(site(of:))).sorted()
  }

  /// Whether both plans change the same at a site of this one, so that weights fit both.
  package func agrees(with other: GraftPlan, at site: GraftSite) -> Bool {
    guard other.site(of: site.firstSlot) == site else { return false }
    switch site {
    case .slot(let id):
      return edits[id] == other.edits[id]
    case .pair(let pair):
      return parallel[pair] == other.parallel[pair]
        && pair.slots.allSatisfy { edits[$0] == other.edits[$0] }
    }
  }

  /// Puts blocks in parallel, each with its neighbour: the first two of them, the next two, and so on.
  ///
  /// - Parameters:
  ///   - blocks: Blocks without repeats; of a pair that is there already, the merge is changed.
  ///   - merge: How the outputs become one.
  /// - Throws: `PlanError` for a block without a neighbour among them, or in another pair already; the
  ///   plan is unchanged then.
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

  /// Lets the blocks of every pair that one of `blocks` is in follow each other again.
  package mutating func split(_ blocks: [Int]) {
    for pair in blocks.compactMap(pair(of:)) { parallel[pair] = nil }
  }
}

extension ModelShape {
  /// The cost of merging the outputs of two parallel blocks.
  ///
  /// A sum is elementwise and not counted, like norms and gates.
  package func mergeCost(_ merge: ParallelMerge) -> OperatorCost {
    guard merge == .projection else { return OperatorCost() }
    let (length, width) = (Double(tokens), Double(hiddenSize))
    return OperatorCost(
      parameters: 2 * hiddenSize * hiddenSize + hiddenSize,
      projections: 4 * length * width * width, activations: length * width)
  }
}
