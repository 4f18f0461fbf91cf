import ArgumentParser
import Dispatch
import Files
import Foundation
import Plans
import Runs

/// Report on a run, during and after it.
struct RunReport: Encodable {
  let run: RunDirectory
  let summary: RunSummary
  /// Held-out losses by site, if they were read.
  let heldOut: [GraftSite: StepSeries]
  /// Losses and other measures by step, by name, if they were read.
  private var series: [String: StepSeries] = [:]

  /// Makes a report from a summary.
  init(_ run: RunDirectory, _ summary: RunSummary, heldOut: [GraftSite: StepSeries] = [:]) {
    (self.run, self.summary, self.heldOut) = (run, summary, heldOut)
  }

  /// Reads a run with its losses and, if it is waiting, its turn in the queue.
  init(reading run: RunDirectory) {
    var follower = RunFollower(run, keepsCurves: true)
    var summary = follower.poll()
    if summary.state == .queued, summary.place != nil {
      var store = RunStore(root: run.root)
      store.look()
      summary.turn = store.summary(run.id)?.turn
    }
    let history = follower.history
    self.init(run, summary, heldOut: history.heldOut)
    series = ["loss": history.meanLoss, "held_out": history.meanHeldOut]
    for (measure, values) in history.measures { series[measure.rawValue] = values }
  }

  /// Encodes the summary and values derived from it.
  func encode(to encoder: any Encoder) throws {
    try summary.encode(to: encoder)
    let changes = heldOut.compactMap { site, series in
      LossChange(series).map {
        (site.description, ["first": $0.first.value, "last": $0.last.value])
      }
    }
    let derived: KeyValuePairs<String, (any Encodable)?> = [
      "run": run.path, "ending": summary.end?.text,
      "ageSeconds": summary.createdAt.map { max(0, Date().timeIntervalSince1970 - $0) },
      "checkpoint": summary.checkpoint.map { run.resolve($0.path) },
      "queuePosition": summary.turn?.position,
      "priority": summary.turn == nil ? nil : summary.place?.priority,
      "note": summary.annotation.note, "tags": summary.annotation.tags,
      "engine": summary.engineName, "host": summary.link?.host, "stateReason": summary.stateReason,
      "waitsFor": summary.waitsFor,
      "origins": (try? run.request())?.origins,
      "meanHeldOutFirst": summary.meanHeldOut?.first.value,
      "meanHeldOutLast": summary.meanHeldOut?.last.value,
      "heldOut": Dictionary(uniqueKeysWithValues: changes),
      "series": series.isEmpty ? nil : series.mapValues(Array.init),
    ]
    var container = encoder.container(keyedBy: FieldKey.self)
    for case (let key, let value?) in derived {
      try container.encode(value, forKey: FieldKey(key))
    }
  }

  /// Lines of held-out losses: by site, then in total.
  var heldOutLines: [String] {
    func change(_ change: LossChange) -> String {
      "\(short(change.first.value)) -> \(short(change.last.value))"
    }
    var lines = heldOut.sorted { $0.key < $1.key }.compactMap { site, series in
      LossChange(series).map { "  \(site)  held-out \(change($0))" }
    }
    if let whole = summary.meanHeldOut {
      lines.append(
        "\(lines.isEmpty ? "" : "mean ")held-out loss \(change(whole))"
          + " (x \(short(whole.last.value / whole.first.value)))")
    }
    return lines
  }

  /// A line with the last value of every measure; nil without one.
  var measuresLine: String? {
    let texts = StepMeasure.allCases.compactMap { measure in
      series[measure.rawValue]?.last.map { last in
        switch measure {
        case .learningRate: "learning rate \(short(last.value))"
        case .gradientNorm: "gradient norm \(short(last.value))"
        case .samplesPerSecond: "\(short(last.value)) samples/s"
        case .residentMemory: "\(short(last.value / 1_048_576)) MiB resident"
        }
      }
    }
    return texts.isEmpty ? nil : texts.joined(separator: "  ")
  }

  /// Shows the progress of a run on standard error until it ends; Ctrl-C requests cancellation, a
  /// second one stops following.
  static func follow(
    _ run: RunDirectory, output: OutputOptions, tellsDone: Bool = true, tellsMessages: Bool = true
  ) throws {
    signal(SIGINT, SIG_IGN)
    let interrupt = DispatchSource.makeSignalSource(signal: SIGINT, queue: .global())
    interrupt.setEventHandler {
      _ = try? run.requestCancellation()
      signal(SIGINT, SIG_DFL)
    }
    interrupt.resume()
    defer { interrupt.cancel() }
    let console = ProgressLine()
    var follower = RunFollower(run, keepsCurves: true)
    let launched = ContinuousClock.now
    var told = 0
    while true {
      let summary = follower.poll()
      let report = RunReport(run, summary, heldOut: follower.history.heldOut)
      if summary.state.isEnded || told < follower.history.messageCount { console.finish() }
      let news = tellsMessages ? follower.history.messageCount - told : 0
      for text in follower.history.messages.suffix(news) {
        printToStandardError("espalier: note: \(text)\n")
      }
      told = follower.history.messageCount
      switch summary.state {
      case .queued where summary.place == nil && launched.duration(to: .now) > .seconds(30):
        throw FileError("\(run.path): the worker did not start within 30 s; see \(run.logPath)")
      case .detached:
        throw FileError("\(run.path): is detached: \(summary.stateReason ?? "")")
      case .queued, .starting, .pending, .running, .paused, .frozen, .unreachable:
        console.update(line(summary))
      case .done:
        if tellsDone { try report.tell(output) }
        return
      case .cancelled:
        try report.tell(output)
        throw ExitCode.failure
      case .failed:
        if output.json { try report.tell(output) }
        throw FileError(summary.end?.text ?? "")
      case .lost:
        if output.json { try report.tell(output) }
        throw FileError(
          "\(run.path): the worker died at \(summary.progressText); "
            + "'espalier runs resume \(run.id)' goes on from the last checkpoint")
      }
      Thread.sleep(forTimeInterval: 0.1)
    }
  }

  private static func line(_ summary: RunSummary) -> String {
    guard let loss = summary.loss, summary.label == nil else {
      let left = summary.secondsLeft.map { String(format: "  %.0f s left", $0) } ?? ""
      return
        "\(summary.stateText)  \(summary.label ?? "step") \(summary.step)/\(summary.total)\(left)"
    }
    var text = "\(summary.stateText)  step \(summary.step)/\(summary.total)  loss \(short(loss))"
    if let rate = summary.rate { text += String(format: "  %.2f steps/s", rate) }
    if let left = summary.secondsLeft { text += String(format: "  %.0f s left", left) }
    return text
  }

  private func tell(_ output: OutputOptions) throws {
    if output.json { return try output.printJSON(self) }
    print("\(run.path): \(summary.state.name) at step \(summary.step) of \(summary.total)")
    for line in heldOutLines { print(line) }
  }
}

extension RunDirectory {
  /// What the run began with, as recorded; nil where nothing was.
  var originLine: String? {
    guard let origins = try? request().origins, let plan = try? GraftPlan.load(path: planPath)
    else {
      return nil
    }
    return "at the start: " + PlanWeights(of: plan, recorded: origins).sentence()
  }
}
