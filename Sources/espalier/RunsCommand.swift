import ArgumentParser
import Foundation
import Runs
import Text

/// `espalier runs`: shows and steers runs.
struct RunsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "runs",
    abstract: "List, show, follow, queue, pause, resume, retry, cancel and clean runs.",
    subcommands: [
      List.self, Show.self, Follow.self, Wait.self, Pause.self, Resume.self, Retry.self,
      Cancel.self, Priority.self, Drain.self, Clean.self,
    ], defaultSubcommand: List.self)

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "List all runs, newest first.")
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    private struct Row: Encodable {
      let id, kind, name, state: String
      let step, total: Int
      let label: String?
      let loss: Double?
      let ageSeconds: Double?
      let ending: String?
      let pauseReason: String?
      let queuePosition, priority: Int?
      let waitsFor: String?
    }

    func run() throws {
      let now = Date()
      let found = RunDirectory.list(root: runs.root).map { run in
        var follower = RunFollower(run)
        let status = follower.poll(now: now)
        return (
          run: run, request: try? run.request(), status: status,
          ending: follower.history.end?.text
        )
      }
      let waiting = WaitingRun.list(
        found.compactMap { QueueEntry($0.run, $0.request, $0.status.state) })
      let rows = found.map { run, request, status, ending in
        let position = waiting.firstIndex { $0.id == run.id }
        return Row(
          id: run.id, kind: request?.job.kind ?? "?", name: request?.name ?? "?",
          state: status.state.name, step: status.step, total: status.total,
          label: status.label, loss: status.loss,
          ageSeconds: request.map { now.timeIntervalSince1970 - $0.createdAt }, ending: ending,
          pauseReason: status.pauseReason, queuePosition: position.map { $0 + 1 },
          priority: position.map { waiting[$0].priority },
          waitsFor: position.flatMap { waiting[$0].explanation })
      }
      if output.json { return try output.printJSON(rows) }
      if rows.isEmpty { print("no runs in \(runs.root)") }
      let room = terminalColumns()
      for row in rows {
        print(Self.line(row, columns: room ?? .max))
      }
    }

    /// A line about a run; why it failed gets what room is left.
    private static func line(_ row: Row, columns: Int) -> String {
      let state = TextWidth.pad(row.state, 10)
      let progress = "\(row.label.map { "\($0) " } ?? "")\(row.step)/\(row.total)"
      let loss = row.loss.map { "  loss \(short($0))" } ?? ""
      let place = row.queuePosition.map { "  #\($0) in the queue" } ?? ""
      let reason = [row.pauseReason, row.waitsFor].compactMap { $0.map { "  (\($0))" } }.joined()
      let line = "\(row.id)  \(state) \(progress)  \(row.name)\(loss)\(place)\(reason)"
      let room = columns - TextWidth.columns(of: line) - "  ()".count
      guard row.state == "failed", let ending = row.ending, room >= 16 else { return line }
      return "\(line)  (\(TextWidth.clip(ending.printableSentence, room)))"
    }
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show one run.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      var follower = RunFollower(run)
      let status = follower.poll()
      let report = RunReport(run, status, follower.history)
      if output.json { return try output.printJSON(report) }
      print("\(run.path): \(status.stateText), \(status.progressText)")
      if case .failed(let text) = status.state { print(lines: text) }
      if let position = report.queuePosition {
        print("#\(position) in the queue\(report.waitsFor.map { ": \($0)" } ?? "")")
      }
      for (id, change) in status.heldOut.sorted(by: { $0.key < $1.key }) {
        print("  \(id)  held-out \(short(change.first)) -> \(short(change.last))")
      }
      if status.heldOut.isEmpty, let change = status.meanHeldOut {
        print("  held-out \(short(change.first)) -> \(short(change.last))")
      }
      let log = run.logTail()
      if !log.isEmpty { print(lines: "log:\n\(log)") }
    }
  }

  struct Follow: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Follow a run until it ends.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws { try RunReport.follow(try selection.run(), output: output) }
  }

  struct Wait: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Wait until runs have ended.",
      discussion: """
        Exit code: 0 when all are done; otherwise that of the first that is not: 1 failed, 3 cancelled, \
        4 lost, 5 waits in the queue for a run that did not end as done.
        """)
    @Argument(help: "Ids of runs, unique beginnings or ends of them, or paths.") var ids: [String]
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
      let selected = try ids.map { try RunSelection.find($0, root: runs.root) }
      var followers = selected.map { RunFollower($0) }
      var reports: [RunReport] = []
      var code: Int32 = 0
      for index in followers.indices {
        while true {
          let status = followers[index].poll()
          let run = selected[index]
          let waiting = status.state == .queued ? WaitingRun.list(root: run.root) : []
          let blocked = waiting.first { $0.id == run.id && $0.isBlocked }
          guard status.state.isEnded || blocked != nil else {
            usleep(100_000)
            continue
          }
          reports.append(RunReport(run, status, followers[index].history))
          if !output.json {
            let explanation = blocked?.explanation.map { "blocked: \($0)" }
            print("\(run.path): \(explanation ?? status.state.name)")
          }
          if code == 0 { code = Self.code(status.state) }
          break
        }
      }
      if output.json { try output.printJSON(reports) }
      if code != 0 { throw ExitCode(code) }
    }

    private static func code(_ state: RunState) -> Int32 {
      switch state {
      case .done: 0
      case .failed: 1
      case .cancelled: 3
      case .lost: 4
      case .queued, .running, .paused, .frozen: 5
      }
    }
  }
}

/// One run, by its id or path.
struct RunSelection: ParsableArguments {
  @Argument(help: "The run's id, a unique beginning or end of it, or its path.") var id: String
  @OptionGroup var runs: RunsOptions

  func run() throws -> RunDirectory { try Self.find(id, root: runs.root) }

  /// The run below `root` with an id or a unique beginning or end of it, or the one at a path.
  static func find(_ id: String, root: String) throws -> RunDirectory {
    if id.contains("/") { return try RunDirectory.open(id) }
    let matches = matches(of: id, root: root)
    guard matches.count == 1, let match = matches.first else {
      let found =
        matches.isEmpty ? "no run begins or ends" : "\(matches.count) runs begin or end"
      throw RunError(
        "\(root): \(found) with '\(id)', expected one; 'espalier runs' lists them")
    }
    return match
  }

  /// The runs below `root` that an id may mean.
  static func matches(of id: String, root: String) -> [RunDirectory] {
    let all = RunDirectory.list(root: root)
    if let exact = all.first(where: { $0.id == id }) { return [exact] }
    return all.filter { $0.id.hasPrefix(id) || $0.shortID == id }
  }
}
