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

  /// Space marks and takes back; of three marks the first goes.
  @Test func marks() {
    var state = Samples.busy(Samples.large)
    press(&state, "r", " ", "j", " ")
    #expect(marked(state) == ["r3", "r2"])
    press(&state, "j", " ")
    #expect(marked(state) == ["r2", "r1"])
    press(&state, " ")
    #expect(marked(state) == ["r2"])
  }

  @Test func whatIsRead() {
    var state = Samples.busy(Samples.large)
    #expect(press(&state, "r", "c").isEmpty)
    #expect(state.notice?.text.contains("Space marks one") == true)
    // The marked one and the selected one, then both marked ones.
    #expect(press(&state, " ", "j", "c") == [.readRuns(ids: ["r3", "r2"])])
    #expect(press(&state, "j", " ", "j", "c") == [.readRuns(ids: ["r3", "r1"])])
    state.runs.records.append(Samples.record("p1", "shot", .running, kind: .preview))
    press(&state, "k", "k", "k", " ", "j", "j", "j", "j", "j")
    #expect(press(&state, "c") == [.readRuns(ids: ["r1", "p1"])] || state.notice != nil)
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
    // What comes late changes nothing.
    press(&state, .escape)
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
