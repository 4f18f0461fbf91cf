import Plans
import Runs

/// A form of numbers with one line for each field.
package struct Form: Equatable, Sendable {
  /// What the numbers are for.
  package enum Purpose: Equatable, Sendable {
    /// The configuration of an operator for some slots.
    case configuration(operatorName: String, targets: [SlotID])
    /// The settings of a training of the whole plan, distillation or finetuning.
    case training(Job.Kind)
    /// The settings of the preview.
    case preview
  }

  /// One number.
  package struct Field: Equatable, Sendable {
    /// The name in the plan file.
    package let key: String
    /// The name on the screen.
    package let title: String
    /// One line on what it does.
    package let summary: String
    /// The unit, empty when there is none.
    package let unit: String
    /// The values allowed.
    package let range: ClosedRange<Double>
    /// Whether only whole numbers are allowed.
    package let isInteger: Bool
    /// What is typed.
    package var text: TextField
  }

  /// What the numbers are for.
  package let purpose: Purpose
  /// The fields.
  package var fields: [Field]
  /// The field being edited.
  package var index = 0
  /// Whether the next character replaces the field instead of extending it.
  package var isFresh = true
  /// Why the form cannot be accepted, after a try.
  package var problem: String?
}

extension Form.Field {
  /// Makes a field that holds `value`.
  init(
    _ key: String, _ title: String, _ value: Double, in range: ClosedRange<Double>,
    isInteger: Bool, unit: String = "", summary: String
  ) {
    self.init(
      key: key, title: title, summary: summary, unit: unit, range: range, isInteger: isInteger,
      text: TextField(Format.plain(value)))
  }

  /// Makes a field for a row of a table of settings, holding a value of it.
  init(_ row: any SettingRow, _ value: String) {
    self.init(
      key: row.key, title: row.key.replacing("_", with: " "), summary: row.summary, unit: "",
      range: row.bounds, isInteger: row.isWholeNumber, text: TextField(value))
  }

  /// The number typed, or nil when it is none or not allowed.
  package var value: Double? { problem == nil ? Double(text.text) : nil }

  /// What is wrong with the text, or nil.
  package var problem: String? {
    guard let value = Double(text.text) else {
      let (low, high) = (numberText(range.lowerBound), numberText(range.upperBound))
      return "\(title): expected a number from \(low) to \(high), found “\(text.text)”; correct it"
    }
    return refusal(of: value, in: range, isWhole: isInteger).map { "\(title): \($0)" }
  }
}

extension Form {
  /// A form for an operator's configuration.
  static func configuration(
    _ descriptor: OperatorDescriptor, spec: OperatorSpec, targets: [SlotID]
  ) -> Form {
    Form(
      purpose: .configuration(operatorName: descriptor.name, targets: targets),
      fields: descriptor.openFields.map { field in
        Form.Field(field, Format.plain(spec.config[field.key] ?? field.defaultNumber))
      })
  }

  /// A form for the settings of a training; `other` is one that it can wait for.
  static func training(_ kind: Job.Kind, of plan: GraftPlan, beside other: RunSummary?) -> Form {
    let rows = kind == .finetune ? plan.stage2.formFields : plan.stage1.formFields
    var form = Form(purpose: .training(kind), fields: rows.map { Field($0.row, $0.json) })
    if let other {
      form.fields.append(
        Field(
          "queue", "wait in the queue", 1, in: 0...1, isInteger: true, unit: "0 begins now",
          summary: "1 waits until it is its turn, 0 begins beside \(other.name)"))
    }
    return form
  }

  /// A form for the preview's settings.
  static func preview(_ settings: PreviewSettings, classes: Int) -> Form {
    Form(
      purpose: .preview,
      fields: [
        Field(
          "class", "class", Double(settings.classLabel), in: 0...Double(max(0, classes - 1)),
          isInteger: true, summary: "the class label"),
        Field(
          "seed", "seed", Double(settings.seed), in: 0...Double(PreviewSettings.largestSeed),
          isInteger: true, summary: "seed of the noise; teacher and graft start from the same"),
        Field(
          "steps", "steps", Double(settings.steps), in: PreviewSettings.stepRange,
          isInteger: true, summary: "DDIM steps"),
        Field(
          "guidance", "guidance", settings.guidance, in: PreviewSettings.guidanceRange,
          isInteger: false, summary: "classifier-free guidance scale; 1 is none"),
        Field(
          "classes", "rows", Double(settings.classes), in: PreviewSettings.gridRange,
          isInteger: true, summary: "rows of pictures: this class and the next ones"),
        Field(
          "seeds", "columns", Double(settings.seeds), in: PreviewSettings.gridRange,
          isInteger: true, summary: "columns of pictures: this seed and the next ones"),
        Field(
          "frames", "frames", Double(settings.frames), in: PreviewSettings.frameRange,
          isInteger: true, summary: "predicted clean images kept from the sampler's way"),
      ])
  }

  /// The numbers typed that are allowed, by the names of their fields.
  package var values: [String: Double] {
    Dictionary(
      uniqueKeysWithValues: fields.compactMap { field in field.value.map { (field.key, $0) } })
  }

  /// The operator as typed, or nil when a field is wrong or the form is for something else.
  package var spec: OperatorSpec? {
    guard case .configuration(let name, _) = purpose else { return nil }
    var config: [String: Double] = [:]
    for field in fields {
      guard let value = field.value else { return nil }
      config[field.key] = value
    }
    return OperatorSpec(name, config)
  }
}

extension GraftPlan {
  /// Takes over the numbers of a training's form, which its fields have checked.
  mutating func take(_ values: [String: Double], of kind: Job.Kind) {
    let section = kind == .finetune ? "stage2" : "stage1"
    for (key, value) in values where key != "queue" {
      try? set("\(section).\(key)", to: numberText(value))
    }
  }
}
