import Runs
import TerminalUI
import Testing

import Explorer

@Suite struct RunTitleTests {
  private func record(_ id: String, _ kind: Job.Kind, name: String = "odd") -> RunSummary {
    RunSummary(
      id: id, name: name, kind: kind, modelHash: "m", createdAt: 0, state: .running)
  }

  @Test func trainingsOfOneNameAreToldApart() {
    var runs = Samples.state().runs
    let first = record("20261122-070000-distill-abc", .distill)
    let preview = record("20261122-070001-preview-xyz", .preview)
    runs.records = [first, preview]
    #expect(runs.title(first) == "odd" && runs.title(preview) == "odd")
    let second = record("20261122-070002-finetune-def", .finetune)
    runs.records.append(second)
    #expect(runs.title(first) == "odd ·abc" && runs.title(of: second.id) == "odd ·def")
    #expect(runs.title(preview) == "odd" && runs.title(of: "gone") == "gone")
  }

  @Test func aLongNameIsCutBeforeWhatDistinguishesIt() {
    var state = Samples.state(Samples.small)
    let name = String(repeating: "long", count: 12)
    state.runs.records = ["abc", "def"].map { record("1-distill-\($0)", .distill, name: name) }
    press(&state, "r")
    let text = ExplorerView.frame(state).text()
    #expect(text.contains("… ·abc") && text.contains("… ·def"))
  }

  @Test(arguments: [RunState.failed, .lost])
  func theListSaysWhatBecameOfARun(end: RunState) {
    var state = Samples.state(Samples.small)
    var run = RunSummary(
      id: "r", name: "odd", kind: .distill, modelHash: "m", createdAt: 0, state: end)
    (run.step, run.total) = (3, 9)
    run.end = RunEnd(outcome: .failed, text: "the disk is full")
    state.runs.records = [run]
    press(&state, "r", "j")
    let text = ExplorerView.frame(state).text()
    #expect(
      text.contains(
        end == .lost ? "its worker ended at step 3 of 9; R takes it" : "failed: the disk is full"))
  }
}
