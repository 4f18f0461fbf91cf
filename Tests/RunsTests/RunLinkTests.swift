import Files
import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// Runs whose engine is elsewhere: states, the copy of the log, and what may be done without the other end.
@Suite struct RunLinkTests {
  private func link(_ state: RunLink.State = .connected) -> RunLink {
    var link = RunLink(host: "me@host", place: "/far/run", fetch: .models)
    link.state = state
    return link
  }

  private func state(
    _ events: [Event], _ worker: ProcessIdentity.Presence?, _ link: RunLink?
  ) -> RunState {
    var history = RunHistory()
    for event in events { history.apply(event) }
    return history.summary.seen(
      worker: worker, now: Date(timeIntervalSince1970: 101), link: link
    ).state
  }

  private let begin = Event(.started(pid: 1, totalSteps: 10), time: 100)
  private let end = Event(.finished(outcome: .done, text: ""), time: 100)

  @Test func statesFollowTheLinkWhileItIsOpen() {
    #expect(state([begin], .running, link(.starting)) == .starting)
    #expect(state([begin], .running, link(.pending)) == .pending)
    #expect(state([begin], .running, link(.unreachable)) == .unreachable)
    #expect(state([begin], .running, link()) == .running)
    #expect(state([begin, Event(.paused(step: 1), time: 100)], .running, link()) == .paused)
    // Never lost, and not over before its results are here.
    for worker in [ProcessIdentity.Presence.gone, nil] {
      #expect(state([begin], worker, link()) == .detached)
      #expect(state([begin, end], worker, link()) == .detached)
    }
    #expect(state([begin, end], .running, link()) == .running)
    #expect(state([begin, end], .gone, link(.closed)) == .done)
    // A run that was started again is not over.
    #expect(state([begin, end], .running, link(.starting)) == .starting)
    #expect(state([begin], .gone, nil) == .lost)
  }

  @Test func theLogIsACopyOfTheBeginningOfTheOther() throws {
    let scratch = try Scratch()
    let run = try scratch.run()
    try run.mirror(Data("one\ntw".utf8), at: 0)
    // Sent twice, from the beginning or from the middle, it is the same.
    try run.mirror(Data("one\ntwo\n".utf8), at: 0)
    try run.mirror(Data("two\nthree\n".utf8), at: 4)
    try run.mirror(Data(), at: 14)
    let text = try String(contentsOfFile: run.eventsPath, encoding: .utf8)
    #expect(text == "one\ntwo\nthree\n")
    #expect(throws: FileError.self) { try run.mirror(Data("x".utf8), at: 15) }
    #expect(run.logSize == 14)
  }

  @Test func aDetachedRunIsNeitherSteeredNorStartedTwice() throws {
    let scratch = try Scratch()
    let run = try scratch.run()
    try run.append(begin)
    try run.write(link())
    #expect(run.summary().state == .detached)
    for body in [
      { try run.pause() }, { try run.goOn() }, { _ = try run.requestCancellation() },
      { try run.prepareRetry() },
    ] as [() throws -> Void] {
      let error = #expect(throws: FileError.self) { try body() }
      #expect(error?.message.contains("detached") == true)
    }
    #expect([run.summary()].reasonAgainstRemoving(run.summary()) != nil)
    // Given up, it is over here.
    #expect(try run.cancel(hard: true) == .killed)
    let summary = run.summary()
    #expect(summary.state == .cancelled && summary.end?.text.contains("me@host") == true)
  }

  @Test func aRetryLeavesTheLogToTheOtherEnd() throws {
    let scratch = try Scratch()
    let plan = GraftPlan(
      named: "far", model: ModelReference(path: "m", shape: smallShape, contentHash: "c0ffee"))
    let run = try RunDirectory.create(root: scratch.path, job: scratch.request(), plan: plan)
    try run.append(begin)
    try run.append(Event(.checkpointed(step: 5, path: RunDirectory.latest), time: 100))
    try run.append(Event(.finished(outcome: .failed, text: "why"), time: 100))
    var closed = link(.closed)
    closed.isStarted = true
    try run.write(closed)
    let size = run.logSize
    try run.prepareRetry(.factor(0.5), step: 3)
    #expect(run.logSize == size)
    let again = try #require(try run.link())
    #expect(again.attempt == 2 && !again.isStarted && again.state == .starting && again.step == 3)
    #expect(again.messages.count == 1 && again.messages[0].contains("learning_rate"))
    // Another engine needs the checkpoint here.
    try run.write(closed)
    let error = #expect(throws: FileError.self) {
      try run.prepareRetry(engine: EngineChange(to: "other"))
    }
    #expect(error?.message.contains("runs fetch") == true)
    try AtomicFile.write(Data(), to: run.latestPath)
    try run.prepareRetry(engine: EngineChange(to: "other"))
    #expect(try run.link()?.isSevered == true && run.summary().state == .failed)
  }

  @Test func restartsAreRememberedByTheStepTheyWentBackTo() throws {
    var history = RunHistory()
    func step(_ step: Int) -> Event {
      Event(
        .step(step: step, total: 9, loss: 1, losses: [:], rate: 1, secondsLeft: 0), time: 100)
    }
    for event in [begin, step(1), step(4)] { history.apply(event) }
    history.apply(Event(.checkpointed(step: 4, path: "x"), time: 100))
    history.apply(begin)
    #expect(history.restarts.isEmpty)
    for event in [step(5), step(7), begin, step(5)] { history.apply(event) }
    #expect(history.restarts == [4])
    let copy = try JSONDecoder().decode(RunHistory.self, from: JSONEncoder().encode(history))
    #expect(copy == history)
  }
}
