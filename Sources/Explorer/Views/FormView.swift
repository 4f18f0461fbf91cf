import Plans
import Runs
import TerminalUI
import Text

/// A form of numbers.
struct FormView {
  let state: AppState
  let form: Form

  func draw(on frame: inout Frame) {
    let width = min(72, frame.columns - 4)
    let about = aboutLines.flatMap { TextWidth.wrap($0.printableSentence, width - 4) }
    let problem = form.problem.map { TextWidth.wrap($0.printableSentence, width - 6) } ?? []
    let text = reasonWithoutEffect.map { "\(summary); \($0)" } ?? summary
    let note = problem.isEmpty ? TextWidth.wrap(text, width - 4).prefix(5) : []
    let extra = about.count + max(1, problem.count, note.count) + 5 + (form.more.isEmpty ? 0 : 1)
    let room = max(3, frame.rows - 2 - extra)
    let shown = min(room, form.fields.count)
    let inside = Popup.open(on: &frame, columns: width, rows: shown + extra, title: title)
    var row = inside.row
    for line in about {
      frame.put(
        line, column: inside.column, row: row, style: Theme.quiet, maxColumns: inside.columns)
      row += 1
    }
    row += 1
    let first = max(0, min(form.index - shown / 2, form.fields.count - shown))
    for (offset, field) in form.fields.dropFirst(first).prefix(shown).enumerated() {
      drawField(
        field, isSelected: first + offset == form.index, on: &frame, in: inside, row: row + offset)
      frame.targets.append(
        MouseTarget(
          .item(first + offset), column: inside.column, row: row + offset, columns: inside.columns))
    }
    if first > 0 { frame.putRight("↑", right: inside.right, row: row, style: Theme.quiet) }
    if first + shown < form.fields.count {
      frame.putRight(
        "↓ \(form.fields.count - first - shown) more", right: inside.right, row: row + shown - 1,
        style: Theme.quiet)
    }
    row += shown
    if !form.more.isEmpty {
      frame.put(
        "m  \(Format.count(form.more.count, "more setting"))", column: inside.column + 2, row: row,
        style: Theme.quiet, maxColumns: inside.columns - 2)
      row += 1
    }
    row += 1
    for (index, line) in note.enumerated() {
      frame.put(line, column: inside.column, row: row + index, style: Theme.quiet)
    }
    for (index, line) in problem.enumerated() {
      frame.put(
        "\(index == 0 ? "! " : "  ")\(line)", column: inside.column, row: row + index,
        style: Theme.failure, maxColumns: inside.columns)
    }
  }

  /// What the selected field does and takes.
  private var summary: String {
    let field = form.fields[form.index]
    switch field.content {
    case .number(let range, _):
      return
        "\(field.summary): \(Format.plain(range.lowerBound)) to \(Format.plain(range.upperBound))"
    case .choice: return "\(field.summary): ←→ or Space changes it"
    case .text: return field.summary
    }
  }

  /// Why the selected field has no effect beside the others; nil if it has one.
  private var reasonWithoutEffect: String? {
    let key = form.fields[form.index].key
    return typed?.withoutEffect.first { $0.key == key }.map { "no effect: \($0.reason)" }
  }

  private func drawField(
    _ field: Form.Field, isSelected: Bool, on frame: inout Frame, in inside: Rect, row: Int
  ) {
    // The names in a chain's form begin with the stage.
    let name = form.purpose == .chain ? 26 : 20
    let box = if case .number = field.content { 14 } else { 28 }
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
    case .chain: return "distil, finetune, measure, report"
    case .report: return "measure and report"
    case .retry: return "restart"
    case .library: return "the library of operators"
    case .search: return "search for the best plans"
    case .preview: return "preview"
    }
  }

  private var aboutLines: [String] {
    switch form.purpose {
    case .configuration: return configurationLines
    case .training(.finetune): return finetuningLines
    case .training: return distillationLines
    case .chain: return chainLines
    case .report(let runs):
      return ["weights of \(runs.map(state.runs.title(of:)).joined(separator: ", "))"]
    case .retry(let runs):
      return [state.runs.names(of: runs), "goes on from a checkpoint with a new worker"]
    case .library:
      return [
        "about ten operators for every attention slot and six for every MLP, each trained by itself, scored"
          + " and timed in the background; what the library has is not trained again"
      ]
    case .search(let constraints):
      let locks = constraints.kept.count + constraints.required.count
      return [
        "diverse plans are evaluated whole, the best ones improved, and stand beside baselines of equal"
          + " saving" + (locks == 0 ? "" : "; \(Format.count(locks, "lock")) of the view holds")
      ]
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
    let plan = typed ?? state.plan
    let losses = Set(plan.sites.map { plan.stage1.loss(for: $0).rawValue.uppercased() })
    var lines = [
      state.plan.extent + (operators.isEmpty ? "" : ": \(operators)"),
      "activations of the teacher, \(losses.sorted().joined(separator: " and ")) loss,"
        + " in the background",
    ]
    if state.weights.count > 0, let text = state.weightsText {
      lines.append("\(text); distilling starts all of them fresh")
    }
    return lines + [Self.rule] + duration(of: .distill)
  }

  private var finetuningLines: [String] {
    let weights = state.weights(for: form)
    let start =
      state.plan.isEmpty
      ? "nothing is changed: the teacher itself"
      : weights.sentence { state.runs.title(of: $0) }
        + (weights.count == 0 ? "; d distils them first" : "")
    let settings = (typed ?? state.plan).stage2
    return [
      start, "\(settings.trainedText), \(settings.lossText), in the background", Self.rule,
    ]
      + duration(of: .finetune)
  }

  private var chainLines: [String] {
    [
      state.plan.extent + ": four runs in the queue, each after the one before it",
      Self.rule, chainDuration,
    ]
  }

  /// The plan with the settings as typed; nil while they are refused.
  private var typed: GraftPlan? {
    var plan = state.plan
    return (try? plan.take(form)) == nil ? nil : plan
  }

  /// How long a chain takes at the pace of earlier runs of its kinds.
  private var chainDuration: String {
    guard let plan = typed else { return "–" }
    let kinds: [Job.Kind] = [.distill, .finetune, .measure, .report]
    let known = kinds.map { kind in
      RunChain.seconds(
        of: kind, modelHash: plan.model.contentHash,
        work: kind.isTraining ? plan.work(kind) : nil, by: state.runs.records)
    }
    let unknown = zip(kinds, known).filter { $0.1 == nil }.map(\.0.rawValue)
    let sum = known.compactMap(\.self).reduce(0, +)
    let rest =
      unknown.isEmpty ? "" : "no earlier run tells how long \(unknown.joined(separator: ", ")) take"
    return [sum > 0 ? "~\(Format.clock(sum)) in all at the pace of earlier runs" : "", rest]
      .filter { !$0.isEmpty }.joined(separator: "; ")
  }

  /// What becomes of the settings typed.
  private static let rule = "⏎ puts these settings into the plan; u takes them back"

  /// How long it takes at the rate of the followed run, if that is of the same kind.
  private func duration(of kind: Job.Kind) -> [String] {
    guard state.runs.focusRecord?.kind == kind, let rate = state.runs.focus?.history.summary.rate,
      rate > 0, let plan = typed
    else { return [] }
    let steps = kind == .finetune ? plan.stage2.steps : plan.stage1.totalSteps
    return [
      "~\(Format.clock(Double(steps) / rate)) at \(Format.rate(rate)), the rate of the last run"
    ]
  }
}
