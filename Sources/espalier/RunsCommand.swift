import ArgumentParser
import Files
import Foundation
import Runs
import Text

/// `espalier runs`: shows and controls runs.
struct RunsCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "runs",
    abstract: "List, show, follow, queue, pause, resume, retry, cancel, annotate and remove runs.",
    subcommands: [
      List.self, Show.self, Follow.self, Wait.self, Pause.self, Resume.self, Retry.self,
      Cancel.self, Priority.self, Drain.self, Clean.self, Remove.self, Note.self, Tag.self,
      Fetch.self,
    ], defaultSubcommand: List.self)

  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "List runs, newest first.",
      discussion: """
        A filter is words that must all hold: state:running kind:finetune op:hyena tag:paper \
        engine:native 'loss<.05' 'held-out<=.1' 'age<2h' 'progress>50%' has:note name:odd, or any text \
        of name, id, note and tags. Commas separate alternatives, a '-' before a word negates it.
        """)
    @OptionGroup var runs: RunsOptions
    @Option(
      parsing: .unconditional,
      help: "List only runs that match, such as 'state:running,paused loss<.05'.",
      transform: { try Self.parse($0) { text throws(RunQueryError) in try RunFilter(text) } })
    var filter = RunFilter.all
    @Option(
      parsing: .unconditional,
      help:
        "Order: name, state, kind, progress, loss, held-out, rate, left, tags or age; -COLUMN reverses it.",
      transform: { try Self.parse($0) { text throws(RunQueryError) in try RunOrder(text) } })
    var sort = RunOrder.newest
    @OptionGroup var output: OutputOptions

    func run() throws {
      var store = RunStore(root: runs.root, readsPlans: filter.needsPlans)
      store.look()
      let now = Date().timeIntervalSince1970
      let listed = sort.sorted(store.summaries.filter { filter.matches($0, now: now) }, now: now)
      if output.json {
        return try output.printJSON(
          listed.compactMap { summary in
            store.run(summary.id).map { RunReport($0, summary) }
          })
      }
      if store.summaries.isEmpty { print("no runs in \(runs.root)") }
      if listed.isEmpty, !store.summaries.isEmpty {
        print("none of \(store.summaries.count) runs matches '\(filter.text)'")
      }
      let lines = TextWidth.table(listed.map(Self.cells), widest: 40)
      for (run, line) in zip(listed, lines) {
        // The reason of a failure or damage is truncated to the remaining width.
        let room = (terminalColumns() ?? .max) - TextWidth.columns(of: line) - "  ()".count
        let remark =
          run.damage.map { "damaged: \($0)" } ?? (run.state == .failed ? run.end?.text : nil)
        let cut = remark.map { "  (\(TextWidth.clip($0.printableSentence, room)))" } ?? ""
        print(room >= 16 ? line + cut : line)
      }
    }

    private static func parse<Value>(
      _ text: String, _ parse: (String) throws(RunQueryError) -> Value
    ) throws(ValidationError) -> Value {
      do {
        return try parse(text)
      } catch {
        throw ValidationError("\(error)")
      }
    }

    /// Cells of a row: identifier, state, progress, name, and remarks.
    private static func cells(_ run: RunSummary) -> [String] {
      [
        run.id, run.state.name, "\(run.label.map { "\($0) " } ?? "")\(run.step)/\(run.total)",
        run.kind == nil ? "?" : run.name,
        [
          run.loss.map { "loss \(short($0))" }, run.turn.map { "#\($0.position) in the queue" },
          run.pauseReason.map { "(\($0))" }, run.waitsFor.map { "(\($0))" },
          run.annotation.tags.isEmpty
            ? nil : run.annotation.tags.map { "#\($0)" }.joined(separator: " "),
          run.annotation.note.isEmpty ? nil : "“\(run.annotation.note)”",
        ].compactMap(\.self).joined(separator: "  "),
      ]
    }
  }

  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Show one run.")
    @OptionGroup var selection: RunSelection
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      let report = RunReport(reading: run)
      if output.json { return try output.printJSON(report) }
      let summary = report.summary
      print("\(run.path): \(summary.stateText), \(summary.progressText)")
      if let damage = summary.damage { print("damaged: \(damage)") }
      let annotation = summary.annotation
      if !annotation.tags.isEmpty { print("tags: \(annotation.tags.joined(separator: " "))") }
      if !annotation.note.isEmpty { print("note: \(annotation.note)") }
      if summary.state == .failed, let text = summary.end?.text { print(lines: text) }
      if let turn = summary.turn {
        print("#\(turn.position) in the queue\(summary.waitsFor.map { ": \($0)" } ?? "")")
      }
      if let line = run.originLine { print(line) }
      for line in report.heldOutLines { print(line) }
      if let line = report.measuresLine { print(line) }
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
      var reports: [RunReport] = []
      var code: Int32 = 0
      for run in selected {
        var store = RunStore(root: run.root)
        while true {
          store.look()
          guard let summary = store.summary(run.id) else {
            throw FileError("\(run.path): is gone; 'espalier runs' lists the others")
          }
          guard summary.state.isEnded || summary.turn?.isBlocked == true else {
            usleep(100_000)
            continue
          }
          store.follow([run.id])
          reports.append(
            RunReport(run, summary, heldOut: store.history(run.id)?.heldOut ?? [:]))
          if !output.json {
            let explanation = summary.turn == nil ? nil : summary.waitsFor.map { "blocked: \($0)" }
            print("\(run.path): \(explanation ?? summary.state.name)")
          }
          if code == 0 { code = Self.code(summary.state) }
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
      default: 5
      }
    }
  }
}

/// One run, by its id or path.
struct RunSelection: ParsableArguments {
  @Argument(help: "The run's id, a unique beginning or end of it, or its path.") var id: String
  @OptionGroup var runs: RunsOptions

  func run() throws -> RunDirectory { try Self.find(id, root: runs.root) }

  /// Finds the run in `root` with an id or a unique prefix or suffix of it, or the run at a path.
  static func find(_ id: String, root: String) throws -> RunDirectory {
    if id.contains("/") { return try RunDirectory.open(id) }
    let matches = matches(of: id, root: root)
    guard matches.count == 1, let match = matches.first else {
      let found =
        matches.isEmpty ? "no run begins or ends" : "\(matches.count) runs begin or end"
      throw FileError(
        "\(root): \(found) with '\(id)', expected one; 'espalier runs' lists them")
    }
    return match
  }

  /// Finds the runs in `root` that match an id.
  static func matches(of id: String, root: String) -> [RunDirectory] {
    let all = RunDirectory.list(root: root)
    if let exact = all.first(where: { $0.id == id }) { return [exact] }
    return all.filter { $0.id.hasPrefix(id) || $0.shortID == id }
  }
}
