import Foundation
import Plans
import Runs
import TestSupport
import Testing

/// Workers that are killed with SIGKILL wherever they stand, for both stages: what comes out in the end
/// is the same to the last bit.
@Suite struct CrashTests {
  /// A kind of training.
  enum Kind: String, CaseIterable {
    case streaming, cached, finetuning
  }

  /// Makes a plan and gives the command that starts its run.
  private func prepare(
    _ kind: Kind, _ scratch: Scratch, steps: Int, checkpointEvery: Int
  ) throws -> [String] {
    let data = try scratch.tinyLatents()
    try scratch.tinyPlan(steps: steps, batch: 2, checkpointEvery: checkpointEvery) {
      $0.data = data
      $0.stage1.heldOutEvery = 3
      $0.stage2.heldOutEvery = 3
      $0.stage1.decay = .plateau
      $0.stage1.keepsBest = true
      $0.stage1.ridgeFinish = true
      $0.stage1.ridgeSamples = 12
      for id in $0.edits.keys {
        $0.stage1.overrides[.slot(id), default: SiteOverride()].initialization = .ridge
      }
      $0.stage2.keepsBest = true
      $0.stage1.keepLast = 2
      $0.stage2.keepLast = 2
      $0.stage1.mode = kind == .cached ? .cached : .streaming
      $0.stage1.samples = 10
      $0.stage1.epochs = steps / $0.stage1.stepsPerEpoch
    }
    return [kind == .finetuning ? "finetune" : "distill", "plan.json"]
  }

  /// All weights that a run leaves.
  private func weights(_ run: RunDirectory) throws -> [String: Data] {
    var found: [String: Data] = [:]
    for name in ["operators", "model", "best", "latest"] {
      let path = "\(run.checkpointsPath)/\(name).safetensors"
      guard FileManager.default.fileExists(atPath: path) else { continue }
      found[name] = try Data(contentsOf: URL(fileURLWithPath: path))
    }
    return found
  }

  /// Compares a run that was killed with one that was not.
  private func expectSame(
    _ run: RunDirectory, _ undisturbed: RunDirectory, at location: SourceLocation = #_sourceLocation
  ) throws {
    let (mine, whole) = (run.history(), undisturbed.history())
    #expect(
      mine.summary.end?.outcome == .done, "\(mine.summary.end?.text ?? "no end")",
      sourceLocation: location)
    let (some, all) = (try weights(run), try weights(undisturbed))
    #expect(some.keys.sorted() == all.keys.sorted(), sourceLocation: location)
    for (name, bytes) in all {
      #expect(some[name] == bytes, "\(name) differs", sourceLocation: location)
    }
    // Every held-out loss, and each training loss that both have told.
    #expect(mine.meanHeldOut == whole.meanHeldOut, sourceLocation: location)
    #expect(mine.heldOut == whole.heldOut, sourceLocation: location)
    let steps = Set(whole.meanLoss.map(\.step))
    let shared = mine.meanLoss.filter { steps.contains($0.step) }
    #expect(shared.last == whole.meanLoss.last, sourceLocation: location)
    for point in shared { #expect(whole.meanLoss.contains(point), sourceLocation: location) }
  }

  /// Starts a worker directly, kills it after a while, and tells whether there was something to kill.
  private func startAndKill(
    _ run: RunDirectory, _ scratch: Scratch, after microseconds: UInt32, ofTraining: Bool = false
  ) throws -> Bool {
    func starts() -> Int {
      run.readAllEvents().count {
        switch $0.kind {
        case .started: !ofTraining
        // The first words of a training, from the start or after a checkpoint.
        case .heldOut, .message: ofTraining
        default: false
        }
      }
    }
    let before = starts()
    let worker = try scratch.start(["worker", run.path])
    while starts() == before {
      if waitpid(worker.pid, nil, WNOHANG) != 0 { return false }
      usleep(1_000)
    }
    usleep(microseconds)
    Foundation.kill(worker.pid, SIGKILL)
    var status: Int32 = 0
    waitpid(worker.pid, &status, 0)
    return status & 0x7f == SIGKILL
  }

  /// A run of a command that has not begun: made and taken out of its worker's hands at once.
  private func make(_ command: [String], _ scratch: Scratch) throws -> RunDirectory {
    let known = Set(RunDirectory.list(root: scratch.runs))
    let outcome = try scratch.run(command + ["--detach"])
    try #require(outcome.code == 0, "\(outcome.complaint)")
    let run = try #require(RunDirectory.list(root: scratch.runs).first { !known.contains($0) })
    try? run.worker()?.signal(SIGKILL)
    try wait(for: "the worker's end") { run.worker()?.isAlive != true }
    return run
  }

  @Test(arguments: Kind.allCases)
  func killedAtSeveralPoints(kind: Kind) throws {
    let scratch = try Scratch()
    let command = try prepare(kind, scratch, steps: 120, checkpointEvery: 7)
    let whole: RunSummary = try scratch.run(command + ["--json"]).json()
    let run = try make(command, scratch)
    // In preparations, right after them, between checkpoints and amid them.
    for microseconds: UInt32 in [0, 20_000, 45_000, 70_000, 90_000] {
      guard try startAndKill(run, scratch, after: microseconds) else { break }
    }
    let resumed = try scratch.run(["worker", run.path])
    #expect(resumed.code == 0, "\(resumed.complaint)")
    try expectSame(run, try RunDirectory.open(whole.run))
  }

  /// `ESPALIER_LONG_TESTS=1` kills fifty times instead of eight.
  @Test func killedAtRandom() throws {
    let isLong = ProcessInfo.processInfo.environment["ESPALIER_LONG_TESTS"] == "1"
    let kills = isLong ? 50 : 8
    let scratch = try Scratch()
    let command = try prepare(
      .streaming, scratch, steps: isLong ? 800 : 240, checkpointEvery: 2)
    let whole: RunSummary = try scratch.run(command + ["--json"]).json()
    let run = try make(command, scratch)
    var random = RandomSequence(seed: 1)
    var done = 0
    for _ in 0..<kills {
      // In preparations as well as in the training.
      let ofTraining = Bool.random(using: &random)
      let isKilled = try startAndKill(
        run, scratch, after: .random(in: 0...60_000, using: &random), ofTraining: ofTraining)
      if isKilled { done += 1 }
    }
    #expect(done > kills / 2, "the run was over after \(done) kills")
    let resumed = try scratch.run(["worker", run.path])
    #expect(resumed.code == 0, "\(resumed.complaint)")
    try expectSame(run, try RunDirectory.open(whole.run))
  }

  /// Data or a model that changed under a run are noticed, each in one sentence.
  @Test(arguments: [Kind.streaming, .finetuning])
  func changedFilesAreNoticed(kind: Kind) throws {
    let scratch = try Scratch()
    var command = try prepare(kind, scratch, steps: 5_000_000, checkpointEvery: 1)
    command.append("--detach")
    let outcome = try scratch.run(command)
    let run = try RunDirectory.open(outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
    try wait(for: "a checkpoint") {
      run.summary().checkpoint != nil || run.summary().state.isEnded
    }
    try run.cancel(hard: true)
    func refusal() throws -> String {
      let resumed = try scratch.run(["worker", run.path])
      #expect(resumed.code == 1)
      return run.summary().end?.text ?? ""
    }
    let model = scratch.path + "/model.safetensors"
    let original = try Data(contentsOf: URL(fileURLWithPath: model))
    var changed = original
    changed[changed.count - 1] ^= 1
    try changed.write(to: URL(fileURLWithPath: model))
    let first = try refusal()
    #expect(first.hasPrefix("\(model): its weights have changed since the run was made"))
    try original.write(to: URL(fileURLWithPath: model))
    _ = try scratch.tinyLatents(count: 41)
    let second = try refusal()
    #expect(second.contains("the training data have changed since \(run.latestPath) was written"))
  }
}

extension RunDirectory {
  /// All events so far.
  fileprivate func readAllEvents() -> [Event] {
    var offset: UInt64 = 0
    return readEvents(after: &offset)
  }
}
