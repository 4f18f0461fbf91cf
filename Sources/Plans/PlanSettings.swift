extension GraftPlan {
  /// Sets a setting by its key in the plan file: `name`, `seed`, `data.path`,
  /// `stage1.steps`, `stage1.overrides.7.mlp.loss` or `7.attention.config.window_left`.
  ///
  /// - Parameters:
  ///   - key: The key; `data` accepts only `null`, for the procedural images.
  ///   - text: The value as JSON, where quotation marks and brackets may be omitted if unambiguous;
  ///     `null` removes an optional value.
  ///   - folder: Base of a relative path.
  /// - Throws: `PlanError` for an unknown key or an invalid value.
  package mutating func set(
    _ key: String, to text: String, in folder: String = "."
  ) throws(PlanError) {
    let parts = key.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    let rest = parts.dropFirst().joined(separator: ".")
    switch parts.first {
    case "stage1" where rest.hasPrefix("overrides."):
      try setOverride(Array(parts.dropFirst(2)), to: text, at: key)
    case "stage1": try stage1.set(rest, typed: text, at: key)
    case "stage2": try stage2.set(rest, typed: text, at: key)
    case "data" where key == "data" && text == "null": data = nil
    case "data":
      var changed = data ?? DataSettings(path: "", in: folder)
      try changed.set(rest, typed: text, in: folder, at: key)
      data = changed
    default:
      if let id = SlotID(parts.prefix(2).joined(separator: ".")), parts.count == 4,
        parts[2] == "config"
      {
        return try setOperator(parts[3], of: id, to: text, at: key)
      }
      guard PlanSchema.table.rows.contains(where: { $0.key == key }) else {
        throw PlanError(
          key: key,
          "no such setting, expected name, seed, or one of data, stage1 or stage2, such as"
            + " stage1.steps; 'espalier plan settings' lists them")
      }
      try settings.set(key, typed: text, at: key)
    }
  }

  /// Sets a setting of the operator in an edited slot.
  private mutating func setOperator(
    _ name: String, of id: SlotID, to text: String, at key: String
  ) throws(PlanError) {
    guard let spec = edits[id] else {
      throw PlanError(
        key: key, "the slot keeps the model's operator; put another into it with --operator first")
    }
    let fields = OperatorCatalog.descriptor(named: spec.name)?.fields ?? []
    guard fields.contains(where: { $0.key == name }) else {
      throw PlanError(
        key: key,
        "the slot has \(spec.name), which has "
          + (fields.isEmpty ? "no settings" : "\(fields.map(\.key).joined(separator: ", "))")
          + "; correct the key, or put another operator into the slot with --operator")
    }
    var reader = SettingsReader()
    edits[id]?.config[name] =
      if let value = OperatorCatalog.field(name, of: spec.name)?.value(named: text) {
        value
      } else {
        try Double.read(Double.node(typed: text), at: key, by: &reader)
      }
  }

  /// Sets or removes an override of one site.
  private mutating func setOverride(
    _ parts: [String], to text: String, at key: String
  ) throws(PlanError) {
    guard let name = parts.last, let site = GraftSite(parts.dropLast().joined(separator: "."))
    else {
      throw PlanError(
        key: key,
        "expected a site and a setting, such as stage1.overrides.7.mlp.loss or"
          + " stage1.overrides.2+3.steps; correct the key")
    }
    var own = stage1.overrides[site] ?? SiteOverride()
    if text == "null" {
      own.values[name] = nil
    } else {
      try own.values.set(name, typed: text, rows: Stage1Schema.table.siteRows, at: key)
    }
    stage1.overrides[site] = own.values.isEmpty ? nil : own
  }

  /// A sentence for each setting that is stated and has no effect.
  package var notes: [String] { withoutEffect.map { "\($0.key) has no effect: \($0.reason)" } }

  /// Settings that are stated and have no effect, each with the reason; those at their defaults do not count.
  package var withoutEffect: [(key: String, reason: String)] {
    func text(_ missing: String) -> String { "it belongs to \(missing)" }
    let sites = sites
    let own = sites.map(stage1.settings(for:))
    var result: [(key: String, reason: String)] = []
    for (key, missing) in stage1.unused
    where own.allSatisfy({ site in site.unused.contains { $0.key == key } }) {
      result.append(("stage1.\(key)", text(missing)))
    }
    for (site, override) in stage1.overrides.sorted(by: { $0.key < $1.key }) {
      let key = "stage1.overrides.\(site)"
      guard sites.contains(site) else {
        let isPair = if case .pair = site { true } else { false }
        result.append(
          (key, isPair ? "the blocks are not parallel" : "the slot keeps the model's operator"))
        continue
      }
      let merged = stage1.settings(for: site)
      for row in Stage1Schema.table.siteRows where override.json(of: row.key) != nil {
        guard let missing = Stage1Schema.missing(for: row, beside: merged) else { continue }
        result.append(("\(key).\(row.key)", text(missing)))
      }
    }
    result += stage2.unused.map { ("stage2.\($0.key)", text($0.missing)) }
    result += (data?.unused ?? []).map { ("data.\($0.key)", text($0.missing)) }
    return result
  }

  /// Sections with settings, in the order of the plan file.
  package static let sections: [(key: String, rows: [any SettingRow])] = [
    ("", PlanSchema.table.all), ("data", DataSchema.table.all),
    ("stage1", Stage1Schema.table.all), ("stage2", Stage2Schema.table.all),
  ]

  /// Whether a training of another plan may resume with this plan: only settings with the trait
  /// `resume` differ.
  package func continues(_ other: GraftPlan) -> Bool { fixed == other.fixed }

  /// The plan with all settings that may change on resume at their defaults.
  private var fixed: GraftPlan {
    var plan = self
    for row in Stage1Schema.table.rows where row.traits.contains(.resume) {
      plan.stage1.values[row.key] = row.initial
      for site in stage1.overrides.keys { plan.stage1.overrides[site]?.values[row.key] = nil }
    }
    plan.stage1.overrides = plan.stage1.overrides.filter { !$0.value.values.isEmpty }
    for row in Stage2Schema.table.rows where row.traits.contains(.resume) {
      plan.stage2.values[row.key] = row.initial
    }
    return plan
  }

  /// Multiplies all learning rates of stage 1, including overrides of sites; limits the final rate
  /// of a schedule to its initial rate.
  package mutating func scaleStage1Rates(by factor: Double) {
    stage1.learningRate *= factor
    let highest = stage1.learningRate
    stage1.minimumRate = min(stage1.minimumRate, highest)
    stage1.overrides = stage1.overrides.mapValues { own in
      var own = own
      own.learningRate = own.learningRate.map { $0 * factor }
      own.minimumRate = own.minimumRate.map { min($0, own.learningRate ?? highest) }
      return own
    }
  }
}

extension GraftPlan {
  /// Sets several settings from text such as `stage1.steps=500 seed=3`; a word without `=` belongs to
  /// the value before it, and `preset=paper` applies published settings.
  ///
  /// - Throws: `PlanError` for text of another form, an unknown key or an invalid value.
  package mutating func set(assignments text: String) throws(PlanError) {
    var pairs: [(key: String, value: String)] = []
    for word in text.split(separator: " ").map(String.init) {
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
      if parts.count == 2 {
        pairs.append((String(parts[0]), String(parts[1])))
      } else if pairs.isEmpty {
        throw PlanError(
          key: nil, "'\(text)' is not of the form KEY=VALUE; type for example stage1.steps=500")
      } else {
        pairs[pairs.count - 1].value += " " + word
      }
    }
    for (key, value) in pairs {
      guard key == "preset" else {
        try set(key, to: value)
        continue
      }
      guard let preset = TrainingPreset(rawValue: value) else {
        let names = TrainingPreset.allCases.map(\.rawValue).joined(separator: " or ")
        throw PlanError(key: key, "expected \(names), found '\(value)'; correct it")
      }
      apply(preset)
    }
  }
}
