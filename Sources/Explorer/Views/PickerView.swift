import Plans
import Runs
import TerminalUI
import Text

/// A box in the middle of the screen.
enum Popup {
  /// Draws a box and returns its inside, one cell away from the border at the sides.
  static func open(
    on frame: inout Frame, columns: Int, rows: Int, title: String
  ) -> Rect {
    let width = min(columns, frame.columns - 2)
    let height = min(rows, frame.rows - 2)
    let column = (frame.columns - width) / 2
    let row = max(1, (frame.rows - height) / 2)
    frame.fill(column: column - 1, row: row, columns: width + 2, rows: height)
    frame.box(
      column: column, row: row, columns: width, rows: height, style: Theme.plain, title: title,
      titleStyle: Theme.heading)
    return Rect(column: column + 2, row: row + 1, columns: width - 4, rows: height - 2)
  }
}

/// The list of operators that fit, one line each: what it is and what it costs.
struct PickerView {
  let state: AppState
  let picker: Picker

  func draw(on frame: inout Frame) {
    let place =
      picker.targets.count == 1
      ? picker.targets[0].description
      : Format.count(picker.targets.count, picker.slot.slotName)
    let skipped =
      picker.skipped == 0
      ? "" : " (\(picker.skipped) of the other kind stay as they are)"
    let inside = Popup.open(
      on: &frame, columns: 96, rows: picker.entries.count + 6,
      title: "operator for \(place)\(skipped)")
    let costs = inside.right - 17
    frame.put("FLOPs    params", column: costs + 2, row: inside.row, style: Theme.quiet)
    frame.put("against the original", column: inside.column, row: inside.row, style: Theme.quiet)
    for (index, entry) in picker.entries.enumerated() {
      drawEntry(
        entry, isSelected: index == picker.index, on: &frame, in: inside,
        row: inside.row + 1 + index)
    }
    frame.put(
      TextWidth.clip(summary(picker.entry), inside.columns), column: inside.column,
      row: inside.bottom - 2)
    frame.put(
      TextWidth.clip(detail, inside.columns), column: inside.column, row: inside.bottom - 1,
      style: Theme.quiet)
  }

  private func summary(_ entry: Picker.Entry) -> String {
    switch entry {
    case .original:
      let original = OperatorCatalog.label(state.model.shape.original(picker.slot))
      return "the teacher's \(original) with its own weights"
    case .replacement(let spec):
      return OperatorCatalog.descriptor(named: spec.name)?.summary ?? ""
    }
  }

  private func drawEntry(
    _ entry: Picker.Entry, isSelected: Bool, on frame: inout Frame, in inside: Rect, row: Int
  ) {
    let original = state.model.shape.original(picker.slot)
    let title: String
    var spec = original
    switch entry {
    case .original:
      title = "original"
    case .replacement(let replacement):
      spec = replacement
      title = OperatorCatalog.label(spec)
    }
    let before = state.model.cost(original)
    let after = state.model.cost(spec)
    let costs = inside.right - 17
    frame.write(
      [
        (isSelected ? "› " : "  ", Theme.warning), (TextWidth.pad(title, 11), Theme.strong),
        (TextWidth.clip(summary(entry), max(0, costs - inside.column - 14)), Theme.plain),
      ], column: inside.column, row: row, maxColumns: costs - inside.column - 1)
    frame.write(
      [
        (TextWidth.padLeft(Format.change(from: before.flops, to: after.flops), 8), Theme.plain),
        (
          TextWidth.padLeft(
            Format.change(from: Double(before.parameters), to: Double(after.parameters)), 9),
          Theme.plain
        ),
      ], column: costs, row: row, maxColumns: 17)
    if isSelected {
      frame.restyle(column: inside.column, row: row, columns: inside.columns) { $0 = Theme.cursor }
    }
  }

  private var detail: String {
    switch picker.entry {
    case .original: return "⏎ restores it"
    case .replacement(let spec):
      let fields = OperatorCatalog.descriptor(named: spec.name)?.openFields ?? []
      if fields.isEmpty { return "⏎ puts it in" }
      let names = fields.map { $0.key.replacing("_", with: " ") }.joined(separator: ", ")
      return "⏎ goes on to its settings: \(names)"
    }
  }
}

/// A form of numbers.
struct FormView {
  let state: AppState
  let form: Form

  func draw(on frame: inout Frame) {
    let about = aboutLines
    let width = min(72, frame.columns - 4)
    let problem = form.problem.map { TextWidth.wrap($0, width - 4) } ?? []
    let rows = form.fields.count + about.count + max(1, problem.count) + 5
    let inside = Popup.open(on: &frame, columns: width, rows: rows, title: title)
    var row = inside.row
    for line in about {
      frame.put(
        line, column: inside.column, row: row, style: Theme.quiet, maxColumns: inside.columns)
      row += 1
    }
    row += 1
    for (index, field) in form.fields.enumerated() {
      drawField(field, isSelected: index == form.index, on: &frame, in: inside, row: row + index)
    }
    row += form.fields.count + 1
    if problem.isEmpty {
      let field = form.fields[form.index]
      let range =
        "\(Format.plain(field.range.lowerBound)) to \(Format.plain(field.range.upperBound))"
      frame.put(
        TextWidth.clip("\(field.summary): \(range)", inside.columns), column: inside.column,
        row: row, style: Theme.quiet)
    }
    for (index, line) in problem.enumerated() {
      frame.put(
        "\(index == 0 ? "! " : "  ")\(line)", column: inside.column, row: row + index,
        style: Theme.failure, maxColumns: inside.columns)
    }
  }

  private func drawField(
    _ field: Form.Field, isSelected: Bool, on frame: inout Frame, in inside: Rect, row: Int
  ) {
    let name = 20
    let box = 14
    frame.put(
      isSelected ? "›" : " ", column: inside.column, row: row, style: Theme.warning)
    frame.put(
      TextWidth.clip(field.title, name - 1), column: inside.column + 2, row: row,
      style: isSelected ? Theme.strong : Theme.plain)
    let left = inside.column + 2 + name
    let hidden = max(0, field.text.cursor - box + 1)
    let text = String(field.text.text.dropFirst(hidden))
    let isWhole = isSelected && form.isFresh
    frame.put(
      TextWidth.pad(text, box), column: left, row: row,
      style: isWhole ? Theme.cursor : Theme.field)
    frame.put(
      remark(field), column: left + box + 2, row: row, style: Theme.quiet,
      maxColumns: inside.right - left - box - 2)
    if isSelected { frame.cursor = (column: left + field.text.cursor - hidden, row: row) }
  }

  private func remark(_ field: Form.Field) -> String {
    if form.purpose == .preview, field.key == "class", let value = field.value {
      return state.className(Int(value))
    }
    return field.unit
  }

  private var title: String {
    switch form.purpose {
    case .configuration(let name, let targets):
      let place =
        targets.count == 1
        ? targets[0].description
        : Format.count(targets.count, targets.first?.slot.slotName ?? "slot")
      return "\(OperatorCatalog.descriptor(named: name)?.title ?? name) for \(place)"
    case .training(.finetune): return "finetune"
    case .training: return "distil"
    case .preview: return "preview"
    }
  }

  private var aboutLines: [String] {
    switch form.purpose {
    case .configuration: return configurationLines
    case .training(.finetune): return finetuningLines
    case .training: return distillationLines
    case .preview: return ["teacher and graft start from the same noise"]
    }
  }

  /// What the operator would cost with the numbers as typed.
  private var configurationLines: [String] {
    guard case .configuration(_, let targets) = form.purpose, let slot = targets.first?.slot
    else { return [] }
    guard let spec = form.spec, let descriptor = OperatorCatalog.descriptor(named: spec.name),
      descriptor.refusal(of: spec, shape: state.model.shape) == nil
    else { return ["–"] }
    let before = state.model.cost(state.model.shape.original(slot))
    let after = state.model.cost(spec)
    let flops = Format.change(from: before.flops, to: after.flops)
    let parameters = Format.change(
      from: Double(before.parameters), to: Double(after.parameters))
    return [
      "each slot: FLOPs \(Format.metric(after.flops)) (\(flops)), "
        + "params \(Format.metric(Double(after.parameters))) (\(parameters))"
    ]
  }

  private var distillationLines: [String] {
    var counts: [String: Int] = [:]
    for (slot, _) in state.plan.edits { counts[state.plan.label(of: slot), default: 0] += 1 }
    let operators = counts.sorted { ($0.value, $1.key) > ($1.value, $0.key) }
      .map { "\($0.value) × \($0.key)" }.joined(separator: ", ")
    var lines = [state.plan.extent + (operators.isEmpty ? "" : ": \(operators)")]
    let losses = Set(
      state.plan.sites.map { state.plan.stage1.loss(for: $0).rawValue.uppercased() })
    lines.append(
      "activations of the teacher, \(losses.sorted().joined(separator: " and ")) loss,"
        + " in the background")
    return lines + duration(of: .distill)
  }

  private var finetuningLines: [String] {
    let start =
      state.plan.isEmpty
      ? "nothing is changed: the teacher itself"
      : state.trainedWeights.map { weights in
        let name = state.runs.record(weights.runID)?.name ?? weights.runID
        return "from step \(weights.step) of \(name)"
      } ?? "the operators start fresh: d distils them first"
    return [
      start, "the whole model, diffusion loss, in the background",
    ] + duration(of: .finetune)
  }

  /// How long it takes at the rate of the followed run, if that is of the same kind.
  private func duration(of kind: Job.Kind) -> [String] {
    guard state.runs.focusRecord?.kind == kind, let rate = state.runs.focus?.history.summary.rate,
      rate > 0, form.fields.first?.value != nil
    else { return [] }
    var plan = state.plan
    plan.take(form.values, of: kind)
    let steps = kind == .finetune ? plan.stage2.steps : plan.stage1.totalSteps
    return [
      "~\(Format.clock(Double(steps) / rate)) at \(Format.rate(rate)), the rate of the last run"
    ]
  }
}

/// A question with its answers.
struct QuestionView {
  let state: AppState
  let question: Question

  func draw(on frame: inout Frame) {
    let width = min(64, frame.columns - 4)
    let lines = Self.text(question, state).flatMap { TextWidth.wrap($0, width - 4) }
    let inside = Popup.open(on: &frame, columns: width, rows: lines.count + 4, title: "question")
    for (index, line) in lines.enumerated() {
      frame.put(line, column: inside.column, row: inside.row + index, maxColumns: inside.columns)
    }
    frame.put(
      Self.answers(question), column: inside.column, row: inside.bottom - 1, style: Theme.strong,
      maxColumns: inside.columns)
  }

  static func text(_ question: Question, _ state: AppState) -> [String] {
    let runs = state.runs.aliveTraining != nil
    switch question {
    case .unsaved(.quit):
      return ["The plan \(state.plan.name) has unsaved changes."]
        + (runs ? ["The training goes on without the explorer."] : [])
    case .unsaved(let step):
      let what =
        switch step {
        case .load(let path): "Opening \(path)"
        case .openRun: "Opening the run"
        case .new: "Starting an empty plan"
        case .quit: "Leaving"
        }
      return ["\(what) would lose the unsaved changes of \(state.plan.name)."]
    case .leaveRunning:
      return [
        "A training is running. It goes on without the explorer, which finds it again.",
        "Leave?",
      ]
    case .cancelRun(let id):
      let record = state.runs.record(id)
      if state.runs.stopping.contains(id) {
        return [
          "\(state.runs.title(of: id)) was asked to stop already. Kill its worker?",
          "What came after its last checkpoint is lost.",
        ]
      }
      if record?.state == .queued, record?.step == 0 {
        return ["Take \(state.runs.title(of: id)) out of the queue?", "It has not begun."]
      }
      return [
        "Cancel \(state.runs.title(of: id))" + (record.map { " at \($0.progressText)" } ?? "")
          + "?",
        "Its checkpoints stay.",
      ]
    case .overwrite(let path):
      return ["\(path) exists already. Write over it?"]
    }
  }

  static func answers(_ question: Question) -> String {
    switch question {
    case .unsaved(.quit): "[s] save and leave   [y] leave without saving   [n] stay"
    case .unsaved: "[s] save first   [y] lose them   [n] stay"
    case .leaveRunning: "[y] leave   [n] stay"
    case .cancelRun: "[y] do it   [n] let it run"
    case .overwrite: "[y] write over it   [n] keep it"
    }
  }
}
