import Foundation
import Jobs
import Plans
import Runs
import Testing

/// What a training leaves in its run directory, with a training that only counts.
@Suite struct TrainingLoopTests {
  /// Counts its steps and diverges when told to.
  private final class Counter: Training {
    private(set) var step = 0
    var divergesAt: Int?
    var atStep: (Int) throws -> Void = { _ in }

    func takeStep() -> TrainingLoss {
      try? atStep(step)
      step += 1
      return TrainingLoss(step == divergesAt ? .infinity : 1 / Double(step))
    }

    func heldOut() -> TrainingLoss { TrainingLoss(2 / Double(step + 1)) }

    func placeOfFailure() -> String? { divergesAt == nil ? nil : "blocks.3.out" }

    func save(in folder: String) throws {
      try Data("\(step)".utf8).write(to: URL(fileURLWithPath: folder + "/latest.safetensors"))
    }

    func resume(from path: String) throws {
      step = Int(try String(contentsOfFile: path, encoding: .utf8)) ?? -1
    }
  }

  private func withRun(_ body: (RunDirectory) throws -> Void) throws {
    let root = NSTemporaryDirectory() + "/espalier-loop-" + UUID().uuidString
    defer { try? FileManager.default.removeItem(atPath: root) }
    let request = JobRequest(
      job: .finetune(planPath: "plan.json", weights: []), name: "test", codeVersion: "0",
      modelHash: "c0ffee")
    try body(try RunDirectory.create(root: root, job: request))
  }

  private func train(_ training: Counter, in run: RunDirectory, steps: Int = 10) throws {
    try TrainingLoop(
      context: JobContext(run: run), steps: steps, heldOutEvery: 4, checkpointEvery: 3,
      rate: ("stage2.learning_rate", 0.5)
    ).run(training)
  }

  private func history(_ run: RunDirectory) -> RunHistory {
    var follower = RunFollower(run)
    _ = follower.poll()
    return follower.history
  }

  @Test func measuresAndSavesOnTheWay() throws {
    try withRun { run in
      try train(Counter(), in: run)
      let history = history(run)
      #expect(history.meanHeldOut.map(\.step) == [0, 4, 8, 10])
      #expect(history.meanHeldOut.allSatisfy { $0.value == 2 / Double($0.step + 1) })
      #expect(history.checkpoints.map(\.step) == [3, 6, 9, 10])
      #expect(history.meanLoss.last == LossPoint(step: 10, value: 0.1))
    }
  }

  @Test func aLossThatIsNotFiniteEndsTheRunAtItsLastCheckpoint() throws {
    try withRun { run in
      let training = Counter()
      training.divergesAt = 8
      let error = #expect(throws: RunError.self) { try train(training, in: run) }
      #expect(
        error?.message == "\(run.path): step 8: the loss is not finite, first in blocks.3.out; the"
          + " last good checkpoint is checkpoints/latest.safetensors of step 6; start a run with a lower"
          + " stage2.learning_rate than 0.5")
      #expect(history(run).checkpoints.map(\.step) == [3, 6])
      let again = Counter()
      try train(again, in: run)
      #expect(again.step == 10)
      #expect(history(run).messages == ["resumed at step 6 from its last checkpoint"])
    }
    try withRun { run in
      let training = Counter()
      training.divergesAt = 1
      let error = #expect(throws: RunError.self) { try train(training, in: run) }
      #expect(error?.message.contains("there is no checkpoint yet") == true)
    }
  }

  @Test func cancellationSaves() throws {
    try withRun { run in
      let training = Counter()
      training.atStep = { if $0 == 4 { try run.append(Control.cancel) } }
      #expect(throws: JobInterruption.cancelled) { try train(training, in: run) }
      #expect(history(run).checkpoints.map(\.step) == [3, 5])
    }
  }
}
