import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// Runs that were queued together: their order, the time left, and what stops them.
@Suite struct RunChainTests {
  private func run(
    _ index: Int, _ kind: Job.Kind, _ state: RunState = .queued, chain: String? = "c",
    work: Double? = nil, seconds: Double? = nil, left: Double? = nil
  ) -> RunSummary {
    var run = RunSummary(
      id: "\(chain ?? "x")\(index)", name: "p", kind: kind, modelHash: "m",
      createdAt: Double(index),
      state: state)
    run.chain = chain.map { ChainPlace(id: $0, index: index, count: 4) }
    run.place = QueuePlace(after: index == 0 || chain == nil ? [] : ["\(chain ?? "")\(index - 1)"])
    (run.work, run.secondsLeft) = (work, left)
    if let seconds { (run.startedAt, run.lastEventTime) = (100, 100 + seconds) }
    return run
  }

  private func chain(_ runs: [RunSummary]) throws -> RunChain {
    var runs = runs
    runs.takeTurns()
    return try #require(RunChain("c", among: runs.reversed()))
  }

  /// Earlier runs tell how long each kind takes; a training in proportion to its samples.
  @Test func timeLeftForTheWhole() throws {
    let earlier = [
      run(0, .finetune, .done, chain: nil, work: 50, seconds: 10),
      run(1, .measure, .done, chain: nil, seconds: 7),
      run(2, .report, .done, chain: nil, seconds: 30),
      // Neither what did not end well nor another model's counts.
      run(3, .report, .failed, chain: nil, seconds: 900),
    ]
    let mine = [
      run(0, .distill, .running, work: 10, left: 5), run(1, .finetune, work: 100), run(2, .measure),
      run(3, .report),
    ]
    let known = try chain(earlier + mine)
    #expect(known.runs.map(\.kind) == [.distill, .finetune, .measure, .report])
    #expect(known.estimates == [5, 20, 7, 30] && known.secondsLeft == 62 && known.unknown.isEmpty)
    #expect(known.current?.kind == .distill && known.doneCount == 0 && !known.isOver)
    let new = try chain(mine)
    #expect(new.secondsLeft == 5 && new.unknown == [.finetune, .measure, .report])
    #expect(RunChain("other", among: mine) == nil)
  }

  @Test func whatDoesNotEndWellStopsTheRest() throws {
    for state: RunState in [.failed, .cancelled, .lost] {
      var failed = run(1, .finetune, state)
      failed.end = RunEnd(outcome: .failed, text: "no space")
      let stopped = try chain([
        run(0, .distill, .done), failed, run(2, .measure), run(3, .report),
      ])
      #expect(stopped.isOver && stopped.secondsLeft == nil && stopped.doneCount == 1)
      #expect(stopped.reason == "finetune is \(state.name): no space")
      #expect(stopped.runs[2].turn?.reason == "c1, which must be done before, is \(state.name)")
      #expect(stopped.runs[3].turn?.reason == "after c2, which cannot begin")
    }
    let done = try chain([
      run(0, .distill, .done), run(1, .finetune, .done), run(2, .measure, .done),
      run(3, .report, .done),
    ])
    #expect(done.isOver && done.reason == nil && done.secondsLeft == nil && done.current == nil)
  }

  /// A run taken out of the queue goes back to its place there while what it needs is not done.
  @Test func aWithdrawnRunWaitsAgain() throws {
    let scratch = try Scratch()
    var plan = GraftPlan(
      named: "p", model: ModelReference(path: "demo", shape: smallShape, contentHash: "c0ffee"))
    plan.edits[SlotID(block: 1, slot: .attention)] = OperatorSpec("hyena_x")
    // A runner that starts nothing.
    let launcher = try RunLauncher(root: scratch.path, executable: "/bin/true")
    let runs = try launcher.launchChain(
      plan, like: scratch.request(), priority: 3, report: ReportRequest(samples: 20, images: 2))
    #expect(try runs.map { try $0.request().job.kind } == [.distill, .finetune, .measure, .report])
    #expect(
      try runs.map { try $0.request().queue?.after } == [
        [], [runs[0].id], [runs[1].id], [runs[2].id],
      ])
    let second = try runs[1].request()
    #expect(second.job == .finetune(planPath: "plan.json", weights: [runs[0].id]))
    #expect(second.origins == [WeightOrigin(run: runs[0].id, step: 0, sites: plan.sites)])
    #expect(second.chain?.index == 1 && second.queue?.priority == 3)
    #expect(
      try runs[3].request().job
        == .report(ReportRequest(runs: [runs[1].id], samples: 20, images: 2)))
    try runs[2].requestCancellation()
    #expect(runs[2].summary().state == .cancelled)
    try launcher.retry(runs[2])
    #expect(runs[2].summary().state == .queued)
    #expect(try runs[2].request().queue?.after == [runs[1].id])
    for child in launcher.children { waitpid(child.pid, nil, 0) }
  }
}
