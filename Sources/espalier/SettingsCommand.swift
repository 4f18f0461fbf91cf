import ArgumentParser
import Plans
import Text
import Training

extension PlanCommand {
  /// `espalier plan settings`: lists all settings of a plan.
  struct ListSettings: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "settings", abstract: "List all settings in Markdown, as in docs/settings.md.")

    @OptionGroup var output: OutputOptions

    func run() throws {
      if output.json { return try output.printJSON(SettingsTables.sections.flatMap(\.rows)) }
      print(lines: SettingsTables.markdown)
    }
  }
}

/// Tables of settings for help texts and documentation.
enum SettingsTables {
  /// Setting with its full key.
  struct Row: Encodable {
    let key, kind, `default`, summary: String
    let minimum, maximum: Double?
    let isRequired, isForSites, isForResume: Bool

    init(_ row: any SettingRow, in section: String) {
      let prefix = row.traits.contains(.siteOnly) ? "\(section).overrides.SITE" : section
      key = prefix.isEmpty ? row.key : "\(prefix).\(row.key)"
      (kind, `default`, summary) = (row.kind, row.initial.json, row.summary)
      (minimum, maximum) = (row.range?.lowerBound, row.range?.upperBound)
      isRequired = row.traits.contains(.required)
      isForSites = !row.traits.isDisjoint(with: [.site, .siteOnly])
      isForResume = row.traits.contains(.resume)
    }

    /// Allowed values.
    var values: String {
      guard let minimum, let maximum else { return kind }
      return "\(kind), \(numberText(minimum)) to \(numberText(maximum))"
    }

    /// Default, or `required`.
    var otherwise: String { isRequired ? "required" : `default` }
  }

  /// The sections of a plan.
  static let sections = GraftPlan.sections.map { section in
    (title: section.key, rows: section.rows.map { Row($0, in: section.key) })
  }

  /// The sections of a recipe for pretraining.
  static let recipe: [(title: String, rows: [Row])] = [
    ("", PretrainingSchema.table.all), ("model", ModelSchema.table.all),
    ("data", PretrainingDataSchema.table.all), ("phases[]", PretrainingPhaseSchema.table.all),
  ].map { section in
    // Objects have their own sections.
    let rows = section.1.filter { !$0.kind.contains("object") }
    return (title: section.0, rows: rows.map { Row($0, in: section.0) })
  }

  /// Settings of a plan, one per line, for help texts.
  static let help = lines(sections)
  /// Settings of a recipe, one per line, for help texts.
  static let recipeHelp = lines(recipe)

  private static func lines(_ sections: [(title: String, rows: [Row])]) -> String {
    sections.flatMap(\.rows)
      .map { "\($0.key) (\($0.values); \($0.otherwise)): \($0.summary)" }.joined(separator: "\n")
  }

  /// Documentation page in Markdown.
  static var markdown: String {
    let intro = [
      "# Settings", "This page is generated: `espalier plan settings > docs/settings.md`.",
      "A plan is a JSON file; `espalier plan set PLAN KEY=VALUE ...` changes it, and a key that it leaves"
        + " out has its default. **S** marks what can differ at a single slot or pair of blocks, as in"
        + " `stage1.overrides.7.mlp.loss`, **R** what may change when a run is resumed.",
      "A relative path under `data` counts from the folder of the plan and stays as it is written. On the"
        + " command line it counts from the current directory. A plan that is written to another folder"
        + " gets absolute paths, so that it means the same data.",
    ]
    let tables = sections.map { section in
      let heading = section.title.isEmpty ? "## Plan" : "## Section `\(section.title)`"
      return heading + "\n\n" + section.rows.map(entry).joined(separator: "\n")
    }
    let last =
      "## Recipe of `espalier pretrain`\n\n"
      + recipe.flatMap(\.rows).map(entry).joined(separator: "\n")
    return (intro.map { wrapped($0, indent: "") } + tables + [last]).joined(separator: "\n\n")
  }

  private static func entry(_ row: Row) -> String {
    let marks = (row.isForSites ? " **S**" : "") + (row.isForResume ? " **R**" : "")
    let otherwise = row.isRequired ? "required" : "default `\(row.default)`"
    return wrapped(
      "- `\(row.key)`\(marks): \(row.summary). \(row.values.prefix(1).uppercased())"
        + "\(row.values.dropFirst()); \(otherwise).", indent: "  ")
  }

  /// Wraps text at 120 columns and indents all lines but the first.
  private static func wrapped(_ text: String, indent: String) -> String {
    TextWidth.wrap(text, 120 - indent.count).joined(separator: "\n\(indent)")
  }
}
