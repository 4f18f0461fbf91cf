import Plans
import TerminalUI
import Text

/// The top row: what is open, how much of it is replaced, and what that costs.
struct TopBar {
  let state: AppState

  func draw(on frame: inout Frame) {
    frame.fill(column: 0, row: 0, columns: frame.columns, rows: 1, style: Theme.bar)
    let plan = state.plan
    let cost = plan.cost()
    let flops = Format.change(from: cost.original.flops, to: cost.edited.flops)
    let parameters = Format.change(
      from: Double(cost.original.parameters), to: Double(cost.edited.parameters))
    let edited = "\(plan.edits.count)/\(2 * state.depth) replaced"
    let depth = plan.parallel.isEmpty ? "" : "  depth \(plan.depth)/\(state.depth)"
    let budget = Layout.isCompact(state.size) ? nil : state.budgetUse
    let limit = budget.map { "  \($0.text)" } ?? ""
    let saved = "\(depth)  FLOPs \(flops)\(limit) "
    let costs = "\(depth)  FLOPs \(flops)  params \(parameters)\(limit) "
    let name = state.document.title
    let model = state.model.path.split(separator: "/").last.map(String.init) ?? "model"
    // The program's name, the model, the file and the mark of unsaved changes, with spaces.
    let wanted = min(34, 16 + min(12, TextWidth.columns(of: model)) + TextWidth.columns(of: name))
    let right =
      (texts(beside: edited, costs, saved, least: "\(depth)\(limit) ")
      + (limit.isEmpty ? [] : ["\(edited)\(limit) ", "\(limit) "]))
      .first { TextWidth.columns(of: $0) + wanted <= frame.columns }
      // The end of a compact screen's top row is the pane's.
      ?? (Layout.isCompact(state.size) ? String(repeating: " ", count: 18) : edited + costs)
    let left = frame.columns - TextWidth.columns(of: right)
    frame.put(right, column: left, row: 0, style: Theme.bar)
    if let budget, budget.isOver, right.hasSuffix("\(limit) ") {
      frame.put(
        limit, column: frame.columns - 1 - TextWidth.columns(of: limit), row: 0,
        style: Theme.barFailure)
    }
    let space = left - 1
    let shortModel = TextWidth.clip(model, max(6, space / 4))
    let room = max(4, space - 14 - TextWidth.columns(of: shortModel))
    var unsaved = state.document.isModified ? "*" : ""
    if !unsaved.isEmpty && room >= TextWidth.columns(of: name) + 9 { unsaved += " unsaved" }
    var engine = state.runs.focusRecord?.engineLabel.map { "  \($0)" } ?? ""
    let used = 13 + TextWidth.columns(of: shortModel + TextWidth.clip(name, room) + unsaved)
    if used + TextWidth.columns(of: engine) > space { engine = "" }
    frame.write(
      [
        (" espalier  ", Theme.barStrong), (shortModel + "  ", Theme.barQuiet),
        (TextWidth.clip(name, room), Theme.barStrong), (unsaved, Theme.barChanged),
        (engine, Theme.barQuiet),
      ], column: 0, row: 0, maxColumns: space)
  }

  /// What the right side can say, the longest text first.
  private func texts(
    beside edited: String, _ costs: String, _ saved: String, least: String
  ) -> [String] {
    guard let weights = state.weightsText else { return [edited + costs] }
    let full = ["\(edited)  \(weights)\(costs)", weights + costs, weights + saved]
    guard state.missingTeacher == nil else { return full }
    let brief = state.weights.shortSummary { state.runs.title(of: $0) }
    let briefest = state.weights.shortSummary { TextWidth.clip(state.runs.title(of: $0), 12) }
    return full + [brief + saved, brief + least, briefest + least]
  }
}

/// The bottom row: a prompt, a notice, or the keys that matter now.
package struct BottomBar {
  let state: AppState

  func draw(on frame: inout Frame) {
    let row = frame.rows - 1
    frame.fill(column: 0, row: row, columns: frame.columns, rows: 1, style: Theme.bar)
    if case .prompt(let prompt) = state.overlay {
      drawPrompt(prompt, on: &frame, row: row)
    } else if let notice = state.notice {
      drawNotice(notice, on: &frame, row: row)
    } else {
      drawHints(on: &frame, row: row)
    }
  }

  private func drawHints(on frame: inout Frame, row: Int) {
    var column = 1
    let typed = typedText
    let mode = modeText
    if !mode.isEmpty {
      column += frame.put(mode + "  ", column: column, row: row, style: Theme.barChanged)
    }
    let end = frame.columns - (typed.isEmpty ? 0 : TextWidth.columns(of: typed) + 2)
    let hints = Self.hints(
      for: state.keyContext, columns: end - column, of: state.configuration.keys.bindings,
      enter: state.terminal.symbols == .unicode ? "⏎" : "Enter"
    ) {
      let isFixed = state.keyContext != .question && !Layout.isCompact(state.size)
      return isFixed ? $0 != .nextPane : state.reasonAgainst($0) == nil
    }
    for hint in hints {
      let start = column
      column += frame.put(hint.keys, column: column, row: row, style: Theme.barKey) + 1
      column += frame.put(hint.text, column: column, row: row, style: Theme.bar) + 2
      let single = Key(named: hint.keys)
      for (index, key) in hint.keys.enumerated() where single == nil {
        frame.targets.append(
          MouseTarget(.key(.character(key)), column: start + index, row: row, columns: 1))
      }
      if let single {
        frame.targets.append(
          MouseTarget(.key(single), column: start, row: row, columns: column - start - 1))
      }
    }
    if !typed.isEmpty {
      frame.putRight(typed, right: frame.columns - 1, row: row, style: Theme.barChanged)
    }
  }

  /// The hints that fit, in the table's order; the least needed ones go first.
  ///
  /// `enter` is how the key Enter is shown.
  package static func hints(
    for context: KeyContext, columns: Int, of table: [KeyBinding] = KeyBinding.all,
    enter: String = "⏎", where isUsable: (Command) -> Bool = { _ in true }
  ) -> [KeyBinding.Hint] {
    var hints = table.filter { $0.context == context && isUsable($0.command) }
      .compactMap(\.hint).map { hint in
        hint.keys == "⏎" ? KeyBinding.Hint(keys: enter, text: hint.text, rank: hint.rank) : hint
      }
    func width() -> Int {
      hints.reduce(-2) {
        $0 + TextWidth.columns(of: $1.keys) + 1 + TextWidth.columns(of: $1.text) + 2
      }
    }
    while width() > columns, let least = hints.map(\.rank).max(),
      let index = hints.lastIndex(where: { $0.rank == least })
    {
      hints.remove(at: index)
    }
    return hints
  }

  /// A count or half a sequence that waits for its other half.
  private var typedText: String {
    (state.pending.count.map(String.init) ?? "")
      + state.pending.keys.map(\.label).joined()
  }

  private var modeText: String {
    guard state.keyContext == .grid else { return "" }
    if state.anchor != nil { return "range of \(state.range.count)" }
    return state.marks.isEmpty ? "" : "\(state.marks.count) marked"
  }

  private func drawNotice(_ notice: Notice, on frame: inout Frame, row: Int) {
    let (mark, style) =
      switch notice.kind {
      case .note: ("", Theme.bar)
      case .warning: ("! ", Theme.barWarning)
      case .failure: ("✗ ", Theme.barFailure)
      }
    drawLines(mark + notice.text, on: &frame, last: row, style: style)
  }

  /// Text whose last line is in `row` and which takes as many rows above as it needs.
  private func drawLines(_ text: String, on frame: inout Frame, last row: Int, style: Style) {
    let lines = TextWidth.wrap(text.printableSentence, frame.columns - 2).suffix(row)
    for (index, line) in lines.enumerated() {
      let y = row - lines.count + 1 + index
      frame.fill(column: 0, row: y, columns: frame.columns, rows: 1, style: Theme.bar)
      frame.put(line, column: 1, row: y, style: style)
    }
  }

  private func drawPrompt(_ prompt: Prompt, on frame: inout Frame, row: Int) {
    let label = Self.label(prompt.purpose, state)
    let start = 1 + frame.put(label, column: 1, row: row, style: Theme.barQuiet)
    let room = max(1, frame.columns - start - 1)
    // A line longer than the room scrolls so that the cursor stays in sight.
    var (hidden, width) = (prompt.field.cursor, 0)
    for character in prompt.field.text.prefix(prompt.field.cursor).reversed() {
      let wider = width + TextWidth.columns(of: String(character))
      if wider > room - 1 { break }
      (hidden, width) = (hidden - 1, wider)
    }
    let text = String(prompt.field.text.dropFirst(hidden))
    frame.put(text, column: start, row: row, style: Theme.barStrong, maxColumns: room)
    frame.cursor = .init(column: start + width, row: row)
    let used = start + min(room, TextWidth.columns(of: text)) + 2
    let remark = prompt.problem.map { "! \($0)" } ?? hint(prompt)
    let free = frame.columns - used - 1
    if prompt.problem != nil || TextWidth.columns(of: remark) <= free {
      frame.put(
        TextWidth.clip(remark, max(0, free)), column: used, row: row,
        style: prompt.problem == nil ? Theme.barQuiet : Theme.barWarning)
    }
    if let problem = prompt.problem, TextWidth.columns(of: problem) + 2 > free {
      // Too long for the rest of the line, it goes above it.
      drawLines("! " + problem, on: &frame, last: row - 1, style: Theme.barWarning)
    }
  }

  private func hint(_ prompt: Prompt) -> String {
    switch prompt.purpose {
    case .apply, .mark:
      prompt.field.text.isEmpty
        ? "odd, 3-9, top 8 by L32, L32 > .4 and odd"
        : Format.count(state.promptedSlots.count, "slot")
    case .saveAs, .open, .savePicture: "⏎ accept  Esc back"
    case .set: "stage2.steps=200 preset=paper"
    case .budget: "flops 80, or none"
    case .note: "one line; empty removes it"
    case .tag: "NAME adds it, -NAME removes it"
    case .filter: "text state:running loss<.05 age<2h op:swa tag:x has:note; - negates"
    case .search: "n and N go on"
    case .command: "Tab completes  Esc back"
    }
  }

  private static func label(_ purpose: Prompt.Purpose, _ state: AppState) -> String {
    switch purpose {
    case .apply(let source):
      state.plan.edits[source] == nil
        ? "restore the \(source.slot.title) of blocks: "
        : "\(state.plan.label(of: source)) in blocks: "
    case .mark(let slot): "mark the \(slot.title) of blocks: "
    case .saveAs: "save as: "
    case .open: "open plan: "
    case .savePicture: "save pictures as: "
    case .set: "set KEY=VALUE: "
    case .budget: "budget, MEASURE PERCENT: "
    case .note(let ids): "note on \(state.runs.names(of: ids, limit: 2)): "
    case .tag(let ids): "tags of \(state.runs.names(of: ids, limit: 2)): "
    case .filter, .search: "/"
    case .command: ":"
    }
  }
}
