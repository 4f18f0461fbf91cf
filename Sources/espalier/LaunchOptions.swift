import ArgumentParser
import Files
import Foundation
import Jobs
import Plans
import Runs
import TorchEngine

/// Queue, time limit, hook and engine of a run.
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

  @Option(
    help: .init(
      "Program and arguments that start the engine's ranks in place of its own launcher, divided at spaces.",
      valueName: "words"))
  var launcher: String?

  /// Whether the run is queued.
  var isQueued: Bool { queue || !after.isEmpty }

  func validate() throws {
    try require("--priority", priority, in: QueuePlace.priorities)
    guard priority == 0 || isQueued else {
      throw ValidationError("--priority is for a run that waits; add --queue")
    }
    guard launcher == nil || hasEngine else {
      throw ValidationError("--launcher starts the ranks of another engine; name it by --engine")
    }
    guard timeout.map({ $0.seconds > 0 }) ?? true else {
      throw ValidationError("--timeout must be longer than nothing")
    }
  }

  /// Runs that must be done first.
  func runsBefore(root: String) throws -> [RunDirectory] {
    try after.map { try RunSelection.find($0, root: root) }
  }

  /// Whether no option of runs but the engine is given.
  var isPlain: Bool { !detach && !isQueued && timeout == nil && onDone == nil }

  /// Whether another engine than the native one is named.
  var hasEngine: Bool { engine.map { $0 != Engine.native } ?? false }

  /// Words that start the engine's ranks in place of its own launcher.
  var launcherWords: [String]? { launcher?.split(separator: " ").map(String.init) }

  /// Whether the command follows the run to its end.
  var follows: Bool { !isQueued && !detach }

  /// The chosen engine, which has said that it can do the job; nil for the native one.
  private func engineName(_ job: Job, _ plan: GraftPlan?) throws -> String? {
    guard let engine, engine != Engine.native else { return nil }
    let chosen = try Engine.named(engine)
    guard job.kind.isTraining, let plan else {
      throw FileError(
        "the engine \(engine) does no job of kind \(job.kind.rawValue), whose measurements are the native"
          + " engine's; leave out --engine, and train plans with it by 'espalier distill'")
    }
    try chosen.require(stage: job.kind == .finetune ? 2 : 1, of: plan)
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
    try begin(
      job, named: plan.name, seed: plan.seed, modelHash: plan.model.contentHash, plan: plan,
      root: root, origins: origins)
  }

  /// Creates a run that may have no plan, and starts its worker or queues it.
  func begin(
    _ job: Job, named name: String, seed: UInt64 = 0, modelHash: String, plan: GraftPlan? = nil,
    root: String, origins: [WeightOrigin]? = nil
  ) throws -> RunDirectory {
    try precision.require(for: job.kind)
    let before = try runsBefore(root: root)
    let engine = try engineName(job, plan)
    if let stranger = before.first(where: { $0.root != root }) {
      throw FileError(
        "--after: \(stranger.path) is not in \(root); name a run of the same directory")
    }
    var request = JobRequest(
      job: job, name: name, codeVersion: espalierVersion, seed: seed, modelHash: modelHash,
      queue: isQueued ? QueuePlace(priority: priority, after: before.map(\.id)) : nil,
      timeout: timeout?.seconds, onDone: onDone, precision: precision.chosen?.rawValue,
      origins: origins?.isEmpty == false ? origins : nil, engine: engine)
    request.launcher = launcherWords
    return try RunLauncher(root: root, requirements: JobRequirements.check).launch(
      request, plan: plan)
  }
}
