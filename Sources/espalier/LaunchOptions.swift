import ArgumentParser
import Files
import Foundation
import Plans
import Runs
import TorchEngine

/// Queue, time limit and hook of a training.
struct LaunchOptions: ParsableArguments {
  @Flag(help: "Start the worker and return; follow it with 'espalier runs'.") var detach = false
  @Flag(
    help:
      "Let the run wait in the queue for its turn and return; 'espalier runs drain' works on it.")
  var queue = false
  @Option(help: "Priority in the queue; higher ones go first.") var priority = 0
  @Option(
    help: .init(
      "Begin only when this run is done (implies --queue); may be repeated.", valueName: "run"))
  var after: [String] = []
  @Option(
    help: "Save a checkpoint and stop as failed after this time of the worker (such as 90m or 2h).",
    transform: TimeSpan.init(text:))
  var timeout: TimeSpan?
  @Option(
    help: .init(
      "Command for /bin/sh -c after the end, with ESPALIER_RUN and ESPALIER_OUTCOME set.",
      valueName: "command"))
  var onDone: String?
  @OptionGroup var precision: PrecisionOptions
  @Option(help: "Engine that does the job: native, or one of 'espalier engines'.")
  var engine: String?

  /// Whether the run is queued.
  var isQueued: Bool { queue || !after.isEmpty }

  func validate() throws {
    try precision.requireTraining()
    try require("--priority", priority, in: QueuePlace.priorities)
    guard priority == 0 || isQueued else {
      throw ValidationError("--priority is for a run that waits; add --queue")
    }
    guard timeout.map({ $0.seconds > 0 }) ?? true else {
      throw ValidationError("--timeout must be longer than nothing")
    }
  }

  /// Runs that must be done first.
  func runsBefore(root: String) throws -> [RunDirectory] {
    try after.map { try RunSelection.find($0, root: root) }
  }

  /// Whether the command follows the run to its end.
  var follows: Bool { !isQueued && !detach }

  /// The chosen engine, which has said that it can do the job; nil for the native one.
  private func engineName(_ job: Job, _ plan: GraftPlan) throws -> String? {
    guard let engine, engine != Engine.native else { return nil }
    let chosen = try Engine.named(engine)
    let draft = "\(NSTemporaryDirectory())/espalier-\(UUID().uuidString).json"
    defer { unlink(draft) }
    try plan.save(to: draft)
    let stage = job.kind == .finetune ? "2" : "1"
    let (code, text) = try chosen.run(["check", "--stage", stage, draft])
    guard code == 0 else {
      let reason = text.replacing("Error: ", with: "").replacing("\(draft): ", with: "")
      throw FileError("the engine \(engine) cannot do it: \(reason)")
    }
    return engine
  }

  /// Creates a run and starts its worker or queues it; follows it unless it is detached.
  func launch(
    _ job: Job, plan: GraftPlan, root: String, output: OutputOptions,
    origins: [WeightOrigin]? = nil
  ) throws {
    let run = try begin(job, plan: plan, root: root, origins: origins)
    guard !follows else { return try RunReport.follow(run, output: output) }
    if output.json { return try output.printJSON(["run": run.path]) }
    print(run.path)
  }

  /// Creates a run and starts its worker or queues it.
  func begin(
    _ job: Job, plan: GraftPlan, root: String, origins: [WeightOrigin]? = nil
  ) throws -> RunDirectory {
    let before = try runsBefore(root: root)
    let engine = try engineName(job, plan)
    if let stranger = before.first(where: { $0.root != root }) {
      throw FileError(
        "--after: \(stranger.path) is not in \(root); name a run of the same directory")
    }
    return try RunLauncher(root: root).launch(
      JobRequest(
        job: job, name: plan.name, codeVersion: espalierVersion, seed: plan.seed,
        modelHash: plan.model.contentHash,
        queue: isQueued ? QueuePlace(priority: priority, after: before.map(\.id)) : nil,
        timeout: timeout?.seconds, onDone: onDone, precision: precision.chosen?.rawValue,
        origins: origins?.isEmpty == false ? origins : nil, engine: engine),
      plan: plan)
  }
}
