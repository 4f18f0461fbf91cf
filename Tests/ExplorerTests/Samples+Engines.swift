import Explorer
import Foundation
import Plans
import Runs
import TerminalUI

extension Samples {
  /// Runs of engines in every state that only such runs have; the first one was started again twice.
  static func far(_ size: Size) -> AppState {
    var state = busy(size)
    state.engines = ["torch", "cluster"]
    var history = RunHistory()
    for event in events(for: state.plan, steps: 180) { history.apply(event) }
    history.apply(Event(.ranks(ranks(restarts: 1)), time: now - 50))
    history.apply(Event(.started(pid: 2, totalSteps: 800), time: now - 50))
    for event in events(for: state.plan, steps: 412).dropFirst() {
      guard case .step(let step, _, _, _, _, _, _, _) = event.kind, step > 150 else { continue }
      history.apply(event)
    }
    history.apply(
      Event(
        .resources(
          step: 412,
          RankResources(
            memory: 71_000_000_000, memoryByRank: (0..<8).map { 70_000_000_000 + 125_000_000 * $0 },
            waitingByRank: [0.02, 0.31, 0.04, 0.03, 0.05, 0.11, 0, 0.4], silent: [6])), time: now))
    state.runs.focus?.history = history
    func linked(
      _ id: String, _ name: String, _ runState: RunState, _ linkState: RunLink.State,
      _ reason: String? = nil, from summary: RunSummary = RunSummary()
    ) -> RunSummary {
      var record = summary
      (record.id, record.name, record.kind, record.modelHash) = (id, name, .distill, "feedbeef")
      (record.createdAt, record.state, record.step, record.total) = (now - 500, runState, 412, 800)
      (record.lastEventTime, record.engine) = (now - 1, "cluster")
      var link = RunLink(host: "me@gpu", place: "/scratch/runs/\(id)", fetch: .models)
      (link.state, link.reason) = (linkState, reason)
      record.link = link
      return record
    }
    var followed = linked("r3", "hyena-odd", .running, .connected, from: history.summary)
    (followed.rate, followed.secondsLeft, followed.loss) = (3.4, 114, 0.121)
    state.runs.records = [
      trained(followed, state.plan),
      linked("q1", "waits", .pending, .pending, "Priority (job 4711)"),
      linked("q2", "begins", .starting, .starting),
      linked("q3", "cut", .unreachable, .unreachable, "Connection timed out"),
      linked("q4", "left", .detached, .connected),
      record("r0", "first-try", .cancelled, step: 31, total: 400, age: 400_000),
    ]
    return state
  }

  private static func ranks(restarts: Int) -> RankReport {
    RankReport(count: 8, device: "NVIDIA H200", engine: "torch 2.13.0", restarts: restarts)
  }
}
