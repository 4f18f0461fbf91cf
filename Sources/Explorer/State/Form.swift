import Plans
import Runs
import Search

/// A form with one line for each field.
package struct Form: Equatable, Sendable {
  /// What the fields are for.
  package enum Purpose: Equatable, Sendable {
    /// The configuration of an operator for some slots.
    case configuration(operatorName: String, targets: [SlotID])
    /// The settings of a training of the whole plan, distillation or finetuning.
    case training(Job.Kind)
    /// Both stages, measurements and a report.
    case chain
    /// What is measured of some runs.
    case report(runs: [String])
    /// How runs that have ended are taken up again.
    case retry(runs: [String])
    /// The operators that are trained, scored and timed for the library.
    case library
    /// Budgets and effort of a search, with the locks that it observes.
    case search(ParetoSolver.Constraints)
    /// The settings of the preview.
    case preview
  }

  /// One setting.
  package struct Field: Equatable, Sendable {
    /// Kind of value.
    package enum Content: Equatable, Sendable {
      /// A number in a range.
      case number(ClosedRange<Double>, isInteger: Bool)
      /// One of some words.
      case choice([String])
      /// Any text, checked when the form is accepted.
      case text
    }

    /// The key in the plan file, or `run.KEY` for settings of the run alone.
    package let key: String
    /// The name on the screen.
    package let title: String
    /// One line on what it does.
    package let summary: String
    /// The unit, empty when there is none.
    package let unit: String
    /// Kind of value.
    package let content: Content
    /// What is typed.
    package var text: TextField
    /// The text when the form was opened.
    package let initial: String
    /// Earlier texts, which can be called back.
    package var history = CommandHistory()
    /// The earlier text that is shown, and what was typed before.
    package var recalled: Prompt.Recalled?
  }

  /// What the fields are for.
  package let purpose: Purpose
  /// The fields shown.
  package var fields: [Field]
  /// Less common fields, shown on demand.
  package var more: [Field] = []
  /// The field being edited.
  package var index = 0
  /// Whether the next character replaces the field instead of extending it.
  package var isFresh = true
  /// Why the form cannot be accepted, after a try.
  package var problem: String?
}

extension Form.Field {
  /// Makes a field.
  init(
    _ key: String, _ title: String, _ text: String, _ content: Content, unit: String = "",
    summary: String
  ) {
    self.init(
      key: key, title: title, summary: summary, unit: unit, content: content,
      text: TextField(text), initial: text)
  }

  /// Makes a field that holds a number.
  init(
    _ key: String, _ title: String, _ value: Double, in range: ClosedRange<Double>,
    isInteger: Bool, unit: String = "", summary: String
  ) {
    self.init(
      key, title, Format.plain(value), .number(range, isInteger: isInteger), unit: unit,
      summary: summary)
  }

  /// Makes a field for a row of a table of settings, holding a value of it.
  ///
  /// - Parameters:
  ///   - row: The setting.
  ///   - section: Prefix of its key in the plan file.
  ///   - value: The value as JSON.
  ///   - absent: Word that stands for no value; nil if there must be one.
  init(_ row: any SettingRow, in section: String, _ value: String?, absent: String? = nil) {
    let isNumber = absent == nil && (row.isWholeNumber || row.initial is Double)
    let words = row.choices
    let content: Content =
      isNumber
      ? .number(row.bounds, isInteger: row.isWholeNumber)
      : words.isEmpty ? .text : .choice([absent].compactMap(\.self) + words)
    self.init(
      section + row.key, row.key.replacing("_", with: " "),
      (value ?? absent ?? "").trimmingQuotes, content,
      summary: row.summary)
  }

  /// The number typed, or nil when it is none or not allowed.
  package var value: Double? { problem == nil ? Double(text.text) : nil }

  /// The values allowed of a number.
  package var range: ClosedRange<Double>? {
    if case .number(let range, _) = content { range } else { nil }
  }

  /// Whether the field is not as it was when the form was opened.
  package var isChanged: Bool { text.text != initial }

  /// What is wrong with the text, or nil.
  package var problem: String? {
    guard case .number(let range, let isInteger) = content else { return nil }
    guard let value = Double(text.text) else {
      let (low, high) = (numberText(range.lowerBound), numberText(range.upperBound))
      return "\(title): expected a number from \(low) to \(high), found “\(text.text)”; correct it"
    }
    return refusal(of: value, in: range, isWhole: isInteger).map { "\(title): \($0)" }
  }

  /// Whether a character can be part of the text.
  func takes(_ character: Character) -> Bool {
    switch content {
    case .number: character.isASCII && (character.isNumber || ".-+e".contains(character))
    case .choice: false
    case .text: !character.isControl
    }
  }

  /// Shows an earlier or later text of the history that begins with what was typed.
  ///
  /// - Parameters:
  ///   - step: 1 for a later one, -1 for an earlier one.
  ///   - isFresh: Whether nothing has been typed into the field yet.
  mutating func recall(by step: Int, isFresh: Bool) {
    let typed = recalled?.typed ?? (isFresh ? "" : text.text)
    let place = recalled?.place ?? history.lines.count
    guard let found = history.line(from: place, by: step, beginning: typed) else { return }
    text.replace(found.line ?? typed)
    recalled = found.line == nil ? nil : Prompt.Recalled(place: found.place, typed: typed)
  }

  /// Goes on to the next choice, or back.
  mutating func turn(by offset: Int) {
    guard case .choice(let words) = content, !words.isEmpty else { return }
    let index = words.firstIndex(of: text.text) ?? 0
    text.replace(words[(index + offset + words.count) % words.count])
  }
}

extension String {
  /// The text without the quotation marks of a JSON string.
  fileprivate var trimmingQuotes: String {
    count > 1 && hasPrefix("\"") && hasSuffix("\"") ? String(dropFirst().dropLast()) : self
  }
}

extension Form {
  /// A form for an operator's configuration; behind "more" is what differs in training.
  static func configuration(
    _ descriptor: OperatorDescriptor, spec: OperatorSpec, targets: [SlotID], of plan: GraftPlan
  ) -> Form {
    let own = targets.first.flatMap { plan.stage1.overrides[.slot($0)] }
    return Form(
      purpose: .configuration(operatorName: descriptor.name, targets: targets),
      fields: descriptor.openFields.map { field in
        let value = spec.config[field.key] ?? field.defaultNumber
        guard !field.names.isEmpty else { return Field(field, in: "", Format.plain(value)) }
        return Field(
          field.key, field.key.replacing("_", with: " "), field.text(of: value),
          .choice(field.names), summary: field.summary)
      },
      more: Stage1Schema.table.siteRows.map { row in
        Field(row, in: Self.overridePrefix, own?.json(of: row.key), absent: Self.asPlan)
      })
  }

  /// Prefix of the keys of fields for overrides of the targets.
  static let overridePrefix = "stage1.overrides."
  /// Word for an override that does not exist.
  static let asPlan = "as the plan"

  /// A form for the settings of a training.
  ///
  /// - Parameters:
  ///   - kind: The stage.
  ///   - plan: The plan, which holds the settings.
  ///   - other: A training that it can wait for.
  ///   - sources: Titles of runs that weights can come from.
  ///   - others: Titles of runs that can be waited for.
  ///   - engines: Names of engines besides the native one.
  /// - Returns: The form.
  static func training(
    _ kind: Job.Kind, of plan: GraftPlan, beside other: RunSummary?, sources: [String] = [],
    others: [String] = [], engines: [String] = []
  ) -> Form {
    let (common, rest) =
      kind == .finetune
      ? Self.fields(of: plan.stage2, in: "stage2.") : Self.fields(of: plan.stage1, in: "stage1.")
    var form = Form(purpose: .training(kind), fields: common)
    if !sources.isEmpty {
      form.fields.append(
        Field(
          RunOptions.weights, "weights from", RunOptions.matching,
          .choice([RunOptions.matching] + sources + [RunOptions.fresh]),
          summary: "matching: of the runs that trained the same operators; ←→ chooses one run"))
    }
    form.addQueue(beside: other)
    form.fields += RunOptions.engineFields(engines)
    form.more =
      rest + RunOptions.fields(isQueued: other != nil, others: others) + dataFields(of: plan)
    return form
  }

  /// Adds the choice to wait for a training that goes on.
  mutating func addQueue(beside other: RunSummary?) {
    guard let other else { return }
    fields.append(
      Field(
        RunOptions.queue, "wait in the queue", 1, in: 0...1, isInteger: true, unit: "0 begins now",
        summary: "1 waits until it is its turn, 0 begins beside \(other.name)"))
  }

  /// A form for both stages of a plan, measurements and a report.
  static func chain(of plan: GraftPlan, engines: [String] = []) -> Form {
    let (first, second) = (
      fields(of: plan.stage1, in: "stage1."), fields(of: plan.stage2, in: "stage2.")
    )
    func named(_ fields: [Field], _ stage: String) -> [Field] {
      fields.map { field in
        Field(
          key: field.key, title: "\(stage) \(field.title)", summary: field.summary,
          unit: field.unit,
          content: field.content, text: field.text, initial: field.initial)
      }
    }
    let run = RunOptions.fields(isQueued: true).filter {
      ["run.priority", "run.precision"].contains($0.key)
    }
    return Form(
      purpose: .chain,
      fields: named(first.common, "distil:") + named(second.common, "finetune:")
        + RunOptions.engineFields(engines),
      more: reportFields + [pageFile] + run + dataFields(of: plan) + named(first.rest, "distil:")
        + named(second.rest, "finetune:"))
  }

  /// A form for measurements of runs.
  static func report(of runs: [String]) -> Form {
    let writesPage = Field(
      "run.page", "write a page", "true", .choice(["true", "false"]),
      summary: "whether sample grids are drawn and an HTML page is written; false only measures")
    return Form(purpose: .report(runs: runs), fields: reportFields + [writesPage, pageFile])
  }

  /// A form for taking runs up again; after a failure half the learning rates are offered.
  static func retry(of runs: [RunSummary], engines: [String]) -> Form {
    let hasFailed = runs.contains { $0.state == .failed }
    let engine = Field(
      RunOptions.engine, "engine", RunOptions.sameEngine,
      .choice([RunOptions.sameEngine, RunOptions.native] + engines),
      summary: "what does the rest: this program, or an engine of engines.yaml")
    return Form(
      purpose: .retry(runs: runs.map(\.id)),
      fields: [
        Field(
          "run.rate_factor", "rate factor", hasFailed ? 0.5 : 1, in: 1e-6...1000,
          isInteger: false, summary: "factor of all learning rates from now on"),
        Field(
          "run.step", "from step", 0, in: 0...1e9, isInteger: true, unit: "0: newest checkpoint",
          summary: "a step whose checkpoint was kept (keep_last)"),
      ] + (engines.isEmpty ? [] : [engine]))
  }

  /// Where an HTML page goes.
  private static var pageFile: Field {
    Field(
      "run.file", "file of the page", "", .text,
      summary: "empty for report.html in the run's directory")
  }

  /// What is measured.
  private static var reportFields: [Field] {
    func field(
      _ key: String, _ title: String, _ value: Int, _ range: ClosedRange<Int>, _ summary: String
    )
      -> Field
    {
      Field(
        "run.\(key)", title, Double(value), in: Double(range.lowerBound)...Double(range.upperBound),
        isInteger: true, summary: summary)
    }
    return [
      field(
        "samples", "judged images", 100, ReportRequest.sampleRange,
        "images of each model that the judge sees"),
      field(
        "steps", "sampler steps", 25, ReportRequest.stepRange,
        "steps of the sampler that draws these images"),
      field(
        "images", "images of a grid", 10, ReportRequest.imageRange,
        "at most one of every class; 0 for no grids"),
    ]
  }

  /// The measurements that the form asks for; those of a chain that are not shown have defaults.
  var reportRequest: ReportRequest {
    func number(_ key: String) -> Int? { values["run.\(key)"].map { Int($0) } }
    var runs: [String] = []
    if case .report(let chosen) = purpose { runs = chosen }
    return ReportRequest(
      runs: runs, samples: number("samples"), steps: number("steps"),
      images: number("images") ?? 10,
      page: text("run.file").flatMap { $0.isEmpty ? nil : $0 })
  }

  /// Common settings of a stage and the others.
  private static func fields<Schema>(
    of settings: Settings<Schema>, in section: String
  ) -> (common: [Field], rest: [Field]) {
    (
      settings.formFields.map { Field($0.row, in: section, $0.json) },
      settings.otherFields.map { Field($0.row, in: section, $0.json) }
    )
  }

  /// Settings of the plan outside the stages.
  private static func dataFields(of plan: GraftPlan) -> [Field] {
    let path = Field(
      "data.path", "data path", "", .text, summary: "what to train on; empty for procedural images")
    return [
      Field("seed", "seed", String(plan.seed), .text, summary: "seed of fresh weights and samples")
    ] + (plan.data?.fields.map { Field($0.row, in: "data.", $0.json) } ?? [path])
  }

  /// A form for the preview's settings.
  ///
  /// - Parameters:
  ///   - settings: The settings.
  ///   - shape: The model.
  ///   - history: Prompts that were typed before.
  /// - Returns: The form.
  static func preview(
    _ settings: PreviewSettings, of shape: ModelShape, history: CommandHistory = CommandHistory()
  ) -> Form {
    let isText = shape.family.condition == .captions
    return Form(
      purpose: .preview,
      fields: (isText ? promptFields(settings, history) : [])
        + [
          Field(
            "class", isText ? "example" : "class", Double(settings.classLabel),
            in: 0...Double(max(0, shape.conditionCount - 1)), isInteger: true,
            summary: isText
              ? "the example prompt, if none is typed"
              : "the class label; prompts need a PixArt-Σ: espalier explore FOLDER"),
          Field(
            "seed", "seed", Double(settings.seed), in: 0...Double(PreviewSettings.largestSeed),
            isInteger: true, summary: "seed of the noise; teacher and graft start from the same"),
          Field(
            "steps", "steps", Double(settings.steps), in: PreviewSettings.stepRange,
            isInteger: true, summary: "sampler steps"),
          Field(
            "guidance", "guidance", settings.guidance, in: PreviewSettings.guidanceRange,
            isInteger: false, summary: "classifier-free guidance scale; 1 is none"),
          Field(
            "cache", "step cache", settings.cache, in: PreviewSettings.cacheRange,
            isInteger: false,
            summary: "skip blocks where the first one's residual has changed less; 0 is never"),
          Field(
            "classes", "rows", Double(settings.classes), in: PreviewSettings.gridRange,
            isInteger: true, summary: "rows of pictures: this class and the next ones"),
          Field(
            "seeds", "columns", Double(settings.seeds), in: PreviewSettings.gridRange,
            isInteger: true, summary: "columns of pictures: this seed and the next ones"),
          Field(
            "frames", "frames", Double(settings.frames), in: PreviewSettings.frameRange,
            isInteger: true, summary: "predicted clean images kept from the sampler's way"),
          Field(
            "sampler", "sampler", settings.sampler ?? shape.family.samplers[0],
            .choice(shape.family.samplers), summary: "how the model's predictions are followed"),
        ])
  }

  /// Fields for prompts, drawn one below the other.
  private static func promptFields(
    _ settings: PreviewSettings, _ history: CommandHistory
  ) -> [Field] {
    (0..<PreviewSettings.promptLimit).map { place in
      var field = Field(
        "prompt \(place + 1)", "prompt \(place + 1)",
        settings.prompts.indices.contains(place) ? settings.prompts[place] : "", .text,
        summary: place == 0
          ? "what to draw; Ctrl-P and Ctrl-N call earlier prompts back"
          : "another prompt, drawn in a row of its own")
      field.history = history
      return field
    }
  }

  /// The prompts typed, without empty ones.
  var prompts: [String] {
    fields.filter { $0.key.hasPrefix("prompt ") }.map(\.text.text.trimmingSpaces).filter {
      !$0.isEmpty
    }
  }

  /// The numbers typed that are allowed, by the names of their fields.
  package var values: [String: Double] {
    Dictionary(
      uniqueKeysWithValues: fields.compactMap { field in field.value.map { (field.key, $0) } })
  }

  /// The text of a field; nil if it is not shown.
  package func text(_ key: String) -> String? { fields.first { $0.key == key }?.text.text }

  /// The operator as typed, or nil when a field is wrong or the form is for something else.
  package var spec: OperatorSpec? {
    guard case .configuration(let name, _) = purpose else { return nil }
    var config: [String: Double] = [:]
    for field in fields where !field.key.hasPrefix(Self.overridePrefix) {
      let choice: Double? =
        if case .choice(let names) = field.content {
          names.firstIndex(of: field.text.text).map(Double.init)
        } else {
          nil
        }
      guard let value = choice ?? field.value else { return nil }
      config[field.key] = value
    }
    return OperatorSpec(name, config)
  }
}

extension GraftPlan {
  /// Sets what was changed in the form of a training; options of the run are left out.
  ///
  /// - Throws: `PlanError` for an invalid value or combination.
  mutating func take(_ form: Form) throws(PlanError) {
    for field in form.fields where field.isChanged && !field.key.hasPrefix("run.") {
      if field.key == "data.path", field.text.text.isEmpty {
        data = nil
      } else {
        try set(field.key, to: field.text.text)
      }
    }
    try validate()
  }

  /// Sets the operator of a configuration form, and what differs in training, in its targets.
  ///
  /// - Throws: `PlanError` for an invalid value or combination.
  mutating func take(_ spec: OperatorSpec, _ form: Form, in targets: [SlotID]) throws(PlanError) {
    for target in targets { edits[target] = spec }
    for field in form.fields where field.isChanged && field.key.hasPrefix(Form.overridePrefix) {
      let text = field.text.text
      let value = text.isEmpty || text == Form.asPlan ? "null" : text
      for target in targets {
        let name = field.key.dropFirst(Form.overridePrefix.count)
        try set("\(Form.overridePrefix)\(target).\(name)", to: value)
      }
    }
    try validate()
  }
}
