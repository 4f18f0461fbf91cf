import Plans
import Runs

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

  /// The number typed, or nil when it is none or not allowed.
  package var value: Double? {
    guard let value = Double(text.text), value.isFinite, range.contains(value),
      !isInteger || value == value.rounded()
    else { return nil }
    return value
  }

  /// What is wrong with the text, or nil.
  package var problem: String? {
    guard value == nil else { return nil }
    let kind = isInteger ? "a whole number" : "a number"
    return
      "\(title) must be \(kind) from \(Format.plain(range.lowerBound)) to "
      + "\(Format.plain(range.upperBound)), not “\(text.text)”"
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
        Form.Field(
          field.key, field.key.replacing("_", with: " "),
          spec.config[field.key] ?? field.defaultValue, in: field.range,
          isInteger: field.isInteger, summary: field.summary)
      })
  }

  /// A form for the settings of activation distillation; `other` is a training that it can wait for.
  static func distillation(_ settings: Stage1Settings, beside other: RunSummary?) -> Form {
    let isCached = settings.mode == .cached
    return training(
      .distill, beside: other,
      length: isCached
        ? Field(
          "epochs", "epochs", Double(settings.epochs), in: 1...1_000_000, isInteger: true,
          summary: "passes over \(settings.samples) recorded samples")
        : steps(settings.steps),
      batchSize: settings.batchSize,
      samples: isCached ? "samples in each step" : "samples in each step's teacher pass",
      learningRate: settings.learningRate)
  }

  /// A form for the settings of finetuning; `other` is a training that it can wait for.
  static func finetuning(_ settings: Stage2Settings, beside other: RunSummary?) -> Form {
    training(
      .finetune, beside: other, length: steps(settings.steps), batchSize: settings.batchSize,
      samples: "samples in each step", learningRate: settings.learningRate)
  }

  private static func steps(_ steps: Int) -> Field {
    Field(
      "steps", "steps", Double(steps), in: 1...1_000_000, isInteger: true,
      summary: "optimizer steps")
  }

  private static func training(
    _ kind: Job.Kind, beside other: RunSummary?, length: Field, batchSize: Int,
    samples: String,
    learningRate: Double
  ) -> Form {
    var form = Form(
      purpose: .training(kind),
      fields: [
        length,
        Field(
          "batch_size", "batch size", Double(batchSize), in: 1...4096, isInteger: true,
          unit: "samples", summary: samples),
        Field(
          "learning_rate", "learning rate", learningRate, in: 1e-7...1, isInteger: false,
          summary: "AdamW's highest rate, after warm-up"),
      ])
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
  /// Takes over the numbers of a training's form; what is missing stays.
  mutating func take(_ values: [String: Double], of kind: Job.Kind) {
    func set(_ number: inout Int, _ key: String) {
      if let value = values[key] { number = Int(value) }
    }
    if kind == .finetune {
      set(&stage2.steps, "steps")
      set(&stage2.batchSize, "batch_size")
      stage2.learningRate = values["learning_rate"] ?? stage2.learningRate
    } else {
      set(&stage1.steps, "steps")
      set(&stage1.epochs, "epochs")
      set(&stage1.batchSize, "batch_size")
      stage1.learningRate = values["learning_rate"] ?? stage1.learningRate
    }
  }
}
