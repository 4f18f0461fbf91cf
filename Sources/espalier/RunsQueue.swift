import ArgumentParser
import Dispatch
import Files
import Foundation
import Runs
import Synchronization

extension RunsCommand {
  struct Drain: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Run the queued runs in order until the queue is empty.",
      discussion: """
        The eligible run with the highest priority goes first, among equals the oldest. A run that must \
        come after others waits until they are done. Ctrl-C or --stop lets what runs come to its end and \
        starts nothing more; queueing a run starts the queue again.
        """)
    @Option(help: "Trainings that may go on at once, those started directly included.") var jobs = 1
    @Flag(help: "Start a queue runner in the background and return.") var detach = false
    @Flag(help: "Request the queue runner to start no further runs.") var stop = false
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
      try require("--jobs", jobs, in: 1...64)
      guard !(stop && detach) else {
        throw ValidationError("--stop and --detach exclude each other")
      }
    }

    func run() throws {
      if stop {
        try QueueRunner.stop(root: runs.root)
        return try tell("the runner starts nothing more", ["runner": "stopping"])
      }
      guard FileManager.default.fileExists(atPath: runs.root) else {
        if let given = runs.runs {
          throw FileError(
            "--runs: there is no directory \(given), so nothing waits in it; name a directory of runs"
          )
        }
        return try tell("nothing waits", ["runner": "none"])
      }
      let launcher = try RunLauncher(root: runs.root)
      if detach {
        let pid = try launcher.wakeQueue(jobs: jobs)
        return try tell(
          pid.map { "process \($0) runs the queue" }
            ?? (QueueRunner.isAtWork(root: runs.root)
              ? "another runner works on the queue" : "nothing waits"),
          ["runner": pid.map { "\($0)" } ?? "none"])
      }
      let stopping = StopSignals()
      let runner = QueueRunner(launcher, jobs: jobs)
      let hasRun = try runner.drain(isStopping: { stopping.isAsked }) { line in
        printToStandardError("\(line)\n")
      }
      try tell(
        hasRun ? "the queue is drained" : "another runner works on the queue",
        ["runner": hasRun ? "done" : "busy"])
    }

    private func tell(_ text: String, _ values: [String: String]) throws {
      if output.json { return try output.printJSON(values) }
      print("\(runs.root): \(text)")
    }
  }

  struct Clean: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Remove ended runs with their checkpoints.",
      discussion: """
        Say which: --done, --failed, --cancelled, --lost, --damaged. Runs that are active, wait in the \
        queue, or are named by a waiting one always stay, and so do those of other users.
        """)
    @Flag(help: "Remove runs that are done.") var done = false
    @Flag(help: "Remove runs that have failed.") var failed = false
    @Flag(help: "Remove runs that were cancelled.") var cancelled = false
    @Flag(help: "Remove runs whose worker died.") var lost = false
    @Flag(help: "Remove runs without an active worker whose run.json cannot be used.")
    var damaged = false
    @Option(
      help: "Only those whose last event is older than this (such as 7d).",
      transform: TimeSpan.init(text:))
    var olderThan: TimeSpan?
    @Flag(help: "Say what would be removed, and remove nothing.") var dryRun = false
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
      guard done || failed || cancelled || lost || damaged else {
        throw ValidationError(
          "name what to remove: --done, --failed, --cancelled, --lost or --damaged")
      }
    }

    func run() throws {
      var store = RunStore(root: runs.root)
      store.look()
      var report = RemovalReport(isDryRun: dryRun)
      if !dryRun { RunDirectory.removeLeftovers(root: runs.root) }
      for summary in store.summaries
      where store.summaries.reasonAgainstRemoving(summary) == nil && isMeant(summary) {
        guard let run = store.run(summary.id) else { continue }
        let size = run.size()
        do {
          if try dryRun || run.remove(if: isMeant) { report.add(run.id, size) }
        } catch {
          report.failure = report.failure ?? error
        }
      }
      try report.tell(output)
    }

    private func isMeant(_ status: RunSummary) -> Bool {
      let isChosen =
        switch status.state {
        case .done: done
        case .failed: failed
        case .cancelled: cancelled
        case .lost: lost
        default: false
        }
      let isUnusable = status.kind == nil && status.isRemovable
      let age = Date().timeIntervalSince1970 - (status.lastEventTime ?? 0)
      return (isChosen || damaged && isUnusable) && age >= olderThan?.seconds ?? 0
    }
  }
}

/// Records SIGINT and SIGTERM instead of terminating.
private final class StopSignals {
  private final class Flag: Sendable {
    let isSet = Mutex(false)
  }

  private let flag = Flag()
  private let sources: [any DispatchSourceSignal]

  /// Whether a signal was received.
  var isAsked: Bool { flag.isSet.withLock { $0 } }

  init() {
    sources = [SIGINT, SIGTERM].map { [flag] number in
      signal(number, SIG_IGN)
      let source = DispatchSource.makeSignalSource(signal: number, queue: .global())
      source.setEventHandler { flag.isSet.withLock { $0 = true } }
      source.resume()
      return source
    }
  }
}
