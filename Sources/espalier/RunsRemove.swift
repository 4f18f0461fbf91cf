import ArgumentParser
import Files
import Foundation
import Runs

extension RunsCommand {
  struct Remove: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Remove single runs with their checkpoints.",
      discussion: """
        Runs that are active, wait in the queue, or are named by a waiting one stay, and so do those of \
        other users. If one of several runs must stay, nothing is removed.
        """)
    @OptionGroup var selection: ManyRunsSelection
    @Flag(help: "Say what would be removed, and remove nothing.") var dryRun = false
    @OptionGroup var output: OutputOptions

    func run() throws {
      let (store, chosen) = try selection.find()
      for run in chosen {
        guard let summary = store.summary(run.id) else { continue }
        if let reason = store.summaries.reasonAgainstRemoving(summary) {
          throw FileError("\(run.path): \(reason); nothing was removed")
        }
      }
      var report = RemovalReport(isDryRun: dryRun)
      for run in chosen {
        let size = run.size()
        do {
          if !dryRun { try run.remove(among: store.summaries) }
          report.add(run.id, size)
        } catch {
          report.failure = report.failure ?? error
        }
      }
      try report.tell(output)
    }
  }

  struct Note: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Show or write the note of a run.")
    @OptionGroup var selection: RunSelection
    @Argument(help: "The note, one line; \"\" removes it. Without it the note is printed.")
    var text: String?
    @OptionGroup var output: OutputOptions

    func run() throws {
      let run = try selection.run()
      let annotation =
        try text.map { text in try run.annotate { try $0.setNote(text) } } ?? run.annotation()
      if output.json { return try output.printJSON(annotation) }
      print(annotation.note)
    }
  }

  struct Tag: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Show, add or remove tags of runs.",
      discussion: """
        Tags are letters, digits, '-', '_' and '.'; 'espalier runs list --filter tag:NAME' lists the runs \
        that have one.
        """)
    @OptionGroup var selection: ManyRunsSelection
    @Option(name: .customLong("add"), help: "Tags to add.") var added: [String] = []
    @Option(name: .customLong("remove"), help: "Tags to remove.") var removed: [String] = []
    @OptionGroup var output: OutputOptions

    private struct Report: Encodable {
      let id: String
      let tags: [String]
    }

    func run() throws {
      var reports: [Report] = []
      for run in try selection.find().runs {
        let annotation =
          added.isEmpty && removed.isEmpty
          ? try run.annotation()
          : try run.annotate { try $0.setTags(adding: added, removing: removed) }
        reports.append(Report(id: run.id, tags: annotation.tags))
      }
      if output.json { return try output.printJSON(reports) }
      for report in reports { print("\(report.id): \(report.tags.joined(separator: " "))") }
    }
  }
}

/// Several runs by id or path.
struct ManyRunsSelection: ParsableArguments {
  @Argument(
    help: .init("Runs: ids, unique beginnings or ends of them, or paths.", valueName: "run"))
  var ids: [String]
  @OptionGroup var runs: RunsOptions

  /// Finds the runs, each once, in the order given, and reads all runs of their root.
  func find() throws -> (store: RunStore, runs: [RunDirectory]) {
    var found: [RunDirectory] = []
    for id in ids {
      let run = try RunSelection.find(id, root: runs.root)
      if !found.contains(run) { found.append(run) }
    }
    guard let root = found.first?.root, found.allSatisfy({ $0.root == root }) else {
      throw FileError(
        "the runs are in different directories; name those of one directory at a time")
    }
    var store = RunStore(root: root)
    store.look()
    return (store, found)
  }
}

/// What a command has removed, or would remove.
struct RemovalReport: Encodable {
  private(set) var removed: [String] = []
  private(set) var bytes = 0
  let isDryRun: Bool
  /// The first error.
  var failure: (any Error)?

  private enum CodingKeys: CodingKey { case removed, bytes, isDryRun }

  init(isDryRun: Bool) { self.isDryRun = isDryRun }

  /// Adds a run of a size in bytes.
  mutating func add(_ id: String, _ size: Int) {
    removed.append(id)
    bytes += size
  }

  /// Prints the report, then throws the first error.
  func tell(_ output: OutputOptions) throws {
    if output.json {
      try output.printJSON(self)
    } else {
      for id in removed { print(id) }
      let megabytes = String(format: "%.1f MB", Double(bytes) / 1e6)
      let count = removed.count == 1 ? "1 run" : "\(removed.count) runs"
      print("\(count), \(megabytes) \(isDryRun ? "would be freed" : "freed")")
    }
    if let failure { throw failure }
  }
}
