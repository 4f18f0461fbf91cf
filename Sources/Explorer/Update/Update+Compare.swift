import Runs

extension AppState {
  /// The most runs that can be marked.
  private static let compared = 2

  /// Marks the selected run, or takes its mark away; a third mark takes the first one's place.
  mutating func markRun(_ record: RunSummary, in pane: RunsPane) {
    var pane = pane
    if let index = pane.marked.firstIndex(of: record.id) {
      pane.marked.remove(at: index)
    } else {
      pane.marked = (pane.marked + [record.id]).suffix(Self.compared)
    }
    replaceTop(.runs(pane))
  }

  /// The runs that would be compared: the marked ones, and the selected one if it is needed.
  func runsToCompare(in pane: RunsPane) -> [String] {
    let known = pane.marked.filter { runs.record($0) != nil }
    guard known.count < Self.compared, let selection = pane.selection, !known.contains(selection)
    else { return known }
    return known + [selection]
  }

  /// Why nothing can be compared now, or nil when it can.
  func reasonAgainstComparing(in pane: RunsPane) -> String? {
    let chosen = runsToCompare(in: pane).compactMap { runs.record($0) }
    guard chosen.count == Self.compared else {
      return "two runs make a comparison: Space marks one, then choose the other"
    }
    return chosen.allSatisfy(\.isTraining) ? nil : "only trainings can be compared"
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
    default:
      overlays.removeLast()
    }
    return []
  }

  /// Shows runs that were read for a comparison, or what is new of those that are shown.
  mutating func receiveCompared(_ read: [FocusedRun]) {
    receivePlotted(read)
    switch overlay {
    case .runs:
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
