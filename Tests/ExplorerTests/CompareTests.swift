import Foundation
import Plans
import Runs
import TerminalUI
import Testing

import Explorer

/// Two runs beside each other.
@Suite struct CompareTests {
  private func marked(_ state: AppState) -> [String] {
    guard case .runs(let pane) = state.overlay else { return [] }
    return pane.marked
  }

  /// Space marks and takes back, as many as one likes.
  @Test func marks() {
    var state = Samples.busy(Samples.large)
    press(&state, "r", " ", "j", " ")
    #expect(marked(state) == ["r3", "r2"])
    press(&state, "j", " ")
    #expect(marked(state) == ["r3", "r2", "r1"])
    press(&state, " ")
    #expect(marked(state) == ["r3", "r2"])
  }

  @Test func whatIsRead() {
    var state = Samples.busy(Samples.large)
    #expect(press(&state, "r", "c").isEmpty)
    #expect(state.notice?.text.contains("Space marks one") == true)
    // The marked one and the selected one, then all marked ones.
    #expect(press(&state, " ", "j", "c") == [.readRuns(ids: ["r3", "r2"])])
    #expect(press(&state, "j", " ", "j", "c") == [.readRuns(ids: ["r3", "r1"])])
    #expect(press(&state, " ", "c") == [.readRuns(ids: ["r3", "r1", "r0"])])
    state.runs.records.append(Samples.record("p1", "shot", .running, kind: .preview))
    #expect(press(&state, "G", " ", "c").isEmpty)
    #expect(state.notice?.text == "only trainings can be compared, not shot")
    for index in 0..<8 {
      state.runs.records.append(Samples.record("m\(index)", "m", .running))
    }
    #expect(press(&state, " ", "*", "c").isEmpty)
    #expect(state.notice?.text == "13 runs are marked, at most 8 are compared")
  }

  /// What was read is shown, kept fresh while a run goes on, and left by Esc.
  @Test func opensAndRefreshes() {
    var state = Samples.comparing(Samples.large)
    guard case .compare(let pane) = state.overlay else {
      Issue.record("no comparison")
      return
    }
    #expect(pane.ids == ["r3", "r2"] && state.keyContext == .compare)
    let scanned = update(&state, .runsScanned(state.runs.records))
    #expect(scanned == [.readRuns(ids: ["r3", "r2"])])
    var other = pane.runs
    other[0].history = Samples.history(for: Samples.oddPlan(), steps: 500)
    _ = update(&state, .runsRead(other))
    guard case .compare(let fresh) = state.overlay else { return }
    #expect(fresh.runs == other)
    _ = update(&state, .runsRead([other[1], other[0]]))
    #expect(state.overlay == .compare(fresh))

    state.runs.records = state.runs.records.map {
      Samples.record($0.id, $0.name, .done, step: 800, total: 800)
    }
    #expect(update(&state, .runsScanned(state.runs.records)).isEmpty)
    let isLogarithmic = state.chart.isLogarithmic
    press(&state, "L", "t")
    #expect(state.chart.isLogarithmic != isLogarithmic)
    press(&state, .escape)
    #expect(state.keyContext == .runs)
    // What comes late changes nothing; the first Esc takes the marks away.
    press(&state, .escape, .escape)
    _ = update(&state, .runsRead(other))
    #expect(state.overlay == nil)
  }

  @Test func facts() {
    let state = Samples.comparing(Samples.large)
    guard case .compare(let pane) = state.overlay else { return }
    let facts = pane.facts(record: state.runs.record)
    func values(_ title: String) -> [String]? { facts.first { $0.title == title }?.values }
    #expect(values("steps") == ["412 of 800", "400 of 400"])
    #expect(values("plan")?[0].hasSuffix("in attention of odd") == true)
    #expect(values("plan")?[1].hasSuffix("in mlp of all") == true)
    #expect(values("FLOPs")?.allSatisfy { $0.contains("%") } == true)
    #expect(
      pane.reasonAgainstLosses(record: state.runs.record)?.contains("different sites") == true)
    #expect(pane.curve(pane.runs[0]) == pane.runs[0].history.meanHeldOut)
  }

  /// Runs that distil the same sites are ranked: the one with the lower loss and no more FLOPs is on the front.
  @Test func ranking() {
    let state = Samples.comparing(Samples.large)
    guard case .compare(var pane) = state.overlay else { return }
    var slower = pane.runs[0].plan ?? Samples.oddPlan()
    for (id, _) in slower.edits { slower.edits[id]?.config["short_filter_order"] = 16 }
    var other = FocusedRun(id: "r1", plan: slower)
    other.history = Samples.history(for: slower, steps: 100)
    pane.runs = [pane.runs[0], other]
    let front = pane.isOnParetoFront(record: state.runs.record)
    #expect(pane.reasonAgainstLosses(record: state.runs.record) == nil)
    #expect(front == [true, false])
    let facts = pane.facts(record: state.runs.record)
    #expect(facts.first { $0.title == "Pareto front" }?.values == ["● on it", "–"])
  }

  /// d shows only what differs of the plans, slots with equal values in one line; it scrolls like any list.
  @Test func differences() {
    var state = Samples.comparing(Samples.small)
    press(&state, "d")
    guard case .compare(let pane) = state.overlay else { return }
    let rows = pane.rows(record: state.runs.record)
    #expect(rows.contains { $0.title == "attention of odd" && $0.values[1] == "–" })
    #expect(rows.contains { $0.title == "mlp of all" && $0.values[0] == "–" })
    #expect(rows.contains { $0.title == "name" } && !rows.contains { $0.title == "stage1.steps" })
    press(&state, "j", "G", "g", "g", "d")
    guard case .compare(let facts) = state.overlay else { return }
    #expect(!facts.showsDifferences && facts.first == 0)
  }
}

extension Samples {
  /// The busy state with its run and a finished one of other operators compared.
  static func comparing(_ size: Size) -> AppState {
    var state = busy(size)
    var other = GraftPlan(named: "mlp-selfgraft", model: model)
    for block in 0..<28 { other.edits[mlp(block)] = narrow }
    var runs = [FocusedRun(id: "r3", plan: oddPlan()), FocusedRun(id: "r2", plan: other)]
    runs[0].history = history(for: oddPlan(), steps: 412)
    runs[1].history = history(for: other, steps: 400)
    press(&state, "r", " ", "j", " ", "c")
    _ = update(&state, .runsRead(runs))
    return state
  }
}
