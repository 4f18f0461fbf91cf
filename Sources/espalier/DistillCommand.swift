import ArgumentParser
import Dispatch
import Foundation
import Grafting
import Plans
import Runs

/// `espalier distill`: stage 1 of a plan in a worker process.
struct DistillCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "distill",
    abstract: "Distil the replaced operators of a plan (stage 1) in a background worker.",
    discussion: """
      The worker goes on if this command dies. Ctrl-C asks it to save a checkpoint and stop; \
      --detach returns at once.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(help: "\(DataSettings.help) (default: the plan's).") var data: String?
  @OptionGroup var runs: RunsOptions
  @Flag(help: "Start the worker and return; follow it with 'espalier runs'.") var detach = false
  @OptionGroup var output: OutputOptions

  func run() throws {
    var loaded = try GraftPlan.load(path: plan)
    if let data { loaded.train(on: data) }
    try naming(plan) { () throws(PlanError) in
      guard !loaded.edits.isEmpty else {
        throw PlanError(
          key: "blocks",
          "no slot is edited, so there is nothing to distil; put an operator into one with "
            + "'espalier plan set'")
      }
    }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    let run = try RunDirectory.create(
      root: runs.root,
      job: JobRequest(
        job: .distill(planPath: "plan.json"), name: loaded.name, codeVersion: espalierVersion,
        seed: loaded.seed, modelHash: loaded.model.contentHash),
      plan: loaded)
    _ = try WorkerLauncher.start(executable: try WorkerLauncher.currentExecutable(), run: run)
    if detach {
      if output.json {
        try output.printJSON(["run": run.path])
      } else {
        print(run.path)
      }
      return
    }
    try RunReport.follow(run, output: output)
  }
}

/// What is told of a run in the end.
struct RunReport: Encodable {
  let run, state: String
  let step, total: Int
  let meanHeldOutFirst, meanHeldOutLast: Double?
  let heldOut: [String: [String: Double]]

  init(_ run: RunDirectory, _ status: RunStatus) {
    self.run = run.path
    state = status.state.text
    (step, total) = (status.step, status.total)
    heldOut = Dictionary(
      uniqueKeysWithValues: status.heldOut.map { id, change in
        (id.description, ["first": change.first, "last": change.last])
      })
    func mean(_ values: [Double]) -> Double? {
      values.isEmpty ? nil : values.reduce(0, +) / Double(values.count)
    }
    meanHeldOutFirst = mean(status.heldOut.values.map(\.first))
    meanHeldOutLast = mean(status.heldOut.values.map(\.last))
  }

  /// Shows a run's progress on standard error until it ends; Ctrl-C cancels it softly, a second one
  /// leaves the worker to itself.
  static func follow(_ run: RunDirectory, output: OutputOptions) throws {
    signal(SIGINT, SIG_IGN)
    let interrupt = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
    interrupt.setEventHandler {
      try? run.append(Control.cancel)
      signal(SIGINT, SIG_DFL)
    }
    interrupt.resume()
    defer { interrupt.cancel() }
    let console = ProgressLine()
    var follower = RunFollower(run)
    let launched = Date()
    while true {
      let status = follower.poll()
      switch status.state {
      case .queued where Date().timeIntervalSince(launched) > 30:
        throw RunError("\(run.path): the worker did not start within 30 s; see \(run.logPath)")
      case .queued, .running, .paused:
        console.update(line(status, follower.history))
      case .done:
        console.finish()
        return try report(run, status, output)
      case .cancelled:
        console.finish()
        try report(run, status, output)
        throw ExitCode.failure
      case .failed(let text):
        console.finish()
        throw RunError(text)
      case .lost:
        console.finish()
        throw RunError(
          "\(run.path): the worker died at step \(status.step); "
            + "'espalier runs resume \(run.id)' goes on from the last checkpoint")
      }
      Thread.sleep(forTimeInterval: 0.1)
    }
  }

  private static func line(_ status: RunStatus, _ history: RunHistory) -> String {
    guard let loss = status.loss else {
      return "\(status.state.text)  \(history.label ?? "") \(status.step)/\(status.total)"
    }
    var text = "\(status.state.text)  step \(status.step)/\(status.total)  loss \(short(loss))"
    if let rate = status.rate { text += String(format: "  %.2f steps/s", rate) }
    if let left = status.secondsLeft { text += String(format: "  %.0f s left", left) }
    return text
  }

  private static func report(_ run: RunDirectory, _ status: RunStatus, _ output: OutputOptions)
    throws
  {
    let report = RunReport(run, status)
    if output.json { return try output.printJSON(report) }
    print("\(run.path): \(report.state) at step \(report.step) of \(report.total)")
    for (id, change) in status.heldOut.sorted(by: { $0.key < $1.key }) {
      print("  \(id)  held-out \(short(change.first)) -> \(short(change.last))")
    }
    if let first = report.meanHeldOutFirst, let last = report.meanHeldOutLast {
      print("mean held-out loss \(short(first)) -> \(short(last)) (x \(short(last / first)))")
    }
  }
}

extension RunState {
  /// One word for tables.
  var text: String {
    switch self {
    case .queued: "queued"
    case .running: "running"
    case .paused: "paused"
    case .done: "done"
    case .cancelled: "cancelled"
    case .failed: "failed"
    case .lost: "lost"
    }
  }
}
