import Plans
import Search
import Text

extension AppState {
  /// What the model, the plan and every operator cost: FLOPs and parameters for one image, memory, measured time.
  package var costTable: TextPage {
    let plan = plan.cost()
    let time = teacherAmount(.time)
    let saved = savedTime
    var lines = [
      Self.costLine(["", "FLOPs", "", "params", "", "memory", "time", ""]),
      Self.costLine(
        "teacher", plan.original, seconds: time.map { Measure.time.text($0) }, against: nil),
      Self.costLine(
        document.title, plan.edited,
        seconds: time.flatMap { time in saved.map { Measure.time.text(time - $0) } },
        change: time.flatMap { time in saved.map { Format.change(from: time, to: time - $0) } },
        against: plan.original),
    ]
    for slot in Slot.allCases {
      let original = model.shape.original(slot)
      let base = model.cost(original)
      lines += [
        "",
        Self.costLine(["one \(slot.slotName)", "FLOPs", "", "params", "", "memory", "time", ""]),
        Self.costLine(OperatorCatalog.label(original), base, seconds: nil, against: nil),
      ]
      for (spec, count) in operators(of: slot) {
        let name = OperatorCatalog.label(spec) + (count > 0 ? " ×\(count)" : "")
        lines.append(
          Self.costLine(
            name, model.cost(spec),
            seconds: medianSaving(spec, slot).map { Format.milliseconds(-$0) }, against: base))
      }
    }
    lines += ["", "FLOPs of one image and forward pass; memory: float32 parameters and outputs"]
    if let conditions = library.costs?.conditions {
      lines.append(
        "time: measured, batch \(conditions.batch), "
          + "\(Format.count(conditions.threads, "thread")), \(conditions.precision); of an operator"
          + " the median change of the model's time over the slots")
    } else {
      lines.append("time: \(reasonAgainstCosts ?? "the library is being read")")
    }
    return TextPage(title: "costs", lines: lines)
  }

  /// The operators of a kind of slot: those of the plan with the number of slots, then all others with usual settings.
  private func operators(of slot: Slot) -> [(OperatorSpec, Int)] {
    var counts: [OperatorSpec: Int] = [:]
    for (id, spec) in plan.edits where id.slot == slot {
      counts[spec.normalized(for: model.shape), default: 0] += 1
    }
    let own = counts.sorted { ($1.value, $0.key.name) < ($0.value, $1.key.name) }
    let others = OperatorCatalog.fitting(slot).map {
      OperatorSpec($0.name).normalized(for: model.shape)
    }
    .filter { spec in
      counts[spec] == nil && spec != model.shape.original(slot).normalized(for: model.shape)
        && OperatorCatalog.descriptor(named: spec.name)?.refusal(of: spec, shape: model.shape)
          == nil
    }
    return own.map { ($0.key, $0.value) } + others.map { ($0, 0) }
  }

  /// Seconds that the plan's operators save together; nil if one of them was not timed.
  private var savedTime: Double? {
    guard plan.parallel.isEmpty else { return nil }
    var sum = 0.0
    for (slot, spec) in plan.edits {
      guard let saving = cost(of: spec, in: [slot])?.seconds else { return nil }
      sum += saving
    }
    return sum
  }

  /// The median over the slots of what an operator saves there; nil if it was not timed.
  private func medianSaving(_ spec: OperatorSpec, _ slot: Slot) -> Double? {
    let normalized = spec.normalized(for: model.shape)
    let savings = model.shape.slots.filter { $0.slot == slot }
      .compactMap { library.costs?.candidate(normalized, in: $0)?.saving.time }.sorted()
    return savings.isEmpty ? nil : savings[savings.count / 2]
  }

  private static func costLine(
    _ name: String, _ cost: OperatorCost, seconds: String?, change: String? = nil,
    against base: OperatorCost?
  ) -> String {
    costLine([
      name, Format.metric(cost.flops),
      base.map { Format.change(from: $0.flops, to: cost.flops) } ?? "",
      Format.metric(Double(cost.parameters)),
      base.map { Format.change(from: Double($0.parameters), to: Double(cost.parameters)) } ?? "",
      Measure.memory.text(cost.bytes), seconds ?? "", change ?? "",
    ])
  }

  private static let costWidths = [18, 7, 7, 7, 7, 8, 10, 7]

  /// Cells of a line, at most 73 columns: the name at the left, numbers at the right of their columns.
  private static func costLine(_ cells: [String]) -> String {
    let padded = zip(cells, costWidths).enumerated().map { index, cell in
      index == 0
        ? TextWidth.pad(TextWidth.clip(cell.0, cell.1), cell.1) : TextWidth.padLeft(cell.0, cell.1)
    }
    return padded.joined().trimmingTrailingSpaces
  }
}
