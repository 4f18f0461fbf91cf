import Plans
import Text

/// A list or page that has the keyboard, as motions and searches see it.
struct ShownList {
  /// The highlighted line, or the first one shown of a page.
  var position: Int
  /// The largest position.
  var last: Int
  /// Rows of a page.
  var page: Int
  /// The text of every line, from its first position on.
  var lines: () -> [String] = { [] }
}

extension ShownList {
  /// The position after a command; nil for one that is no motion.
  ///
  /// - Parameters:
  ///   - command: The command.
  ///   - count: The number typed before it: how often to move, or for `gg` and `G` the line.
  /// - Returns: A position from 0 to `last`.
  func moved(by command: Command, count: Int?) -> Int? {
    let times = count ?? 1
    let half = max(1, page / 2)
    let moved: Int
    switch command {
    case .next: moved = position + times
    case .previous: moved = position - times
    case .pageDown: moved = position + times * page
    case .pageUp: moved = position - times * page
    case .halfPageDown: moved = position + times * half
    case .halfPageUp: moved = position - times * half
    case .first: moved = (count ?? 1) - 1
    case .last: moved = count.map { $0 - 1 } ?? last
    default: return nil
    }
    return min(max(0, moved), max(0, last))
  }

  /// The next line that holds a text after the position, or before it, going round at the ends.
  func found(_ query: String, forward: Bool) -> (position: Int?, count: Int) {
    let query = query.lowercased()
    let lines = lines()
    let found = lines.indices.filter { lines[$0].lowercased().contains(query) }
    let next =
      forward
      ? found.first { $0 > position } ?? found.first
      : found.last { $0 < position } ?? found.last
    return (next, found.count)
  }
}

extension AppState {
  /// The list or page that has the keyboard; nil where nothing can be scrolled.
  var shownList: ShownList? {
    func page(_ first: Int, _ rows: Int, _ lines: @autoclosure @escaping () -> [String])
      -> ShownList
    {
      ShownList(position: first, last: max(0, lines().count - rows), page: rows, lines: lines)
    }
    switch overlay {
    case .picker(let picker):
      return ShownList(
        position: picker.index, last: picker.entries.count - 1, page: max(1, size.rows - 8)
      ) {
        picker.entries.map { entry in
          switch entry {
          case .original: "original"
          case .replacement(let spec):
            "\(OperatorCatalog.label(spec)) "
              + (OperatorCatalog.descriptor(named: spec.name)?.summary ?? "")
          }
        }
      }
    case .runs(let pane):
      let listed = listed(in: pane)
      let index = listed.firstIndex { $0.id == pane.selection } ?? 0
      return ShownList(position: index, last: listed.count - 1, page: RunsView.rows(self, pane)) {
        listed.map(\.name)
      }
    case .log(let log):
      let room = LogView.room(size)
      let lines = LogPage.rows(log.lines ?? [], room.columns)
      let last = max(0, lines.count - room.rows)
      return page(max(0, last - log.below), room.rows, lines)
    case .text(let text):
      let room = LogView.room(size)
      return page(text.first, room.rows, LogPage.rows(text.lines, room.columns))
    case .ranks(let ranks):
      let room = LogView.room(size)
      return page(
        ranks.first, room.rows, RanksView.lines(self, ranks, width: room.columns).map(\.0))
    case .help(let help):
      return page(
        help.scroll, max(1, size.rows - 4),
        HelpText.lines(width: HelpText.width(size), table: configuration.keys.bindings).map(
          \.plainText))
    case .compare(let pane):
      let (lines, rows) = CompareView(state: self, pane: pane).scrolledLines
      return page(pane.first, rows, lines)
    case .overlayList(let list):
      let known = overlayRuns
      let index = known.firstIndex { $0.id == list.selection } ?? 0
      return ShownList(position: index, last: known.count - 1, page: max(1, size.rows - 8)) {
        known.map(\.name)
      }
    case .settings(let index):
      let rows = ExplorerSchema.table.rows
      return ShownList(position: index, last: rows.count - 1, page: max(1, size.rows - 8)) {
        rows.map { "\($0.key) \($0.summary)" }
      }
    case .terminal(let scroll):
      return page(
        scroll, TerminalView.rows(size),
        terminal.findings(size).map { "\($0.title) \($0.value) \($0.reason)" })
    default:
      return nil
    }
  }

  /// Moves the highlight of a list, or scrolls a page.
  mutating func moveList(to position: Int) {
    switch overlay {
    case .picker(var picker):
      picker.index = position
      replaceTop(.picker(picker))
    case .runs(var pane):
      let listed = listed(in: pane)
      pane.selection = listed.indices.contains(position) ? listed[position].id : nil
      replaceTop(.runs(pane))
    case .log(var page):
      page.below = (shownList?.last ?? 0) - position
      replaceTop(.log(page))
    case .text(var page):
      page.first = position
      replaceTop(.text(page))
    case .ranks(var page):
      page.first = position
      replaceTop(.ranks(page))
    case .help(var page):
      page.scroll = position
      replaceTop(.help(page))
    case .compare(var pane):
      pane.first = position
      replaceTop(.compare(pane))
    case .overlayList(var list):
      let known = overlayRuns
      list.selection = known.indices.contains(position) ? known[position].id : nil
      replaceTop(.overlayList(list))
    case .settings: replaceTop(.settings(index: position))
    case .terminal: replaceTop(.terminal(scroll: position))
    default: break
    }
  }

  /// Moves in the list that has the keyboard or searches it; says whether the command was one of these.
  mutating func performInList(_ command: Command, count: Int?) -> Bool {
    guard let list = shownList else { return false }
    switch command {
    case .search:
      if case .runs(let pane) = overlay {
        overlays.append(
          .prompt(
            Prompt(purpose: .filter(before: pane.filter), field: TextField(pane.filter.text))))
      } else {
        overlays.append(.prompt(Prompt(purpose: .search)))
      }
    case .nextMatch, .previousMatch:
      if case .runs(let pane) = overlay {
        // Every line that is listed matches.
        guard !pane.filter.isEmpty, list.last >= 0 else {
          notice = .warning(pane.filter.isEmpty ? "no filter: / asks for one" : "no run matches")
          break
        }
        let step = (command == .nextMatch ? 1 : -1) * (count ?? 1)
        let total = list.last + 1
        moveList(to: ((list.position + step) % total + total) % total)
      } else {
        for _ in 0..<min(count ?? 1, 1000) { look(for: searched, forward: command == .nextMatch) }
      }
    default:
      guard let position = list.moved(by: command, count: count) else { return false }
      moveList(to: position)
    }
    return true
  }

  /// Copies the identifiers of the runs that are meant, or the lines of a page that are on the screen.
  mutating func copyShown() -> [Effect] {
    var lines: [String] = []
    if case .runs(let pane) = overlay {
      lines = targets(in: pane).map(\.id)
    } else if let list = shownList {
      lines = Array(list.lines().dropFirst(list.position).prefix(list.page))
    }
    guard !lines.isEmpty else {
      notice = .warning("there is nothing to copy")
      return []
    }
    notice = .note("copied \(Format.count(lines.count, "line")), where the terminal takes OSC 52")
    return [.copy(lines.joined(separator: "\n"))]
  }

  /// Goes to the next line that holds a text, or says that none does.
  mutating func look(for query: String, forward: Bool = true) {
    searched = query
    guard let list = shownList, !query.isEmpty else {
      notice = .warning("nothing was looked for yet: / asks for a text")
      return
    }
    let (position, count) = list.found(query, forward: forward)
    if let position {
      moveList(to: min(position, list.last))
      notice = .note("“\(query)”: \(Format.count(count, "line")); n and N go on")
    } else {
      notice = .warning("“\(query)” is not on this page")
    }
  }
}
