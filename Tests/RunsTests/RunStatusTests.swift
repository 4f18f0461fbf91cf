import Foundation
import Plans
import Runs
import TestSupport
import Testing

private let slot = GraftSite.slot(SlotID(block: 1, slot: .attention))

private func step(_ step: Int, _ loss: Double, at time: Double = 100) -> Event {
  Event(
    .step(
      step: step, total: 10, loss: loss, losses: [slot: loss], rate: 2,
      secondsLeft: Double(10 - step) / 2), time: time)
}

@Suite struct RunStatusTests {
  private func status(_ events: [Event], alive: Bool?, now: Double = 101) -> RunStatus {
    var history = RunHistory()
    for event in events { history.apply(event) }
    return RunStatus(
      history: history, isWorkerAlive: alive, now: Date(timeIntervalSince1970: now))
  }

  private let begin = Event(.started(pid: 1, totalSteps: 10), time: 99)

  @Test func states() {
    #expect(status([], alive: nil).state == .queued)
    #expect(status([], alive: true).state == .running)
    #expect(status([], alive: false).state == .lost)
    #expect(status([begin], alive: nil).state == .lost)
    #expect(status([begin, step(1, 1)], alive: true).state == .running)
    #expect(status([begin, step(1, 1)], alive: false).state == .lost)
    let paused = [begin, Event(.paused(step: 1), time: 100)]
    #expect(status(paused, alive: true).state == .paused)
    #expect(status(paused, alive: false).state == .lost)
    #expect(status(paused + [Event(.resumed(step: 1))], alive: true).state == .running)
    // A new worker takes up a paused, lost run.
    #expect(status(paused + [begin], alive: true).state == .running)
    for alive in [true, false] {
      func ended(_ outcome: RunOutcome) -> RunState {
        status([begin, Event(.finished(outcome: outcome, text: "why"))], alive: alive).state
      }
      #expect(ended(.done) == .done)
      #expect(ended(.cancelled) == .cancelled)
      #expect(ended(.failed) == .failed("why"))
    }
  }

  /// Another worker begins at the last checkpoint, or anew; what the one before did after it is undone.
  @Test func anotherWorkerGoesBack() {
    let measured = Event(.heldOut(step: 0, loss: nil, losses: [slot: 2]), time: 100)
    let late = Event(.heldOut(step: 4, loss: nil, losses: [slot: 1]), time: 100)
    let encoding = Event(.progress(done: 1, total: 8, label: "encoding images"), time: 100)
    let lost = [begin, measured, step(2, 0.5), step(4, 0.25), late]
    let preparing = status(lost + [begin, encoding], alive: true)
    #expect(preparing.loss == nil && preparing.rate == nil)
    let anew = status(lost + [begin, encoding, measured], alive: true)
    #expect(anew.step == 0 && anew.loss == nil && anew.losses.isEmpty)
    #expect(anew.heldOut[slot]?.last == 2 && anew.progressText == "step 0 of 10")
    // A measurement amid the training leaves the loss.
    let measuring = Event(.progress(done: 4, total: 10, label: "measuring at step"), time: 100)
    #expect(status([begin, step(4, 0.25), measuring], alive: true).loss == 0.25)
    let saved = Event(.checkpointed(step: 4, path: "checkpoints/latest.safetensors"))
    let resumed = status(lost + [saved, step(5, 0.1), begin], alive: true)
    #expect(
      resumed.step == 4 && resumed.rate == nil && resumed.loss == nil
        && resumed.heldOut[slot]?.last == 1)
  }

  /// A pause amid preparations leaves their count alone; a held-out measurement ends its own.
  @Test func pausesAmidPreparations() {
    let encoding = Event(.progress(done: 450, total: 800, label: "encoding images"), time: 100)
    let paused = status([begin, encoding, Event(.paused(step: 0))], alive: true)
    #expect(paused.progressText == "encoding images 450 of 800")
    let measured = Event(.heldOut(step: 0, loss: 1, losses: [:]), time: 100)
    #expect(status([begin, encoding, measured], alive: true).progressText == "step 0 of 10")
  }

  /// Images that were encoded before the first step are no steps.
  @Test func endsAmidPreparations() {
    let encoding = Event(.progress(done: 640, total: 2048, label: "encoding images"), time: 100)
    let preparing = status([begin, encoding], alive: true)
    #expect(preparing.step == 640 && preparing.total == 2048)
    #expect(preparing.progressText == "encoding images 640 of 2048")
    let training = status([begin, encoding, step(1, 0.5)], alive: true)
    #expect(training.label == nil && training.progressText == "step 1 of 10")
    let cancelled = Event(.finished(outcome: .cancelled, text: "cancelled"))
    let early = status([begin, encoding, cancelled], alive: false)
    #expect(early.step == 0 && early.total == 10 && early.label == nil)
    let saved = Event(.checkpointed(step: 3, path: "checkpoints/latest.safetensors"))
    let late = status([begin, encoding, step(1, 0.5), saved, cancelled], alive: false)
    #expect(late.step == 3 && late.total == 10)
  }

  @Test func figures() {
    let held = [
      Event(.heldOut(step: 0, losses: [slot: 0.5]), time: 99),
      Event(.heldOut(step: 5, losses: [slot: 0.25]), time: 100),
    ]
    let running = status([begin, held[0], step(4, 0.4), step(5, 0.3), held[1]], alive: true)
    #expect(running.step == 5 && running.total == 10)
    #expect(running.rate == 2 && running.secondsLeft == 2.5)
    #expect(running.loss == 0.3 && running.losses == [slot: 0.3])
    #expect(running.heldOut[slot]?.first == 0.5 && running.heldOut[slot]?.last == 0.25)
    #expect(running.meanHeldOut == running.heldOut[slot])
    #expect(!running.isSilent)
    // Rates of a dead worker would mislead.
    let lost = status([begin, step(5, 0.3)], alive: false)
    #expect(lost.rate == nil && lost.secondsLeft == nil && lost.step == 5)
  }

  @Test func silence() {
    let events = [begin, step(1, 1)]
    #expect(!status(events, alive: true, now: 104.9).isSilent)
    let silent = status(events, alive: true, now: 105.1)
    #expect(silent.isSilent && silent.state == .running && silent.lastEventTime == 100)
    #expect(!status(events, alive: false, now: 1000).isSilent)
  }

  /// A resumed run repeats the steps since its checkpoint.
  @Test func historyGoesBackToTheCheckpoint() {
    var history = RunHistory()
    for event in [begin, step(1, 5), step(2, 4), step(3, 3), begin, step(2, 2)] {
      history.apply(event)
    }
    #expect(history.meanLoss == [LossPoint(step: 1, value: 5), LossPoint(step: 2, value: 2)])
    #expect(history.losses[slot] == history.meanLoss)
    history.apply(Event(.checkpointed(step: 2, path: "a")))
    history.apply(Event(.checkpointed(step: 4, path: "b")))
    history.apply(Event(.checkpointed(step: 4, path: "c")))
    #expect(history.checkpoints.map(\.path) == ["a", "c"])
  }

  @Test func historyCollects() {
    var history = RunHistory()
    let other = GraftSite.slot(SlotID(block: 2, slot: .mlp))
    history.apply(Event(.heldOut(step: 1, losses: [slot: 1, other: 3])))
    history.apply(Event(.heldOut(step: 2, losses: [:])))
    history.apply(Event(.message("hello")))
    history.apply(Event(.sampled(role: .teacher, path: "t.png", classLabel: 3, seed: 4)))
    history.apply(Event(.progress(done: 2, total: 9, label: "sampling"), time: 7))
    #expect(history.meanHeldOut == [LossPoint(step: 1, value: 2)])
    history.apply(Event(.heldOut(step: 4, loss: 7, losses: [:]), time: 7))
    #expect(history.meanHeldOut.last == LossPoint(step: 4, value: 7))
    #expect(history.heldOut[slot]?.count == 1)
    #expect(history.messages == ["hello"])
    #expect(history.samples.map(\.path) == ["t.png"])
    // A measurement ends what was counted before it.
    #expect(history.step == 4 && history.total == 9 && history.label == nil)
    #expect(history.lastEventTime == 7)
  }

  @Test func followerReadsOnlyWhatIsNew() throws {
    let scratch = try Scratch()
    let run = try scratch.run()
    var follower = RunFollower(run)
    #expect(follower.poll().state == .queued)
    try run.claim()
    try run.append(begin)
    try run.append(step(1, 0.5))
    #expect(follower.poll().state == .running)
    try run.append(Event(.message("once")))
    _ = follower.poll()
    _ = follower.poll()
    #expect(follower.history.messages == ["once"])
    try run.append(Event(.finished(outcome: .done, text: "")))
    #expect(follower.poll().state == .done)
    #expect(run.status() == follower.poll())
  }
}
