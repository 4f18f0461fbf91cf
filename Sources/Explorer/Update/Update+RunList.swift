import Runs

extension AppState {
  /// Acts in the list of runs.
  mutating func performInRuns(_ command: Command) -> [Effect] {
    guard case .runs(var pane) = overlay else { return [] }
    let targets = targets(in: pane)
    let selected = pane.selection.flatMap(runs.record)
    switch command {
    case .accept:
      guard let selected else { return [] }
      if selected.kind?.isMeasuring == true { return [.readReport(id: selected.id)] }
      if selected.kind == .sample {
        var page = TextPage(title: "set \(selected.name)", lines: ["reading …"])
        page.run = selected.id
        overlays.append(.text(page))
        return [.readSet(id: selected.id)]
      }
      overlays.removeLast()
      if selected.kind == .search || selected.kind == .library { return openSearch() }
      return goTo(.openRun(id: selected.id))
    case .report:
      if let selected { overlays.append(.form(.report(of: [selected.id]))) }
    case .pause:
      return selected.map { togglePause($0) } ?? []
    case .cancel:
      if targets.count == 1, let only = targets.first {
        overlays.append(.confirm(.cancelRun(id: only.id)))
      } else {
        ask(.cancel, in: pane)
      }
    case .remove:
      ask(.remove, in: pane)
    case .mark:
      if let selected { markRun(selected, in: pane) }
    case .markAll:
      let ids = listed(in: pane).map(\.id)
      pane.marked = Set(ids).isSubset(of: pane.marked) ? [] : ids
      replaceTop(.runs(pane))
    case .compare:
      return [.readRuns(ids: runsToCompare(in: pane))]
    case .retry:
      overlays.append(.form(.retry(of: targets.filter(\.isRetryable), engines: engines)))
    case .note:
      overlays.append(
        .prompt(
          Prompt(
            purpose: .note(ids: targets.map(\.id)),
            field: TextField(targets.count == 1 ? targets[0].annotation.note : ""))))
    case .tag:
      overlays.append(.prompt(Prompt(purpose: .tag(ids: targets.map(\.id)))))
    case .nextColumn, .previousColumn:
      let all = RunOrder.Column.allCases
      let index = all.firstIndex(of: pane.order.column) ?? 0
      let step = command == .nextColumn ? 1 : all.count - 1
      pane.order = RunOrder(all[(index + step) % all.count])
      replaceTop(.runs(pane))
    case .reverse:
      pane.order.isDescending.toggle()
      replaceTop(.runs(pane))
    case .ranks:
      if let selected { overlays.append(.ranks(RanksPage(id: selected.id))) }
    case .log:
      guard let selected else { return [] }
      overlays.append(.log(LogPage(id: selected.id)))
      return [.readLog(id: selected.id)]
    case .raise, .lower:
      guard let selected, selected.turn != nil else { return [] }
      return [.raisePriority(id: selected.id, by: command == .raise ? 1 : -1)]
    case .escape where !pane.marked.isEmpty:
      pane.marked = []
      replaceTop(.runs(pane))
    case .escape where !pane.filter.isEmpty:
      pane.filter = .all
      replaceTop(.runs(pane))
    default:
      kept = pane
      overlays.removeLast()
    }
    return []
  }

  /// Asks whether to do something to the marked runs, or to the highlighted one.
  private mutating func ask(_ bulk: RunBulk, in pane: RunsPane) {
    let ids = affected(by: bulk, in: pane).runs.map(\.id)
    if !ids.isEmpty { overlays.append(.confirm(.many(bulk, ids: ids))) }
  }

  /// Does to several runs what was agreed to.
  mutating func perform(_ bulk: RunBulk, on ids: [String]) -> [Effect] {
    let known = ids.filter { runs.record($0) != nil }
    let count = Format.count(known.count, "run")
    switch bulk {
    case .cancel:
      let alive = known.filter { runs.record($0)?.isAlive == true }
      runs.stopping.formUnion(alive)
      notice = .note("asked \(Format.count(alive.count, "run")) to stop")
      return alive.map { .control(id: $0, .cancel) }
    case .remove:
      notice = .note("removing \(count) …")
      return [.removeRuns(ids: known)]
    }
  }

  /// Uses a filter that is being typed in the list below; a wrong one is told and changes nothing.
  mutating func refreshFilter() {
    guard case .prompt(var prompt) = overlay, case .filter = prompt.purpose, overlays.count > 1,
      case .runs(var pane) = overlays[overlays.count - 2]
    else { return }
    do throws(RunQueryError) {
      prompt.problem = nil
      pane.filter = try RunFilter(prompt.field.text)
      keepSelection(&pane)
      overlays[overlays.count - 2] = .runs(pane)
    } catch {
      prompt.problem = error.description
    }
    replaceTop(.prompt(prompt))
  }

  /// Takes a filter back that was being typed.
  mutating func restoreFilter(_ filter: RunFilter) {
    guard case .runs(var pane) = overlay else { return }
    pane.filter = filter
    keepSelection(&pane)
    replaceTop(.runs(pane))
  }

  /// Highlights the first listed run if the highlighted one is not listed.
  func keepSelection(_ pane: inout RunsPane) {
    let listed = listed(in: pane)
    if !listed.contains(where: { $0.id == pane.selection }) { pane.selection = listed.first?.id }
  }

  /// Keeps the highlight near its place and drops marks of runs that are gone.
  mutating func refreshRunList(before old: [RunSummary]) {
    for index in overlays.indices {
      guard case .runs(var pane) = overlays[index] else { continue }
      let ids = Set(runs.records.map(\.id))
      pane.marked.removeAll { !ids.contains($0) }
      if let selection = pane.selection, !ids.contains(selection) {
        let place = pane.order.sorted(old, now: now).firstIndex { $0.id == selection } ?? 0
        let listed = listed(in: pane)
        pane.selection = listed.isEmpty ? nil : listed[min(place, listed.count - 1)].id
      } else if pane.selection == nil {
        pane.selection = listed(in: pane).first?.id
      }
      overlays[index] = .runs(pane)
    }
  }

  /// Makes of typed words what they change of tags: words add, words with a `-` before them remove.
  static func tagChange(_ text: String) -> RunAnnotationChange {
    let words = text.split(separator: " ").map(String.init)
    return .tags(
      adding: words.filter { !$0.hasPrefix("-") },
      removing: words.filter { $0.hasPrefix("-") }.map { String($0.dropFirst()) })
  }
}

extension RunSummary {
  /// Whether a worker may be started on it again.
  var isRetryable: Bool { state.isEnded && state != .done || state == .detached }
}
