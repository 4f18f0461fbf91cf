import Plans
import Runs
import TerminalUI
import Text

/// A form of numbers.
struct FormView {
  let state: AppState
  let form: Form

  func draw(on frame: inout Frame) {
    let about = aboutLines
    let width = min(72, frame.columns - 4)
    let problem = form.problem.map { TextWidth.wrap($0.printableSentence, width - 6) } ?? []
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
      frame.targets.append(
        MouseTarget(
          .item(index), column: inside.column, row: row + index, columns: inside.columns))
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
    if isSelected { frame.cursor = .init(column: left + field.text.cursor - hidden, row: row) }
  }

  private func remark(_ field: Form.Field) -> String {
    if form.purpose == .preview, field.key == "class", let value = field.value {
      return state.className(Int(value))
    }
    if case .configuration(_, let targets) = form.purpose, field.key.hasPrefix("window_"),
      let window = state.suggestedWindow(for: targets)
    {
      return "\(window) holds \(Format.plain(state.windowShare * 100)) % of the attention"
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
