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
    let (before, after) = (Dictionary(other.entries) { $1 }, Dictionary(entries) { $1 })
    var seen: Set<String> = []
    return (entries + other.entries).compactMap { key, _ in
      guard seen.insert(key).inserted, before[key] != after[key] else { return nil }
      return Difference(key: key, before: before[key], after: after[key])
    }
  }

  /// Every entry of the plan by its key.
  private var entries: [(String, String)] {
    var entries = settings.members.map { ($0.key, $0.json) }
    entries += [("model.path", model.path), ("model.content_hash", model.contentHash)]
    for (id, spec) in edits.sorted(by: { $0.key < $1.key }) {
      let config = spec.config.sorted { $0.key < $1.key }.map {
        "\($0.key)=\(numberText($0.value))"
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
