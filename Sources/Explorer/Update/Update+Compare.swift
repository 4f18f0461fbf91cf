import Runs

extension AppState {
  /// Marks the selected run, or takes its mark away.
  mutating func markRun(_ record: RunSummary, in pane: RunsPane) {
    var pane = pane
    if let index = pane.marked.firstIndex(of: record.id) {
      pane.marked.remove(at: index)
    } else {
      pane.marked.append(record.id)
    }
    replaceTop(.runs(pane))
  }

  /// The runs that would be compared: the marked ones, with the selected one if one alone is marked.
  func runsToCompare(in pane: RunsPane) -> [String] {
    let known = pane.marked.filter { runs.record($0) != nil }
    guard known.count < 2, let selection = pane.selection, !known.contains(selection) else {
      return known
    }
    return known + [selection]
  }

  /// Why nothing can be compared now, or nil when it can.
  func reasonAgainstComparing(in pane: RunsPane) -> String? {
    let chosen = runsToCompare(in: pane).compactMap { runs.record($0) }
    guard chosen.count >= 2 else {
      return "at least two runs make a comparison: Space marks one, then choose the other"
    }
    guard chosen.count <= ComparePane.limit else {
      return "\(chosen.count) runs are marked, at most \(ComparePane.limit) are compared"
    }
    return chosen.first { !$0.isTraining }.map { "only trainings can be compared, not \($0.name)" }
  }

  /// Acts in a comparison.
  mutating func performInComparison(_ command: Command) -> [Effect] {
    guard case .compare(var pane) = overlay else { return [] }
    switch command {
    case .series:
      pane.showsHeldOut.toggle()
      replaceTop(.compare(pane))
    case .scale:
      chart.isLogarithmic.toggle()
    case .difference:
      pane.showsDifferences.toggle()
      pane.first = 0
      replaceTop(.compare(pane))
    case .cursorLeft, .cursorRight:
      let fitting = CompareView.fitting(columns: size.columns)
      pane.firstRun = max(
        0, min(pane.firstRun + (command == .cursorRight ? 1 : -1), pane.runs.count - fitting))
      replaceTop(.compare(pane))
    default:
      overlays.removeLast()
    }
    return []
  }

  /// Shows runs that were read for a comparison, or what is new of those that are shown.
  mutating func receiveCompared(_ read: [FocusedRun], isNew: Bool = true) {
    receivePlotted(read)
    switch overlay {
    case .runs where isNew:
      overlays.append(.compare(ComparePane(runs: read)))
      notice = nil
    case .compare(var pane) where pane.ids == read.map(\.id):
      pane.runs = read
      replaceTop(.compare(pane))
    default: break
    }
  }

  /// Reads compared and plotted runs again while one of them goes on.
  func refreshComparison() -> [Effect] {
    for overlay in overlays.reversed() {
      let ids: [String]
      switch overlay {
      case .compare(let pane): ids = pane.ids
      case .plot(let pane): ids = pane.others.map(\.id)
      default: continue
      }
      return ids.contains { runs.record($0)?.isAlive ?? false } ? [.readRuns(ids: ids)] : []
    }
    return []
  }
}
