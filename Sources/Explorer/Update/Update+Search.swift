import Plans
import Runs
import Search
import TerminalUI

extension AppState {
  /// Opens the search at the budget, or at the plan's own fraction of the teacher's time.
  mutating func openSearch() -> [Effect] {
    var pane = SearchPane()
    if let budget, teacherAmount(budget.measure) != nil {
      (pane.measure, pane.budget) = (budget.measure, min(1, budget.fraction))
    }
    chooseMeasure(&pane)
    if pane.measure != budget?.measure, !plan.isEmpty,
      let own = estimate(plan.changes, pane.measure), own.fraction < 1
    {
      pane.budget = own.fraction
    }
    costMap = nil
    overlays.append(.search(pane))
    return [.readLibrary] + solve(&pane)
  }

  /// Counts parameters where the library does not know the teacher's time.
  private mutating func chooseMeasure(_ pane: inout SearchPane) {
    guard library.costs != nil, teacherAmount(.time) == nil, pane.measure == .time else { return }
    pane.measure = .parameters
    notice = .warning(
      "the teacher's time is not in the library: b measures it; parameters are counted instead")
  }

  /// Asks for the front of a search and puts the pane in its place.
  private mutating func solve(_ pane: inout SearchPane) -> [Effect] {
    pane.generation += 1
    pane.isSolving = true
    pane.point = nil
    replaceTop(.search(pane))
    return [
      .solveFront(
        generation: pane.generation, library.costs?.candidates ?? [], depth: depth, pane.measure,
        pane.constraints)
    ]
  }

  /// Takes in the front of a search, unless another one was asked for since.
  mutating func receiveFront(_ generation: Int, _ front: [ParetoSolver.Solution]) {
    for place in overlays.indices {
      guard case .search(var pane) = overlays[place], pane.generation == generation else {
        continue
      }
      (pane.front, pane.isSolving) = (front, false)
      if let range = budgets(of: pane) { pane.budget = pane.budget.clamped(to: range) }
      overlays[place] = .search(pane)
    }
  }

  /// Takes in what was read of the library and of finished searches.
  mutating func receiveLibrary(
    _ costs: ReplacementCosts, _ searches: [FinishedSearch]
  ) -> [Effect] {
    let isNew = library.costs?.candidates != costs.candidates
    (library.costs, library.searches) = (costs, searches)
    guard isNew else { return [] }
    guard let place = overlays.indices.first(where: { overlays[$0].isSearch }),
      case .search(var pane) = overlays[place]
    else { return [] }
    chooseMeasure(&pane)
    pane.generation += 1
    pane.isSolving = true
    overlays[place] = .search(pane)
    return [
      .solveFront(
        generation: pane.generation, costs.candidates, depth: depth, pane.measure,
        pane.constraints)
    ]
  }

  /// Acts in the search.
  mutating func performInSearch(_ command: Command) -> [Effect] {
    guard case .search(var pane) = overlay else { return [] }
    switch command {
    case .left, .right: move(&pane, by: command == .left ? -0.01 : 0.01)
    case .panLeft, .panRight: move(&pane, by: command == .panLeft ? -0.1 : 0.1)
    case .first: move(&pane, by: -.infinity)
    case .last: move(&pane, by: .infinity)
    case .next: cursor.block = min(depth - 1, cursor.block + 1)
    case .previous: cursor.block = max(0, cursor.block - 1)
    case .otherSlot: cursor.slot = cursor.slot == .attention ? .mlp : .attention
    case .plotContent: pane.isLarge.toggle()
    case .nextPoint, .previousPoint: turnPoint(&pane, by: command == .nextPoint ? 1 : -1)
    case .lock, .lockPlan, .unlock:
      lock(command, &pane)
      return solve(&pane)
    case .fewerOperators, .moreOperators:
      let most = pane.constraints.mostOperators ?? Self.mostOperators + 1
      let next = command == .fewerOperators ? most - 1 : most + 1
      pane.constraints.mostOperators = next > Self.mostOperators ? nil : max(1, next)
      return solve(&pane)
    case .measure:
      let all = Measure.allCases.filter { teacherAmount($0) != nil }
      let place = all.firstIndex(of: pane.measure) ?? 0
      pane.measure = all[(place + 1) % all.count]
      pane.front = nil
      return solve(&pane)
    case .preview:
      return startPreview()
    case .followEdits:
      return sample(.followEdits, argument: nil, count: nil)
    case .startSearch:
      overlays.append(.form(.search(pane, of: self)))
      return []
    case .buildLibrary:
      overlays.append(.form(.library(of: self)))
      return []
    case .accept:
      accept(pane)
      return []
    default:
      overlays.removeLast()
      return []
    }
    replaceTop(.search(pane))
    return []
  }

  /// Most different operators that a search is limited to; from there on there is no limit.
  private static let mostOperators = 4

  private func move(_ pane: inout SearchPane, by offset: Double) {
    pane.point = nil
    guard let range = budgets(of: pane) else { return }
    pane.budget = (pane.budget + offset).clamped(to: range)
  }

  /// Goes on to the next plan beside the front; after the last comes the budget's own.
  private func turnPoint(_ pane: inout SearchPane, by offset: Int) {
    let usable = points(of: pane).enumerated().filter { $0.element.changes != nil }.map(\.offset)
    let choices: [Int?] = [nil] + usable
    let place = choices.firstIndex(of: pane.point) ?? 0
    pane.point = choices[(place + offset + choices.count) % choices.count]
  }

  /// Locks the slot of the cursor to the teacher's operator, then to the one that is shown, then to none; or all that
  /// the plan edits; or frees all.
  private mutating func lock(_ command: Command, _ pane: inout SearchPane) {
    switch command {
    case .lockPlan:
      let known = plan.edits.mapValues { $0.normalized(for: model.shape) }
        .filter { library.costs?.candidate($0.value, in: $0.key) != nil }
      pane.constraints.kept.subtract(known.keys)
      pane.constraints.required.merge(known) { $1 }
      let unknown = plan.edits.count - known.count
      if unknown > 0 {
        notice = .warning(
          "\(Format.count(unknown, "operator")) of the plan cannot be locked: the library has no score"
            + " of them")
      }
    case .unlock:
      (pane.constraints.kept, pane.constraints.required) = ([], [:])
    default:
      if pane.constraints.required.removeValue(forKey: cursor) != nil { return }
      if pane.constraints.kept.remove(cursor) != nil {
        pane.constraints.required[cursor] = pane.shownOperators[cursor]
        return
      }
      pane.shownOperators[cursor] = proposal(of: pane)?.edits[cursor]
      pane.constraints.kept.insert(cursor)
    }
  }

  /// Makes the plan that is shown the one that is edited, as one step.
  private mutating func accept(_ pane: SearchPane) {
    guard let proposal = proposal(of: pane) else { return }
    let percent = Format.fixed(100 * pane.budget, 0)
    let name =
      pane.point.map { points(of: pane)[$0].title }
      ?? "best plan for \(percent) % of the teacher's \(pane.measure.title)"
    overlays.removeLast()
    let isChanged = document.edit(name) { $0 = proposal }
    notice = .note(
      isChanged
        ? "\(proposal.extent) replaced, \(weights.librarySites.count) from the library: s samples,"
          + " f finetunes, u takes it back" : "nothing changed: the plan is that already")
  }

  /// Moves the budget to a place on the plot or on its slider; slots in the grid are chosen as ever.
  mutating func pointAtSearch(_ event: MouseEvent) -> [Effect] {
    guard case .search(var pane) = overlay else { return [] }
    switch event.kind {
    case .wheel(.up): move(&pane, by: 0.01)
    case .wheel(.down): move(&pane, by: -0.01)
    case .press(.left), .drag(.left):
      guard
        let budget = SearchView(state: self, pane: pane).budget(
          column: event.column, row: event.row, isHeld: pane.isHeld)
      else { return event.kind == .press(.left) ? clickInSearch(event) : [] }
      pane.isHeld = true
      pane.point = nil
      if let range = budgets(of: pane) { pane.budget = budget.clamped(to: range) }
    case .release: pane.isHeld = false
    default: return []
    }
    replaceTop(.search(pane))
    return []
  }
}

extension Comparable {
  /// The nearest value in a range.
  func clamped(to range: ClosedRange<Self>) -> Self {
    min(max(self, range.lowerBound), range.upperBound)
  }
}

extension Measure {
  /// The name on the screen.
  var title: String {
    switch self {
    case .time: "time"
    case .flops: "FLOPs"
    case .parameters: "parameters"
    case .memory: "memory"
    }
  }

  /// An amount with its unit.
  func text(_ amount: Double) -> String {
    switch self {
    case .time: "\(Format.statistic(1000 * amount)) ms"
    case .flops: "\(Format.metric(amount))FLOPs"
    case .parameters: Format.metric(amount)
    case .memory: "\(Format.metric(amount))B"
    }
  }
}

extension Overlay {
  /// Whether it is the plot.
  var isPlot: Bool {
    if case .plot = self { true } else { false }
  }

  /// Whether it is the search.
  var isSearch: Bool {
    if case .search = self { true } else { false }
  }
}
