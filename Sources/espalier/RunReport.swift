import ArgumentParser
import Dispatch
import Foundation
import Runs

/// What is told of a run, while it goes on and in the end.
struct RunReport: Encodable {
  let run, state: String
  let step, total: Int
  /// What is counted instead of steps; nil for steps.
  let label: String?
  /// The run's last words: what it came to, or why it failed.
  let ending: String?
  let pauseReason: String?
  let queuePosition: Int?
  let waitsFor: String?
  let loss: Double?
  /// The path of the newest checkpoint.
  let checkpoint: String?
  let meanHeldOutFirst, meanHeldOutLast: Double?
  let heldOut: [String: [String: Double]]

  init(_ run: RunDirectory, _ status: RunStatus, _ history: RunHistory) {
    self.run = run.path
    state = status.state.name
    (step, total, label) = (status.step, status.total, status.label)
    ending = history.end?.text
    pauseReason = status.pauseReason
    let waiting = status.state == .queued ? WaitingRun.list(root: run.root) : []
    let position = waiting.firstIndex { $0.id == run.id }
    queuePosition = position.map { $0 + 1 }
    waitsFor = position.flatMap { waiting[$0].explanation }
    loss = status.loss
    checkpoint = history.checkpoints.last.map { run.resolve($0.path) }
    heldOut = Dictionary(
      uniqueKeysWithValues: status.heldOut.map { site, change in
        (site.description, ["first": change.first, "last": change.last])
      })
    meanHeldOutFirst = status.meanHeldOut?.first
    meanHeldOutLast = status.meanHeldOut?.last
  }

  /// Shows a run's progress on standard error until it ends; Ctrl-C cancels it softly, a second one
  /// leaves the worker to itself.
  static func follow(_ run: RunDirectory, output: OutputOptions) throws {
    signal(SIGINT, SIG_IGN)
    let interrupt = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
    interrupt.setEventHandler {
      _ = try? run.requestCancellation()
      signal(SIGINT, SIG_DFL)
    }
    interrupt.resume()
    defer { interrupt.cancel() }
    let console = ProgressLine()
    var follower = RunFollower(run)
    let launched = Date()
    let isQueued = (try? run.request())?.queue != nil
    while true {
      let status = follower.poll()
      switch status.state {
      case .queued where !isQueued && Date().timeIntervalSince(launched) > 30:
        throw RunError("\(run.path): the worker did not start within 30 s; see \(run.logPath)")
      case .queued, .running, .paused, .frozen:
        console.update(line(status))
      case .done:
        console.finish()
        return try report(run, status, follower.history, output)
      case .cancelled:
        console.finish()
        try report(run, status, follower.history, output)
        throw ExitCode.failure
      case .failed(let text):
        console.finish()
        if output.json { try report(run, status, follower.history, output) }
        throw RunError(text)
      case .lost:
        console.finish()
        if output.json { try report(run, status, follower.history, output) }
        throw RunError(
          "\(run.path): the worker died at \(status.progressText); "
            + "'espalier runs resume \(run.id)' goes on from the last checkpoint")
      }
      Thread.sleep(forTimeInterval: 0.1)
    }
  }

  private static func line(_ status: RunStatus) -> String {
    guard let loss = status.loss, status.label == nil else {
      return "\(status.stateText)  \(status.label ?? "step") \(status.step)/\(status.total)"
    }
    var text = "\(status.stateText)  step \(status.step)/\(status.total)  loss \(short(loss))"
    if let rate = status.rate { text += String(format: "  %.2f steps/s", rate) }
    if let left = status.secondsLeft { text += String(format: "  %.0f s left", left) }
    return text
  }

  private static func report(
    _ run: RunDirectory, _ status: RunStatus, _ history: RunHistory, _ output: OutputOptions
  ) throws {
    let report = RunReport(run, status, history)
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
