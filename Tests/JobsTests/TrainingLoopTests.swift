import Files
import Foundation
import Jobs
import Plans
import Runs
import Synchronization
import Testing

/// What a training leaves in its run directory, with a training that only counts.
@Suite struct TrainingLoopTests {
  /// Counts its steps and diverges when told to.
  private final class Counter: Training {
    private(set) var step = 0
    var divergesAt: Int?
    var atStep: (Int) throws -> Void = { _ in }
    /// How often the disk is full when a checkpoint is written.
    var fullDisks = 0

    func takeStep() -> TrainingLoss {
      try? atStep(step)
      step += 1
      return TrainingLoss(step == divergesAt ? .infinity : 1 / Double(step))
    }

    var gradientNorm: Double? { 10 / Double(step) }
    var samplesInStep: Int? { 8 }

    func heldOut() -> TrainingLoss { TrainingLoss(2 / Double(step + 1)) }

    func placeOfFailure() -> String? { divergesAt == nil ? nil : "blocks.3.out" }

    var learningRate: LearningRate { LearningRate(1 / Double(step)) }

    /// The step from which on its weights are of no use.
    var spoiltAt = Int.max
    var fault: String?

    func isSound() -> Bool { step < spoiltAt }

    func faultInData() -> String? { fault }

    func saveCheckpoint(to path: String) throws {
      if fullDisks > 0 {
        fullDisks -= 1
        throw FileError("the disk is full", isDiskFull: true)
      }
      try AtomicFile.write(Data("\(step)".utf8), to: path)
    }

    /// What it leaves beside, as stage 2 leaves its model.
    var leavesModel = false

    func saveResults(in folder: String) throws {
      if leavesModel { try AtomicFile.write(Data("\(step)".utf8), to: folder + "/model") }
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

  private func train(
    _ training: Counter, in run: RunDirectory, steps: Int = 10,
    checkpoints: CheckpointPolicy = CheckpointPolicy(every: 3),
    clock: @escaping () -> Double = { 0 }
  ) throws {
    let context = JobContext(run: run, roomInterval: 0.01)
    try context.emit(.started(pid: 1, totalSteps: steps))
    try TrainingLoop(
      context: context, steps: steps, heldOutEvery: 4,
      checkpoints: checkpoints, rate: ("stage2.learning_rate", 0.5), clock: clock
    ).run(training)
  }

  /// The steps of the checkpoints that were written, without those that the run has gone back behind.
  private func checkpoints(_ run: RunDirectory) -> [Int] {
    var offset: UInt64 = 0
    return run.readEvents(after: &offset).reduce(into: []) { steps, event in
      guard case .checkpointed(let step, _) = event.kind else { return }
      steps.removeAll { $0 >= step }
      steps.append(step)
    }
  }

  @Test func measuresAndSavesOnTheWay() throws {
    try withRun { run in
      try train(Counter(), in: run)
      let history = run.history()
      #expect(history.meanHeldOut.map(\.step) == [0, 4, 8, 10])
      #expect(history.meanHeldOut.allSatisfy { $0.value == 2 / Double($0.step + 1) })
      #expect(checkpoints(run) == [3, 6, 9, 10])
      #expect(history.meanLoss.last == StepValue(step: 10, value: 0.1))
    }
  }

  /// A step takes half a second here, which gives two steps of eight samples a second.
  @Test func stepsCarryTheirMeasures() throws {
    try withRun { run in
      var time = 0.0
      let training = Counter()
      training.atStep = { _ in time += 0.5 }
      try train(training, in: run, clock: { time })
      let measures = run.history().measures
      #expect(Set(measures.keys) == Set(StepMeasure.allCases))
      #expect(measures[.gradientNorm]?.map(\.value) == (1...10).map { 10 / Double($0) })
      #expect(measures[.learningRate]?.map(\.value) == (1...10).map { 1 / Double($0) })
      #expect(measures[.samplesPerSecond]?.allSatisfy { abs($0.value - 16) < 1e-9 } == true)
      // At least that of this very process without its code, at most the machine's.
      #expect(measures[.residentMemory]?.allSatisfy { (1e6...1e13).contains($0.value) } == true)
    }
  }

  @Test func aLossThatIsNotFiniteEndsTheRunAtItsLastCheckpoint() throws {
    try withRun { run in
      let training = Counter()
      training.divergesAt = 8
      let error = #expect(throws: FileError.self) { try train(training, in: run) }
      #expect(
        error?.message == "\(run.path): step 8: the loss is not finite, first in blocks.3.out; the"
          + " last good checkpoint is checkpoints/latest.safetensors of step 6; go on from there"
          + " with half the stage2.learning_rate of 0.5 by"
          + " 'espalier runs retry \(run.id) --rate-factor 0.5'")
      #expect(checkpoints(run) == [3, 6])
      let again = Counter()
      try train(again, in: run)
      #expect(again.step == 10)
      #expect(run.history().messages == ["resumed at step 6 from its last checkpoint"])
    }
    try withRun { run in
      let training = Counter()
      training.divergesAt = 1
      let error = #expect(throws: FileError.self) { try train(training, in: run) }
      #expect(error?.message.contains("there is no checkpoint yet") == true)
    }
  }

  @Test func spoiltWeightsDoNotReplaceACheckpoint() throws {
    try withRun { run in
      let training = Counter()
      training.spoiltAt = 8
      let policy = CheckpointPolicy(every: 3, keepLast: 3)
      let error = #expect(throws: FileError.self) {
        try train(training, in: run, checkpoints: policy)
      }
      let message = error?.message ?? ""
      #expect(
        message.contains("step 9: what the model makes of held-out samples is not finite; the last")
      )
      #expect(message.contains("of step 6; go on from there with half the stage2.learning_rate"))
      #expect(message.hasSuffix("0.5', or from an earlier one by adding '--step 3'"))
      #expect(try String(contentsOfFile: run.latestPath, encoding: .utf8) == "6")
      try run.append(Event(.finished(outcome: .failed, text: message)))
      let wrong = #expect(throws: FileError.self) { try run.prepareRetry(step: 4) }
      #expect(wrong?.message.contains("keeps no checkpoint of step 4, expected one of 3") == true)
      #expect(throws: (any Error).self) { try run.prepareRetry(.rate(5), step: 3) }
      #expect(try String(contentsOfFile: run.latestPath, encoding: .utf8) == "6")
      try run.prepareRetry(step: 3)
      #expect(try String(contentsOfFile: run.latestPath, encoding: .utf8) == "3")
      #expect(checkpoints(run) == [3] && run.history().summary.step == 3)
      try train(Counter(), in: run, checkpoints: policy)
      #expect(run.history().messages.contains("resumed at step 3 from its last checkpoint"))
    }
  }

  @Test func faultySamplesAreBlamedFirst() throws {
    try withRun { run in
      let training = Counter()
      (training.divergesAt, training.fault) = (2, "sample 7 is bad; correct it")
      let error = #expect(throws: FileError.self) { try train(training, in: run) }
      #expect(
        error?.message
          == "\(run.path): step 2: the loss is not finite: sample 7 is bad; correct it")
    }
  }

  @Test func checkpointsAfterMinutes() throws {
    try withRun { run in
      let training = Counter()
      // A step takes 20 seconds, a checkpoint nothing.
      let policy = CheckpointPolicy(every: 1000, minutes: 1)
      try train(training, in: run, checkpoints: policy) { Double(training.step) * 20 }
      #expect(checkpoints(run) == [3, 6, 9, 10])
    }
  }

  /// The newest checkpoints stay, each under its step but the last.
  @Test func keepsTheLastCheckpoints() throws {
    try withRun { run in
      let policy = CheckpointPolicy(every: 3, keepLast: 3)
      let training = Counter()
      training.atStep = { if $0 == 7 { try run.append(Control.cancel) } }
      #expect(throws: JobInterruption.cancelled) {
        try train(training, in: run, checkpoints: policy)
      }
      let expected = [
        "latest.safetensors": "8", "step-6.safetensors": "6", "step-3.safetensors": "3",
      ]
      #expect(try files(run) == expected)
      try forgetRequests(run)
      // Going on, with a leftover of steps that were given up, and keeping fewer.
      try Data("99".utf8).write(
        to: URL(fileURLWithPath: run.checkpointsPath + "/step-99.safetensors"))
      try train(Counter(), in: run, checkpoints: CheckpointPolicy(every: 3, keepLast: 2))
      #expect(try files(run) == ["latest.safetensors": "10", "step-9.safetensors": "9"])
    }
  }

  @Test func aFullDiskPauses() throws {
    try withRun { run in
      let training = Counter()
      training.fullDisks = 3
      try train(training, in: run)
      let history = run.history()
      #expect(checkpoints(run) == [3, 6, 9, 10])
      var offset: UInt64 = 0
      let pauses = run.readEvents(after: &offset).map(\.kind).filter {
        switch $0 {
        case .paused, .resumed: true
        default: false
        }
      }
      #expect(pauses == [.paused(step: 2, reason: "disk full"), .resumed(step: 2)])
      #expect(history.summary.pauseReason == nil)
    }
  }

  /// As whoever starts another worker does.
  private func forgetRequests(_ run: RunDirectory) throws {
    try AtomicFile.write(Data(), to: run.controlPath)
  }

  /// Files of the checkpoints' folder with what they hold.
  private func files(_ run: RunDirectory) throws -> [String: String] {
    let names = try FileManager.default.contentsOfDirectory(atPath: run.checkpointsPath)
    return try Dictionary(
      uniqueKeysWithValues: names.map {
        ($0, try String(contentsOfFile: "\(run.checkpointsPath)/\($0)", encoding: .utf8))
      })
  }

  /// Lets one operation that changes a file of the checkpoints fail, and counts them all.
  private final class Fault: Sendable {
    private let next: Mutex<(count: Int, failing: ClosedRange<Int>)>

    init(_ failing: ClosedRange<Int>) { next = Mutex((0, failing)) }

    var count: Int { next.withLock { $0.count } }

    func code(_ path: String) -> Int32 {
      guard path.contains("/checkpoints/") else { return 0 }
      return next.withLock { state in
        state.count += 1
        return state.failing.contains(state.count) ? ENOSPC : 0
      }
    }
  }

  /// The disk is full at one single write after another, for one or a few tries: the run waits and ends
  /// as if it never had been, with every checkpoint under the name of its own step.
  @Test func everySingleWriteMayFail() throws {
    let expected = [
      "latest.safetensors": "10", "step-9.safetensors": "9", "step-6.safetensors": "6",
      "model": "10",
    ]
    var writes = 1
    var failing = 0
    while failing <= writes {
      for length in [1, 3] {
        try withRun { run in
          let training = Counter()
          training.leavesModel = true
          let fault = Fault(failing...(failing + length - 1))
          try AtomicFile.failure.withValue({ fault.code($0) }) {
            try train(training, in: run, checkpoints: CheckpointPolicy(every: 3, keepLast: 3))
          }
          #expect(try files(run) == expected, "write \(failing), \(length) times")
          #expect(checkpoints(run) == [3, 6, 9, 10])
          if failing == 0, length == 1 { writes = fault.count }
        }
      }
      failing += 1
    }
    // Four checkpoints with a model each: open, write, sync and rename of both, and three links.
    #expect(writes == 4 * 8 + 3 * 2)
  }

  /// The same where somebody gives up waiting at that write and another worker goes on later.
  @Test func everySingleWriteMayBeTheLast() throws {
    for failing in 1...38 {
      try withRun { run in
        let policy = CheckpointPolicy(every: 3, keepLast: 3)
        let training = Counter()
        training.leavesModel = true
        let fault = Fault(failing...Int.max)
        AtomicFile.failure.withValue({ path in
          let code = fault.code(path)
          if code != 0 { try? run.append(Control.cancel) }
          return code
        }) {
          #expect(throws: JobInterruption.cancelled) {
            try train(training, in: run, checkpoints: policy)
          }
        }
        for (name, content) in try files(run) where name.hasPrefix("step-") {
          #expect(name == "step-\(content).safetensors", "write \(failing)")
        }
        try forgetRequests(run)
        let again = Counter()
        again.leavesModel = true
        try train(again, in: run, checkpoints: policy)
        #expect(
          try files(run) == [
            "latest.safetensors": "10", "step-9.safetensors": "9", "step-6.safetensors": "6",
            "model": "10",
          ], "write \(failing)")
      }
    }
  }

  /// One checkpoint of every step, also of the last one.
  @Test func noCheckpointIsWrittenTwice() throws {
    for (steps, every) in [(9, 3), (10, 3), (4, 4), (3, 1)] {
      try withRun { run in
        let fault = Fault(0...0)
        try AtomicFile.failure.withValue({ fault.code($0) }) {
          try train(Counter(), in: run, steps: steps, checkpoints: CheckpointPolicy(every: every))
        }
        let expected =
          Array(stride(from: every, through: steps, by: every))
          + (steps % every == 0 ? [] : [steps])
        #expect(checkpoints(run) == expected)
        #expect(fault.count == 4 * expected.count)
        // Taken up again at its end, it has nothing to write.
        try train(Counter(), in: run, steps: steps)
        #expect(checkpoints(run) == expected)
      }
    }
  }

  /// Data that change under the training end it before another checkpoint is written.
  ///
  /// In a process of its own, whose other trainings it would end too.
  @Test func changedDataEndTheRun() async {
    await #expect(processExitsWith: .success) { try TrainingLoopTests().changeData() }
  }

  private func changeData() throws {
    for isTruncated in [true, false] {
      try withRun { run in
        let path = run.path + "/data"
        try Data(repeating: 1, count: 100_000).write(to: URL(fileURLWithPath: path))
        let file = try MappedFile(path: path)
        let training = Counter()
        training.atStep = { step in
          guard step == 4 else { return }
          let descriptor = open(path, O_WRONLY)
          defer { close(descriptor) }
          _ = isTruncated ? ftruncate(descriptor, 10) : Int32(write(descriptor, [7], 1))
        }
        let error = #expect(throws: FileError.self) { try train(training, in: run) }
        #expect(error?.message.hasPrefix("\(path): was written to by another program") == true)
        #expect(try String(contentsOfFile: run.latestPath, encoding: .utf8) == "3")
        withExtendedLifetime(file) {}
      }
    }
  }

  /// Without room for a checkpoint of the present step the last one stays.
  @Test func cancellationOnAFullDiskEndsAtOnce() throws {
    try withRun { run in
      let training = Counter()
      training.atStep = {
        guard $0 == 4 else { return }
        training.fullDisks = .max
        try run.append(Control.cancel)
      }
      #expect(throws: JobInterruption.cancelled) { try train(training, in: run) }
      #expect(checkpoints(run) == [3])
      try forgetRequests(run)
      let again = Counter()
      try train(again, in: run)
      #expect(again.step == 10 && checkpoints(run) == [3, 6, 9, 10])
    }
  }

  @Test func timeIsUp() throws {
    try withRun { run in
      let context = JobContext(run: run)
      context.limit(to: 0)
      let training = Counter()
      #expect(throws: JobInterruption.timedOut) {
        try TrainingLoop(
          context: context, steps: 9, heldOutEvery: 4, checkpoints: CheckpointPolicy(every: 3),
          rate: ("stage2.learning_rate", 0.5)
        ).run(training)
      }
      #expect(checkpoints(run) == [0])
    }
  }

  @Test func cancellationSaves() throws {
    try withRun { run in
      let training = Counter()
      training.atStep = { if $0 == 4 { try run.append(Control.cancel) } }
      #expect(throws: JobInterruption.cancelled) { try train(training, in: run) }
      #expect(checkpoints(run) == [3, 5])
    }
  }
}
