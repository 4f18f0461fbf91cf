import ArgumentParser
import Foundation
import Runs

/// `espalier runs`: shows and steers runs.
struct RunsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "runs", abstract: "List, show, follow, pause, resume and cancel runs.",
    subcommands: [List.self, Show.self, Follow.self, Pause.self, Resume.self, Cancel.self],
    defaultSubcommand: List.self)

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List all runs, newest first.")
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
      let id, kind, name, state: String
      let step, total: Int
      let loss: Double?
      let ageSeconds: Double?
    }

    func run() throws {
      let now = Date()
      let rows = RunDirectory.list(root: runs.root).map { run in
        let status = run.status(now: now)
        let request = try? run.request()
        return Row(
          id: run.id, kind: request?.job.kind ?? "?", name: request?.name ?? "?",
          state: status.state.text, step: status.step, total: status.total, loss: status.loss,
          ageSeconds: request.map { now.timeIntervalSince1970 - $0.createdAt })
      }
      if output.json { return try output.printJSON(rows) }
      if rows.isEmpty { print("no runs in \(runs.root)") }
      for row in rows {
        let state = row.state.padding(toLength: 10, withPad: " ", startingAt: 0)
        let loss = row.loss.map { "  loss \(short($0))" } ?? ""
        print("\(row.id)  \(state) \(row.step)/\(row.total)  \(row.name)\(loss)")
      }
    }
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show one run.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      let status = run.status(now: Date())
      if output.json { return try output.printJSON(RunReport(run, status)) }
      print("\(run.path): \(status.state.text), step \(status.step) of \(status.total)")
      if case .failed(let text) = status.state { print(text) }
      for (id, change) in status.heldOut.sorted(by: { $0.key < $1.key }) {
        print("  \(id)  held-out \(short(change.first)) -> \(short(change.last))")
      }
      if status.heldOut.isEmpty, let change = status.meanHeldOut {
        print("  held-out \(short(change.first)) -> \(short(change.last))")
      }
      let log = run.logTail()
      if !log.isEmpty { print("log:\n\(log)") }
    }
  }

  struct Follow: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Follow a run until it ends.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws { try RunReport.follow(try selection.run(), output: output) }
  }

  struct Pause: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Pause a run after its current step.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws { try selection.run().ask(.pause, output) }
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
      switch run.status(now: Date()).state {
      case .queued, .running, .paused: try run.ask(.resume, output)
      case .done: throw RunError("\(run.path): is done; there is nothing to resume")
      case .cancelled, .failed, .lost:
        try restart(run)
        try run.tell("has a new worker", request: .resume, output)
      }
    }

    /// Starts a worker and waits until it has taken the run up, so that what follows finds it running.
    private func restart(_ run: RunDirectory) throws {
      var offset: UInt64 = 0
      _ = run.readEvents(after: &offset)
      let pid = try WorkerLauncher.start(
        executable: try WorkerLauncher.currentExecutable(), run: run)
      while run.readEvents(after: &offset).isEmpty {
        if WorkerLauncher.reap(pid) {
          let last = run.logTail().split(separator: "\n").last.map(String.init) ?? "no reason given"
          throw RunError("\(run.path): the worker gave up (\(last)); see \(run.logPath)")
        }
        Thread.sleep(forTimeInterval: 0.02)
      }
    }
  }

  struct Cancel: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Ask a run to save a checkpoint and stop.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws { try selection.run().ask(.cancel, output) }
  }
}

/// One run, by its id or path.
struct RunSelection: ParsableArguments {
  @Argument(help: "The run's id, a unique beginning of it, or its path.") var id: String
  @OptionGroup var runs: RunsOptions

  func run() throws -> RunDirectory { try Self.find(id, root: runs.root) }

  /// The run below `root` with an id or a unique beginning of it, or the one at a path.
  static func find(_ id: String, root: String) throws -> RunDirectory {
    if id.contains("/") { return try RunDirectory.open(id) }
    let all = RunDirectory.list(root: root)
    if let exact = all.first(where: { $0.id == id }) { return exact }
    let matches = all.filter { $0.id.hasPrefix(id) }
    guard matches.count == 1, let match = matches.first else {
      let found = matches.isEmpty ? "no run begins" : "\(matches.count) runs begin"
      throw RunError(
        "\(root): \(found) with '\(id)', expected one; 'espalier runs' lists them")
    }
    return match
  }
}

extension RunDirectory {
  /// Sends a request to the run's worker; refuses when the run has ended.
  fileprivate func ask(_ request: Control, _ output: OutputOptions) throws {
    let state = status(now: Date()).state
    switch state {
    case .queued, .running, .paused: try append(request)
    default:
      throw RunError(
        "\(path): is \(state.text), expected a running one; 'espalier runs' lists them")
    }
    try tell("was asked to \(request.rawValue)", request: request, output)
  }

  /// Says what was done with the run.
  fileprivate func tell(_ text: String, request: Control, _ output: OutputOptions) throws {
    if output.json { return try output.printJSON(["run": path, "request": request.rawValue]) }
    print("\(path): \(text)")
  }
}
