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
    if let index = picker.entries.firstIndex(of: entry) {
      frame.targets.append(
        MouseTarget(.item(index), column: inside.column, row: row, columns: inside.columns))
    }
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
