import Plans
import TerminalUI
import Text

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
    frame.putRight(
      (isScored ? "error %     time ms" : "") + "   FLOPs    params", right: inside.right,
      row: inside.row, style: Theme.quiet)
    frame.put(
      isScored
        ? "the cheapest first" : "against the original; b in the grid scores and times them",
      column: inside.column, row: inside.row, style: Theme.quiet,
      maxColumns: inside.columns - costColumns)
    let rows = inside.rows - 4
    let first = max(0, min(picker.index - rows / 2, picker.entries.count - rows))
    for (offset, entry) in picker.entries.dropFirst(first).prefix(rows).enumerated() {
      drawEntry(
        entry, index: first + offset, on: &frame, in: inside, row: inside.row + 1 + offset)
    }
    if first + rows < picker.entries.count {
      frame.putRight("↓", right: inside.right + 1, row: inside.row + rows, style: Theme.warning)
    }
    if first > 0 {
      frame.putRight("↑", right: inside.right + 1, row: inside.row + 1, style: Theme.warning)
    }
    frame.put(
      TextWidth.clip(summary(picker.entry), inside.columns), column: inside.column,
      row: inside.bottom - 2)
    frame.put(
      TextWidth.clip(detail, inside.columns), column: inside.column, row: inside.bottom - 1,
      style: Theme.quiet)
  }

  /// Whether the library has scored operators of the slots.
  private var isScored: Bool {
    picker.targets.first.map { state.library.costs?.candidates(of: $0).isEmpty == false } ?? false
  }

  /// Columns of the numbers of an operator.
  private var costColumns: Int { isScored ? 37 : 17 }

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
    _ entry: Picker.Entry, index: Int, on frame: inout Frame, in inside: Rect, row: Int
  ) {
    let isSelected = index == picker.index
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
    let costs = inside.right - costColumns
    frame.write(
      [
        (isSelected ? "› " : "  ", Theme.warning), (TextWidth.pad(title, 11), Theme.strong),
        (TextWidth.clip(summary(entry), max(0, costs - inside.column - 14)), Theme.plain),
      ], column: inside.column, row: row, maxColumns: costs - inside.column - 1)
    frame.write(
      scoreTexts(entry) + [
        (TextWidth.padLeft(Format.change(from: before.flops, to: after.flops), 8), Theme.plain),
        (
          TextWidth.padLeft(
            Format.change(from: Double(before.parameters), to: Double(after.parameters)), 9),
          Theme.plain
        ),
      ], column: costs, row: row, maxColumns: costColumns)
    frame.targets.append(
      MouseTarget(.item(index), column: inside.column, row: row, columns: inside.columns))
    if isSelected {
      frame.restyle(column: inside.column, row: row, columns: inside.columns) { $0 = Theme.cursor }
    }
  }

  /// Error and time of an operator in the slots, as wide as their headings.
  private func scoreTexts(_ entry: Picker.Entry) -> [(String, Style)] {
    guard isScored else { return [] }
    guard case .replacement(let spec) = entry else {
      return [(String(repeating: " ", count: 20), Theme.plain)]
    }
    guard let cost = state.cost(of: spec, in: picker.targets) else {
      return [(TextWidth.padLeft("–", 8) + TextWidth.padLeft("–", 12), Theme.quiet)]
    }
    let single = picker.targets.count == 1 ? picker.targets.first : nil
    let error = single.flatMap { slot in
      state.library.costs?.candidate(spec.normalized(for: state.model.shape), in: slot)
    }.map { " ±\(Format.loss(100 * $0.standardError))" }
    let time = "\(cost.seconds > 0 ? "−" : "+")\(Format.statistic(abs(1000 * cost.seconds)))"
    return [
      (
        TextWidth.padLeft(Format.loss(100 * cost.loss), 5) + TextWidth.pad(error ?? "", 7),
        Theme.plain
      ),
      (TextWidth.padLeft(time, 8), cost.seconds > 0 ? Theme.plain : Theme.quiet),
    ]
  }

  private var detail: String {
    switch picker.entry {
    case .original: return "⏎ restores it"
    case .replacement(let spec):
      let fields = OperatorCatalog.descriptor(named: spec.name)?.openFields ?? []
      if fields.isEmpty { return "⏎ puts it in" }
      let values = fields.map {
        "\($0.key.replacing("_", with: " ")) \($0.text(of: spec.config[$0.key] ?? $0.defaultNumber))"
      }
      return "⏎ goes on to its settings: \(values.joined(separator: ", "))"
    }
  }
}
