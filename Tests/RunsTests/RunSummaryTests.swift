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

@Suite struct RunSummaryTests {
  private func history(_ events: [Event]) -> RunHistory {
    var history = RunHistory()
    for event in events { history.apply(event) }
    return history
  }

  private func summary(_ events: [Event], _ worker: ProcessIdentity.Presence?, now: Double = 101)
    -> RunSummary
  {
    history(events).summary.seen(worker: worker, now: Date(timeIntervalSince1970: now))
  }

  private let begin = Event(.started(pid: 1, totalSteps: 10), time: 99)

  @Test func states() {
    #expect(summary([], nil).state == .queued)
    #expect(summary([], .running).state == .running)
    #expect(summary([], .gone).state == .lost)
    #expect(summary([begin], nil).state == .lost)
    #expect(summary([begin, step(1, 1)], .running).state == .running)
    #expect(summary([begin, step(1, 1)], .gone).state == .lost)
    let paused = [begin, Event(.paused(step: 1), time: 100)]
    #expect(summary(paused, .running).state == .paused)
    #expect(summary(paused, .gone).state == .lost)
    #expect(summary(paused + [Event(.resumed(step: 1))], .running).state == .running)
    // A new worker takes up a paused, lost run.
    #expect(summary(paused + [begin], .running).state == .running)
    for worker: ProcessIdentity.Presence in [.running, .gone, .unseen] {
      func ended(_ outcome: RunOutcome) -> RunSummary {
        summary([begin, Event(.finished(outcome: outcome, text: "why"))], worker)
      }
      #expect(ended(.done).state == .done)
      #expect(ended(.cancelled).state == .cancelled)
      #expect(ended(.failed).state == .failed && ended(.failed).end?.text == "why")
    }
  }

  /// Measures are series as losses are, and go back with them when another worker begins earlier.
  @Test func measuresBySteps() throws {
    let events = (1...5000).map { step in
      Event(
        .step(
          step: step, total: 5000, loss: 1, losses: [:], rate: 1, secondsLeft: 0,
          learningRate: LearningRate(0.5),
          measures: [.gradientNorm: step == 700 ? 99 : 1, .residentMemory: Double(step)]), time: 100
      )
    }
    var history = history(events)
    #expect(Set(history.measures.keys) == [.learningRate, .gradientNorm, .residentMemory])
    let norms = try #require(history.measures[.gradientNorm])
    #expect(norms.count <= StepSeries.limit + 4 && norms.map(\.value).max() == 99)
    #expect(norms.first?.step == 1 && norms.last?.step == 5000)
    #expect(history.measures[.learningRate]?.last?.value == 0.5)
    let copy = try JSONDecoder().decode(RunHistory.self, from: JSONEncoder().encode(history))
    #expect(copy == history)
    history.apply(Event(.heldOut(step: 100, losses: [slot: 1]), time: 101))
    #expect(history.measures.values.allSatisfy { ($0.last?.step ?? 0) <= 100 })
  }

  /// Another worker begins at the last checkpoint, or anew; what the one before did after it is undone.
  @Test func anotherWorkerGoesBack() {
    let measured = Event(.heldOut(step: 0, loss: nil, losses: [slot: 2]), time: 100)
    let late = Event(.heldOut(step: 4, loss: nil, losses: [slot: 1]), time: 100)
    let encoding = Event(.progress(done: 1, total: 8, label: "encoding images"), time: 100)
    let lost = [begin, measured, step(2, 0.5), step(4, 0.25), late]
    let preparing = summary(lost + [begin, encoding], .running)
    #expect(preparing.loss == nil && preparing.rate == nil)
    let anew = summary(lost + [begin, encoding, measured], .running)
    #expect(anew.step == 0 && anew.loss == nil)
    #expect(history(lost + [begin, encoding, measured]).losses.isEmpty)
    #expect(anew.meanHeldOut?.last.value == 2 && anew.progressText == "step 0 of 10")
    // A measurement amid the training leaves the loss.
    let measuring = Event(.progress(done: 4, total: 10, label: "measuring at step"), time: 100)
    #expect(summary([begin, step(4, 0.25), measuring], .running).loss == 0.25)
    let saved = Event(.checkpointed(step: 4, path: "checkpoints/latest.safetensors"))
    let resumed = summary(lost + [saved, step(5, 0.1), begin], .running)
    #expect(
      resumed.step == 4 && resumed.rate == nil && resumed.loss == nil
        && resumed.meanHeldOut?.last.value == 1)
  }

  /// A pause amid preparations leaves their count alone; a held-out measurement ends its own.
  @Test func pausesAmidPreparations() {
    let encoding = Event(.progress(done: 450, total: 800, label: "encoding images"), time: 100)
    let paused = summary([begin, encoding, Event(.paused(step: 0))], .running)
    #expect(paused.progressText == "encoding images 450 of 800")
    let measured = Event(.heldOut(step: 0, loss: 1, losses: [:]), time: 100)
    #expect(summary([begin, encoding, measured], .running).progressText == "step 0 of 10")
  }

  /// Progress is reported now and then, so that the last report of finished work may be short of its end.
  @Test func finishedWorkIsComplete() {
    let done = Event(.finished(outcome: .done, text: "476 operators"))
    let began = Event(.started(pid: 7, totalSteps: 0), time: 100)
    let training = Event(.progress(done: 435, total: 440, label: "training hyena_x"), time: 100)
    let library = summary([began, training, done], .gone)
    #expect(library.progressText == "step 440 of 440" && library.state == .done)
    let cancelled = Event(.finished(outcome: .cancelled, text: "cancelled"))
    #expect(summary([began, training, cancelled], .gone).step == 435)
    // A fit after the last step leaves the number of steps.
    let fitting = Event(.progress(done: 3, total: 5, label: "fitting"), time: 100)
    let trained = summary([begin, step(10, 0.5), fitting, done], .gone)
    #expect(trained.progressText == "step 10 of 10")
  }

  /// Images that were encoded before the first step are no steps.
  @Test func endsAmidPreparations() {
    let encoding = Event(.progress(done: 640, total: 2048, label: "encoding images"), time: 100)
    let preparing = summary([begin, encoding], .running)
    #expect(preparing.step == 640 && preparing.total == 2048)
    #expect(preparing.progressText == "encoding images 640 of 2048")
    let training = summary([begin, encoding, step(1, 0.5)], .running)
    #expect(training.label == nil && training.progressText == "step 1 of 10")
    let cancelled = Event(.finished(outcome: .cancelled, text: "cancelled"))
    let early = summary([begin, encoding, cancelled], .gone)
    #expect(early.step == 0 && early.total == 10 && early.label == nil)
    let saved = Event(.checkpointed(step: 3, path: "checkpoints/latest.safetensors"))
    let late = summary([begin, encoding, step(1, 0.5), saved, cancelled], .gone)
    #expect(late.step == 3 && late.total == 10)
  }

  @Test func figures() {
    let held = [
      Event(.heldOut(step: 0, losses: [slot: 0.5]), time: 99),
      Event(.heldOut(step: 5, losses: [slot: 0.25]), time: 100),
    ]
    let running = summary([begin, held[0], step(4, 0.4), step(5, 0.3), held[1]], .running)
    #expect(running.step == 5 && running.total == 10)
    #expect(running.rate == 2 && running.secondsLeft == 2.5)
    #expect(running.loss == 0.3)
    #expect(running.meanHeldOut?.first.value == 0.5 && running.meanHeldOut?.last.value == 0.25)
    #expect(!running.isSilent)
    // Rates of a dead worker would mislead.
    let lost = summary([begin, step(5, 0.3)], .gone)
    #expect(lost.rate == nil && lost.secondsLeft == nil && lost.step == 5)
  }

  @Test func silence() {
    let events = [begin, step(1, 1)]
    #expect(!summary(events, .running, now: 104.9).isSilent)
    let silent = summary(events, .running, now: 105.1)
    #expect(silent.isSilent && silent.state == .running && silent.lastEventTime == 100)
    #expect(!summary(events, .gone, now: 1000).isSilent)
  }

  /// A resumed run repeats the steps since its checkpoint.
  @Test func historyGoesBackToTheCheckpoint() {
    var history = RunHistory()
    for event in [begin, step(1, 5), step(2, 4), step(3, 3), begin, step(2, 2)] {
      history.apply(event)
    }
    #expect(
      Array(history.meanLoss) == [StepValue(step: 1, value: 5), StepValue(step: 2, value: 2)])
    #expect(history.losses[slot] == history.meanLoss)
    history.apply(Event(.checkpointed(step: 2, path: "a")))
    history.apply(Event(.checkpointed(step: 4, path: "b")))
    history.apply(Event(.checkpointed(step: 4, path: "c")))
    #expect(history.summary.checkpoint == SavedCheckpoint(step: 4, path: "c"))
  }

  @Test func historyCollects() {
    var history = RunHistory()
    let other = GraftSite.slot(SlotID(block: 2, slot: .mlp))
    history.apply(Event(.heldOut(step: 1, losses: [slot: 1, other: 3])))
    history.apply(Event(.heldOut(step: 2, losses: [:])))
    history.apply(Event(.message("hello")))
    history.apply(Event(.sampled(role: .teacher, path: "t.png", classLabel: 3, seed: 4)))
    history.apply(Event(.progress(done: 2, total: 9, label: "sampling"), time: 7))
    #expect(Array(history.meanHeldOut) == [StepValue(step: 1, value: 2)])
    history.apply(Event(.heldOut(step: 4, loss: 7, losses: [:]), time: 7))
    #expect(history.meanHeldOut.last == StepValue(step: 4, value: 7))
    #expect(history.heldOut[slot]?.count == 1)
    #expect(history.messages == ["hello"])
    let summary = history.summary
    #expect(summary.images.map(\.path) == ["t.png"] && summary.imageCount == 1)
    // A measurement ends what was counted before it.
    #expect(summary.step == 4 && summary.total == 9 && summary.label == nil)
    #expect(summary.lastEventTime == 7)
  }

  /// A worker of another host or pid namespace lives as long as it writes.
  @Test func strangersLiveWhileTheirEventsAreFresh() {
    let events = [begin, step(1, 1, at: 100)]
    #expect(summary(events, .unseen, now: 101).state == .running)
    #expect(summary(events + [Event(.paused(step: 1), time: 100)], .unseen).state == .paused)
    #expect(summary(events, .unseen, now: 100 + RunSummary.freshness + 1).state == .lost)
    // The other host's clock is an hour ahead, but the file was just written.
    let ahead = history([begin, step(1, 1, at: 3700)]).summary
    let now = Date(timeIntervalSince1970: 100)
    #expect(ahead.seen(worker: .unseen, now: now, quiet: 1).state == .running)
    #expect(ahead.seen(worker: .unseen, now: now).state == .lost)
  }

  /// After the clock was set back, what was written before lies in the future.
  @Test func aClockSetBack() {
    let set = summary([begin, step(1, 1, at: 5000)], .running, now: 100)
    #expect(set.state == .running && !set.isSilent)
    let after = summary([begin, step(1, 1, at: 5000), step(2, 0.5, at: 99)], .running, now: 100)
    #expect(after.step == 2 && after.loss == 0.5 && after.lastEventTime == 99 && !after.isSilent)
  }

  @Test func theSummaryIsWholeInJSON() throws {
    var told = history([
      begin, step(1, .nan), Event(.heldOut(step: 1, losses: [slot: 2]), time: 100),
      Event(.checkpointed(step: 1, path: "a"), time: 100),
      Event(.sampled(role: .graft, path: "g.png", classLabel: 1, seed: 2), time: 100),
      Event(.finished(outcome: .failed, text: "why"), time: 100),
    ]).summary
    told.loss = 0.5
    (told.id, told.kind, told.place) = ("r", .finetune, QueuePlace(priority: 2, after: ["x"]))
    told.turn = QueueTurn(position: 2, obstacle: .broken("x", nil))
    let data = try JSONEncoder().encode(told)
    #expect(try JSONDecoder().decode(RunSummary.self, from: data) == told)
  }
}
