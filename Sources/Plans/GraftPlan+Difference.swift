extension GraftPlan {
  /// Entry of a plan that another plan has not, or has differently.
  package struct Difference: Equatable, Sendable {
    /// Key as in the plan file: `7.attention`, `stage1.steps`.
    package let key: String
    /// Value in the other plan; nil if it has none.
    package let before: String?
    /// Value in this plan; nil if it has none.
    package let after: String?
  }

  /// Entries that differ from those of another plan, in the order of the plan file.
  package func differences(from other: GraftPlan) -> [Difference] {
    Self.differing([self, other]).map {
      Difference(key: $0.key, before: $0.values[1], after: $0.values[0])
    }
  }

  /// Entry that is not the same in several plans.
  package struct DifferingEntry: Hashable, Sendable {
    /// Key as in the plan file; for slots with equal values their selection: `attention of odd`.
    package let key: String
    /// Value in each plan; nil where a plan has none.
    package let values: [String?]

    /// Makes an entry.
    package init(key: String, values: [String?]) { (self.key, self.values) = (key, values) }
  }

  /// Entries that are not the same in all plans, in the order of the plan files; slots of one kind
  /// whose values are equal share an entry.
  package static func differingEntries(of plans: [GraftPlan]) -> [DifferingEntry] {
    var entries: [DifferingEntry] = []
    var blocks: [DifferingEntry: [Int]] = [:]
    let depth = plans.map(\.model.shape.depth).max() ?? 0
    for entry in differing(plans) {
      guard let id = SlotID(entry.key) else {
        entries.append(entry)
        continue
      }
      let kind = DifferingEntry(key: id.slot.rawValue, values: entry.values)
      if blocks[kind] == nil { entries.append(kind) }
      blocks[kind, default: []].append(id.block)
    }
    return entries.map { entry in
      guard let blocks = blocks[entry] else { return entry }
      let text = LayerSelection.text(blocks, depth: depth)
      return DifferingEntry(key: "\(entry.key) of \(text)", values: entry.values)
    }
  }

  private static func differing(_ plans: [GraftPlan]) -> [DifferingEntry] {
    let all = plans.map(\.entries)
    let values = all.map { Dictionary($0) { $1 } }
    var seen: Set<String> = []
    return all.joined().compactMap { key, _ in
      let row = values.map { $0[key] }
      guard seen.insert(key).inserted, Set(row).count > 1 else { return nil }
      return DifferingEntry(key: key, values: row)
    }
  }

  /// Every entry of the plan by its key.
  private var entries: [(String, String)] {
    var entries = settings.members.map { ($0.key, $0.json) }
    entries += [("model.path", model.path), ("model.content_hash", model.contentHash)]
    for (id, spec) in edits.sorted(by: { $0.key < $1.key }) {
      let fields = OperatorCatalog.descriptor(named: spec.name)?.fields ?? []
      let config = spec.config.sorted { $0.key < $1.key }.map { key, value in
        "\(key)=\(fields.first { $0.key == key }?.text(of: value) ?? numberText(value))"
      }
      entries.append(("\(id)", ([spec.name] + config).joined(separator: " ")))
    }
    for (pair, merge) in parallel.sorted(by: { $0.key < $1.key }) {
      entries.append(("\(pair)", "parallel, \(merge.rawValue)"))
    }
    if let data { entries.append(("data", data.json)) }
    entries += stage1.members.filter { $0.key != "overrides" }.map { ("stage1.\($0.key)", $0.json) }
    for (site, own) in stage1.overrides.sorted(by: { $0.key < $1.key }) {
      entries.append(("stage1.overrides.\(site)", own.json))
    }
    return entries + stage2.members.map { ("stage2.\($0.key)", $0.json) }
  }
}
