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
    abstract:
      "Distil the replaced operators and parallel blocks of a plan (stage 1) in a background worker.",
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
      guard !loaded.isEmpty else {
        throw PlanError(
          key: "blocks",
          "no slot is edited and no blocks are parallel, so there is nothing to distil; put an operator "
            + "into a slot with 'espalier plan set' or see 'espalier plan parallel'")
      }
    }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    try RunReport.launch(
      .distill(planPath: "plan.json"), plan: loaded, root: runs.root, detach: detach,
      output: output)
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
      uniqueKeysWithValues: status.heldOut.map { site, change in
        (site.description, ["first": change.first, "last": change.last])
      })
    meanHeldOutFirst = status.meanHeldOut?.first
    meanHeldOutLast = status.meanHeldOut?.last
  }

  /// Starts a worker on a plan, and follows it unless it shall be left alone.
  static func launch(
    _ job: Job, plan: GraftPlan, root: String, detach: Bool, output: OutputOptions
  ) throws {
    let run = try RunDirectory.create(
      root: root,
      job: JobRequest(
        job: job, name: plan.name, codeVersion: espalierVersion, seed: plan.seed,
        modelHash: plan.model.contentHash),
      plan: plan)
    _ = try WorkerLauncher.start(executable: try WorkerLauncher.currentExecutable(), run: run)
    guard detach else { return try follow(run, output: output) }
    if output.json { return try output.printJSON(["run": run.path]) }
    print(run.path)
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
    for (site, change) in status.heldOut.sorted(by: { $0.key < $1.key }) {
      print("  \(site)  held-out \(short(change.first)) -> \(short(change.last))")
    }
    if let first = report.meanHeldOutFirst, let last = report.meanHeldOutLast {
      print(
        "\(status.heldOut.isEmpty ? "" : "mean ")held-out loss \(short(first)) -> \(short(last)) (x \(short(last / first)))"
      )
    }
  }
}
