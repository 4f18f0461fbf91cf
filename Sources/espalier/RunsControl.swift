import ArgumentParser
import Files
import Foundation
import Runs
import TorchEngine

extension RunsCommand {
  struct Pause: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Pause a run after its current step, or freeze it at once.")
    @OptionGroup var selection: RunSelection
    @Flag(help: "Stop the worker's process where it stands (SIGSTOP).") var now = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      guard now else {
        try run.pause()
        return try run.tell("was asked to pause", "pause", output)
      }
      try run.freeze()
      try run.tell("is frozen; 'espalier runs resume' lets it go on", "freeze", output)
    }
  }

  struct Resume: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract:
        "Resume a paused run, or restart a lost, failed or cancelled one from its checkpoint."
    )
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      switch run.summary().state {
      case .detached:
        try RunLauncher(root: run.root).attach(run)
        try run.tell("is followed again", "resume", output)
      case .queued, .starting, .pending, .running, .paused, .frozen, .unreachable:
        try run.goOn()
        try run.tell("was asked to resume", "resume", output)
      case .done: throw FileError("\(run.path): is done; there is nothing to resume")
      case .cancelled, .failed, .lost:
        try RunLauncher(root: run.root).retry(run)
        try run.tell("has a new worker", "resume", output)
      }
    }
  }

  struct Fetch: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Fetch models and checkpoints of a run whose engine is on another host.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      guard !run.summary().state.isUnderWay || run.summary().state == .detached else {
        throw FileError(
          "\(run.path): is \(run.summary().state.name), so its worker fetches by itself; wait for its end"
        )
      }
      try RunLauncher(root: run.root).attach(run, fetchesAll: true)
      try run.tell("fetches all its files", "fetch", output)
    }
  }

  struct Retry: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Restart a cancelled, failed or lost run from its checkpoint, perhaps more slowly.")
    @OptionGroup var selection: RunSelection
    @Option(help: "The plan's learning rate from now on; those of single sites change alike.")
    var learningRate: Double?
    @Option(help: "Factor of all learning rates, such as 0.5.") var rateFactor: Double?
    @Option(help: "Go on from the checkpoint that was kept of this step (see keep_last).")
    var step: Int?
    @Option(help: "Engine from now on: native, or one of 'espalier engines' (default: as before).")
    var engine: String?
    @OptionGroup var output: OutputOptions

    func validate() throws {
      guard learningRate == nil || rateFactor == nil else {
        throw ValidationError("--learning-rate and --rate-factor exclude each other")
      }
      guard (learningRate ?? rateFactor).map({ $0 > 0 && $0.isFinite }) ?? true else {
        throw ValidationError("a rate and its factor must be positive numbers")
      }
    }

    func run() throws {
      let run = try selection.run()
      try RunLauncher(root: run.root).retry(
        run, learningRate.map { .rate($0) } ?? rateFactor.map { .factor($0) }, step: step,
        engine: try engine.map { name in
          EngineChange(to: name == Engine.native ? nil : try Engine.named(name).name)
        })
      try run.tell("has a new worker", "retry", output)
    }
  }

  struct Cancel: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Ask a run to save a checkpoint and stop; kill it when asked a second time.")
    @OptionGroup var selection: RunSelection
    @Flag(help: "Kill it at once; what came after its last checkpoint is lost.") var hard = false
    @Option(
      help: "Kill it if it has not stopped after this time (such as 30s).",
      transform: TimeSpan.init(text:))
    var grace: TimeSpan?
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      var result = try run.cancel(hard: hard)
      if result == .asked, let grace {
        let deadline = Date().addingTimeInterval(grace.seconds)
        while !run.summary().state.isEnded, Date() < deadline { usleep(20_000) }
        if !run.summary().state.isEnded { result = try run.cancel(hard: true) }
      }
      switch result {
      case .asked: try run.tell("was asked to cancel", "cancel", output)
      case .withdrawn: try run.tell("was taken out of the queue", "cancel", output)
      case .killed: try run.tell("was killed", "kill", output)
      }
    }
  }

  struct Priority: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Change the priority of a queued run: higher priorities go first.")
    @OptionGroup var selection: RunSelection
    @Argument(help: "The priority, 0 unless it was given; write -- before a negative one.")
    var priority: Int
    @OptionGroup var output: OutputOptions

    func validate() throws {
      try require("the priority", priority, in: QueuePlace.priorities)
    }

    func run() throws {
      let run = try selection.run()
      try run.setPriority(priority)
      try run.tell("has priority \(priority)", "priority", output)
    }
  }
}

/// Duration such as `90s`, `30m`, `2h` or `7d`.
struct TimeSpan {
  let seconds: Double

  /// Maximum duration in seconds, a century.
  private static let limit = 36_500.0 * 86_400

  /// Reads an option's value.
  init(text: String) throws(ValidationError) {
    guard let seconds = DurationText.seconds(text), seconds <= Self.limit else {
      throw ValidationError(
        "expected a duration such as 90m: a number and s, m, h or d (seconds, minutes, hours, days), at"
          + " most 36500d"
      )
    }
    self.seconds = seconds
  }
}

extension RunDirectory {
  /// Prints the action taken on the run.
  fileprivate func tell(_ text: String, _ request: String, _ output: OutputOptions) throws {
    if output.json { return try output.printJSON(["run": path, "request": request]) }
    print("\(path): \(text)")
  }
}
