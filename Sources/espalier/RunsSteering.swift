import ArgumentParser
import Foundation
import Runs

extension RunsCommand {
  struct Pause: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Pause a run after its current step, or freeze it at once.")
    @OptionGroup var selection: RunSelection
    @Flag(help: "Stop the worker's process group where it stands (SIGSTOP).") var now = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      guard now else { return try run.ask(.pause, output) }
      let worker = try run.requireWorker()
      try worker.signal(SIGSTOP)
      while worker.isAlive, !worker.isStopped { usleep(2_000) }
      try run.tell("is frozen; 'espalier runs resume' lets it go on", "freeze", output)
    }
  }

  struct Resume: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract:
        "Let a paused run go on, or restart a lost, failed or cancelled one from its checkpoint."
    )
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      switch run.summary().state {
      case .queued, .running, .paused, .frozen:
        try run.requireWorker().signal(SIGCONT)
        try run.ask(.resume, output)
      case .done: throw RunError("\(run.path): is done; there is nothing to resume")
      case .cancelled, .failed, .lost:
        try run.restart(nil)
        try run.tell("has a new worker", "resume", output)
      }
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
      try run.restart(
        learningRate.map { .rate($0) } ?? rateFactor.map { .factor($0) }, step: step)
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
      abstract: "Let a queued run wait less or more: higher priorities go first.")
    @OptionGroup var selection: RunSelection
    @Argument(help: "The priority, 0 unless it was given; write -- before a negative one.")
    var priority: Int
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      try run.setPriority(priority)
      try run.tell("has priority \(priority)", "priority", output)
    }
  }
}

/// A time such as `90s`, `30m`, `2h` or `7d`.
struct TimeSpan {
  let seconds: Double

  /// Reads an option's value.
  init(text: String) throws(ValidationError) {
    let units: [Character: Double] = ["s": 1, "m": 60, "h": 3600, "d": 86_400]
    guard let unit = text.last.flatMap({ units[$0] }),
      let number = Double(text.dropLast()), number.isFinite, number >= 0
    else {
      throw ValidationError(
        "expected a duration such as 90m: a number and s, m, h or d (seconds, minutes, hours, days)"
      )
    }
    seconds = number * unit
  }
}

extension RunDirectory {
  /// Sends a request to the run's worker; refuses when there is none.
  fileprivate func ask(_ request: Control, _ output: OutputOptions) throws {
    _ = try requireWorker()
    try append(request)
    try tell("was asked to \(request.rawValue)", request.rawValue, output)
  }

  /// The living worker.
  fileprivate func requireWorker() throws -> ProcessIdentity {
    guard let worker = worker(), worker.isAlive else {
      if summary().state == .queued, (try? request())?.queue != nil {
        throw RunError(
          "\(path): waits in the queue and has no worker yet; 'espalier runs cancel \(id)' takes it"
            + " out, 'espalier runs priority \(id) -- -1' lets others go first")
      }
      throw RunError(
        "\(path): is \(summary().state.name), expected a running one; 'espalier runs' lists them")
    }
    return worker
  }

  /// Starts a worker on a run that has ended and waits until it has taken the run up, so that what
  /// follows finds it running; runs of the queue that waited for it get their turns.
  fileprivate func restart(_ change: RateChange?, step: Int? = nil) throws {
    try prepareRetry(change, step: step)
    var offset = logSize
    let executable = try WorkerLauncher.currentExecutable()
    let pid = try WorkerLauncher.start(executable: executable, run: self)
    while readEvents(after: &offset).isEmpty {
      if WorkerLauncher.reap(pid) { throw RunError(gaveUp) }
      Thread.sleep(forTimeInterval: 0.02)
    }
    try QueueRunner.start(root: root, executable: executable)
  }

  /// Says what was done with the run.
  fileprivate func tell(_ text: String, _ request: String, _ output: OutputOptions) throws {
    if output.json { return try output.printJSON(["run": path, "request": request]) }
    print("\(path): \(text)")
  }
}
