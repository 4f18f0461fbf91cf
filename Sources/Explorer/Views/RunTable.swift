import Runs
import TerminalUI
import Text

/// A column of the table of runs.
struct RunColumn {
  /// The heading.
  let title: String
  /// The order by this column, if there is one.
  let order: RunOrder.Column?
  /// Whether the cells are numbers, which are never cut.
  let isNumeric: Bool
  /// How dispensable it is on a narrow screen; the largest go first.
  let rank: Int
  /// The text of a run.
  let text: (RunSummary) -> String
}

/// A table with one run a line under a line of headings.
///
/// Columns are as wide as what they hold. Those that do not fit are left out, the most dispensable
/// first; only texts are cut.
struct RunTable {
  let state: AppState
  let rect: Rect
  /// The listed runs.
  let listed: [RunSummary]
  /// The highlighted run.
  let selection: String?
  /// Runs marked for a comparison or for what is done to several at once.
  var marked: Set<String> = []
  /// The order, shown in the headings.
  var order: RunOrder?

  /// Columns of the marks before the name.
  private static let margin = 3
  private static let gap = 2
  /// The least width of a longer text.
  private static let leastText = 9
  /// Widths of the name: the least, what it has before columns that tell less, and the most.
  private static let nameWidths = (least: 12, usual: 22, most: 40)

  private var columns: [RunColumn] {
    let now = state.now
    func number(
      _ title: String, _ order: RunOrder.Column?, _ rank: Int,
      _ text: @escaping (RunSummary) -> String?
    ) -> RunColumn {
      RunColumn(title: title, order: order, isNumeric: true, rank: rank) { text($0) ?? "" }
    }
    func text(
      _ title: String, _ order: RunOrder.Column?, _ rank: Int,
      _ text: @escaping (RunSummary) -> String
    ) -> RunColumn {
      RunColumn(title: title, order: order, isNumeric: false, rank: rank, text: text)
    }
    return [
      RunColumn(title: "state", order: .state, isNumeric: true, rank: 0, text: \.stateLabel),
      number("steps", .progress, 1, Self.steps),
      number("loss", .loss, 2) { $0.loss.map(Format.loss) },
      number("held-out", .heldOut, 5) { $0.meanHeldOut.map { Format.loss($0.last.value) } },
      number("left", .left, 4) { $0.secondsLeft.map(Format.clock) },
      number("rate", .rate, 7) { $0.rate.map(Format.rate) },
      number("age", .age, 3) { $0.createdAt.map { Format.age(now - $0) } },
      text("tags", .tags, 6) { $0.annotation.tags.joined(separator: " ") },
      text("kind", .kind, 9) { $0.kind?.rawValue ?? "?" },
      text("operators", nil, 8) { $0.operatorNames.sorted().joined(separator: " ") },
      text("note", nil, 10, \.annotation.note),
    ]
      + (listed.contains { $0.engineLabel != nil }
        ? [text("engine", nil, 7) { $0.engineLabel ?? "" }] : [])
  }

  private static func steps(_ run: RunSummary) -> String? {
    guard run.total > 0 else { return nil }
    guard let label = run.label else { return "\(run.step)/\(run.total)" }
    return "\(label.prefix { $0 != " " }) \(100 * run.step / run.total)%"
  }

  func draw(on frame: inout Frame) {
    guard rect.rows > 1 else { return }
    let body = rect.dropping(top: 1)
    let range = shownRange
    let first = range.lowerBound
    let shown = Array(listed[range])
    let names = shown.map(Self.name)
    let layout = layout(shown, names: names)
    drawHeadings(layout, on: &frame)
    guard !listed.isEmpty else {
      frame.put(
        !state.runs.isScanned || state.runs.records.isEmpty && state.runs.unread > 0
          ? "reading the run directory …"
          : state.runs.records.isEmpty ? "no runs in the run directory" : "no run matches",
        column: body.column + 1, row: body.row, style: Theme.quiet, maxColumns: body.columns - 1)
      return
    }
    for (offset, run) in shown.enumerated() {
      drawLine(run, names[offset], layout, on: &frame, row: body.row + offset)
      frame.targets.append(
        MouseTarget(
          selection == nil ? .key("r") : .item(first + offset), column: body.column,
          row: body.row + offset, columns: body.columns))
      if run.id == selection {
        frame.restyle(column: body.column, row: body.row + offset, columns: body.columns) {
          $0 = Theme.cursor
        }
      }
    }
    if selection == nil, range.upperBound < listed.count {
      frame.putRight(
        "\(listed.count - range.upperBound) more", right: body.right - 1, row: body.bottom - 1,
        style: Theme.quiet)
    }
  }

  /// The runs that have a line; where none is highlighted, the last line says how many others there are.
  var shownRange: Range<Int> {
    let rows = max(0, rect.rows - 1)
    let room = selection == nil && listed.count > rows ? rows - 1 : rows
    let index = listed.firstIndex { $0.id == selection } ?? 0
    let first = max(0, min(index - room / 2, listed.count - room))
    return first..<min(listed.count, first + max(0, room))
  }

  // MARK: - Layout

  private struct Layout {
    var nameWidth: Int
    var columns: [(column: RunColumn, width: Int)]
  }

  /// Chooses columns for the runs that are shown.
  private func layout(_ shown: [RunSummary], names: [String]) -> Layout {
    let wanted = zip(shown, names).map { run, name in
      TextWidth.columns(of: name + state.runs.distinction(of: run))
    }
    let room = rect.columns - Self.margin
    let all = columns.map { column in
      let widest = shown.map { TextWidth.columns(of: column.text($0)) }.max() ?? 0
      // Room for the mark of the order; an empty column is not shown.
      let isNeeded = widest > 0 || column.rank == 0 || column.order == order?.column
      return (column: column, width: isNeeded ? max(widest, heading(column).count) : 0)
    }.filter { $0.width > 0 }
    var chosen = Set<Int>()
    let name = min(wanted.max() ?? 0, Self.nameWidths.most)
    let least = max(Self.nameWidths.least, min(name, Self.nameWidths.usual, room / 3))
    var used = least
    let sorted = all.indices.sorted { one, other in
      let (first, second) = (all[one].column, all[other].column)
      // The column that orders the list is shown first of all.
      let (isFirst, isSecond) = (first.order == order?.column, second.order == order?.column)
      return order != nil && isFirst != isSecond ? isFirst : first.rank < second.rank
    }
    for index in sorted {
      let column = all[index]
      let least = column.column.isNumeric ? column.width : min(column.width, Self.leastText)
      if used + Self.gap + least <= room {
        chosen.insert(index)
        used += Self.gap + least
      }
    }
    var layout = Layout(nameWidth: least, columns: [])
    var spare = room - used
    let growth = min(spare, max(0, name - layout.nameWidth))
    layout.nameWidth += growth
    spare -= growth
    for index in all.indices where chosen.contains(index) {
      let (column, width) = all[index]
      let least = column.isNumeric ? width : min(width, Self.leastText)
      let more = min(spare, width - least)
      spare -= more
      layout.columns.append((column, least + more))
    }
    return layout
  }

  private func heading(_ column: RunColumn) -> String {
    guard let order, column.order == order.column else { return column.title }
    return column.title + (order.isDescending ? "↓" : "↑")
  }

  // MARK: - Lines

  private func drawHeadings(_ layout: Layout, on frame: inout Frame) {
    let name = order?.column == .name ? "run" + (order?.isDescending == true ? "↓" : "↑") : "run"
    draw([name] + layout.columns.map { heading($0.column) }, layout, on: &frame, row: rect.row) {
      _ in Theme.quiet
    }
  }

  private func drawLine(
    _ run: RunSummary, _ name: String, _ layout: Layout, on frame: inout Frame, row: Int
  ) {
    let style = Self.style(run)
    let isFollowed = state.runs.focus?.id == run.id
    let distinction = state.runs.distinction(of: run)
    // The end of the title is what tells it from another, so a long name is cut before it.
    let title =
      TextWidth.clip(name, layout.nameWidth - TextWidth.columns(of: distinction)) + distinction
    draw([title] + layout.columns.map { $0.column.text(run) }, layout, on: &frame, row: row) {
      switch $0 {
      case 0: isFollowed ? Theme.strong : Theme.plain
      case 1: style
      default: Theme.plain
      }
    }
    // Where one can choose, the mark is the cursor, as in every list.
    let isPointedAt = selection.map { $0 == run.id } ?? isFollowed
    frame.write(
      [
        (isPointedAt ? "›" : " ", Theme.warning), (Self.mark(run), style),
        (marked.contains(run.id) ? "•" : " ", Theme.strong),
      ], column: rect.column, row: row, maxColumns: Self.margin)
  }

  /// Writes cells, numbers except the state at the right edges of their columns.
  private func draw(
    _ cells: [String], _ layout: Layout, on frame: inout Frame, row: Int,
    _ style: (Int) -> Style
  ) {
    var column = rect.column + Self.margin
    let widths = [layout.nameWidth] + layout.columns.map(\.width)
    for (index, cell) in cells.enumerated() {
      let isRight = index > 1 && layout.columns[index - 1].column.isNumeric
      let clipped = TextWidth.clip(cell, widths[index])
      frame.put(
        isRight ? TextWidth.padLeft(clipped, widths[index]) : clipped, column: column, row: row,
        style: style(index), maxColumns: rect.right - column)
      column += widths[index] + Self.gap
    }
  }

  /// The name of a run with its kind, unless it is a distillation.
  private static func name(_ run: RunSummary) -> String {
    run.kind == .distill ? run.name : "\(run.kind?.rawValue ?? "?") \(run.name)"
  }

  /// A mark that tells states apart without colour.
  static func mark(_ run: RunSummary) -> String {
    switch run.state {
    case .queued, .pending: "~"
    case .starting, .running: "▶"
    case .paused, .frozen: "‖"
    case .unreachable, .detached: "!"
    case .done: "✓"
    case .cancelled: "–"
    case .failed: "✗"
    case .lost: "?"
    }
  }

  /// The colour of a state.
  static func style(_ run: RunSummary) -> Style {
    switch run.state {
    case .queued, .pending: Theme.phase(.queued)
    case .starting, .running: Theme.phase(.training)
    case .paused, .frozen, .unreachable, .detached: Theme.warning
    case .done: Theme.phase(.trained)
    case .cancelled: Theme.quiet
    case .failed, .lost: Theme.failure
    }
  }
}
