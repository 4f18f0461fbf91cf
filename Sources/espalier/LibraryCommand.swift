import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Runs
import Search
import TensorCore
import Text

/// `espalier library`: trained and measured operators for every slot of a model.
struct LibraryCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "library",
    abstract: "Build, list and prune the library of trained operators of a model.",
    discussion: """
      A library holds operators for every slot of a model, trained on the teacher's activations, with the \
      error that each alone makes in the guided prediction and the time that it saves on this machine. \
      'espalier search' chooses among them, and plans that use them need no distillation.
      """, subcommands: [Build.self, List.self, Show.self, Prune.self])

  /// Where libraries are.
  struct RootOptions: ParsableArguments {
    @Option(help: "Root of the libraries (default: $XDG_DATA_HOME/espalier/library).")
    var library: String?
  }

  /// `espalier library build`.
  struct Build: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "build",
      abstract: "Train, score and time operators for every slot of a model in a background worker.",
      discussion: """
        Operators that the library has are not trained again. A stopped build goes on with 'espalier runs \
        resume'.
        """)

    @Argument(
      help: .init("A plan with model, data, seed and stage-1 settings, or a model. \(modelHelp)"))
    var model = "demo"
    @Option(
      help: .init(
        "JSON file of operators for each kind of slot, {\"attention\": [{\"name\": …, \"config\": {…}}], \"mlp\":"
          + " […]} (default: about ten and six)."))
    var candidates: String?
    @Option(help: .init("Blocks: \(SlotSelection.forms) (default: all).")) var blocks: String?
    @Option(help: "Steps of stage 1 after the fit in closed form; 0 for the fit alone.")
    var steps = LibraryRequest.steps
    @Option(help: "Noisy samples of the scores.") var samples = ScoreSettings().samples
    @Option(help: "Guidance of the scores (default: DiT 2, SiT 1.5, LightningDiT 6.7, PixArt 4.5).")
    var guidance: Double?
    @Option(help: "Images of a timed forward pass.") var batch = ScoreSettings().timingBatch
    @Option(help: "10^9 bytes that the library may take.") var sizeLimit = 50.0
    @OptionGroup var root: RootOptions
    @OptionGroup var launch: LaunchOptions
    @OptionGroup var runs: RunsOptions
    @OptionGroup var output: OutputOptions

    func validate() throws {
      guard (0...1_000_000).contains(steps) else {
        throw ValidationError("--steps is \(steps); give 0 to 1000000")
      }
      guard (1...100_000).contains(samples) else {
        throw ValidationError("--samples is \(samples); give 1 to 100000")
      }
      guard (1...4096).contains(batch) else {
        throw ValidationError("--batch is \(batch); give 1 to 4096")
      }
      guard (1e-3...1e6).contains(sizeLimit) else {
        throw ValidationError("--size-limit is \(sizeLimit); give 0.001 to 1000000")
      }
    }

    func run() throws {
      let plan = try PlanOrModel(model, name: "library").plan
      // Blocks of a selection by score, as the worker reads them.
      let chosen = try blocks.map { text in
        try PlanCommand.blocks(text, of: plan, .attention).map(String.init).joined(separator: ",")
      }
      if chosen == "" {
        throw ValidationError("--blocks '\(blocks ?? "")' selects no block of the model")
      }
      var request = LibraryRequest(
        planPath: "plan.json", candidates: try candidates.map(Self.read), blocks: chosen,
        steps: steps,
        root: root.library.map { URL(filePath: $0).path }, sizeLimit: sizeLimit)
      request.score = ScoreSettings(of: plan.model.shape.family)
      request.score.samples = samples
      if let guidance { request.score.guidance = guidance }
      request.score.timingBatch = batch
      try launch.launch(.library(request), plan: plan, root: runs.root, output: output)
    }

    private static func read(_ path: String) throws -> [String: [OperatorSpec]] {
      let text = Data(try AtomicFile.read(path, limit: 16 << 20))
      guard let candidates = try? JSONDecoder().decode([String: [OperatorSpec]].self, from: text),
        Set(candidates.keys).isSubset(of: Slot.allCases.map(\.rawValue)), !candidates.isEmpty
      else {
        throw ValidationError(
          "\(path): is no JSON object of lists of operators by \"attention\" and \"mlp\"; write them as in a plan"
        )
      }
      return candidates
    }
  }

  /// An operator as `list` shows it.
  fileprivate struct Row: Encodable {
    let key, slot, `operator`: String
    let error, standardError, relativeLoss, savedSeconds: Double?
    let steps: Int

    init(_ key: String, _ entry: OperatorLibrary.Entry) {
      (self.key, slot) = (key, entry.slot)
      self.operator =
        OperatorCatalog.descriptor(named: entry.spec.name)?.label(entry.spec) ?? entry.spec.name
      (error, standardError) = (entry.score?.error, entry.score?.standardError)
      (relativeLoss, savedSeconds, steps) = (
        entry.relativeLoss, entry.timing?.saving, entry.recipe.steps
      )
    }
  }

  /// `espalier library list`.
  struct List: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "list", abstract: "List the operators of a model's library.")

    @Argument(help: .init(modelHelp)) var model = "demo"
    @OptionGroup var root: RootOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
      let library = try LibraryCommand.open(model, root)
      let rows = library.entries().map { Row($0.key, $0.entry) }
      if output.json { return try output.printJSON(rows) }
      let widest = rows.map { TextWidth.columns(of: $0.operator) }.max() ?? 0
      let widths = [14, max(14, widest) + 2, 12, 12, 12]
      func line(_ cells: [String]) -> String {
        zip(cells, widths).map { TextWidth.pad($0, $1) }.joined()
      }
      print(line(["slot", "operator", "error", "loss", "saves ms"]))
      for row in rows {
        print(
          line([
            row.slot, row.operator, row.error.map(short) ?? "-", row.relativeLoss.map(short) ?? "-",
            row.savedSeconds.map { short(1000 * $0) } ?? "-",
          ]))
      }
      print(
        "\(rows.count) operators, \(short(Double(library.bytes) / 1e6)) MB in \(library.folder)")
    }
  }

  /// `espalier library show`.
  struct Show: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "show", abstract: "Show what is known of one operator of a library, as JSON.")

    @Argument(help: .init(modelHelp)) var model: String
    @Argument(help: "The slot, such as 7.attention.") var slot: String
    @OptionGroup var root: RootOptions
    @OptionGroup var output: OutputOptions

    func run() throws {
      guard let id = SlotID(slot) else {
        throw ValidationError("'\(slot)' is no slot; give one such as 7.attention")
      }
      let library = try LibraryCommand.open(model, root)
      let entries = library.entries().map(\.entry).filter { $0.slotID == id }
      try output.printJSON(entries)
    }
  }

  /// `espalier library prune`.
  struct Prune: ParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "prune",
      abstract: "Remove the operators with the largest errors until the rest fits a size.")

    @Argument(help: .init(modelHelp)) var model = "demo"
    @Option(help: "10^9 bytes that may stay.") var sizeLimit: Double
    @OptionGroup var root: RootOptions

    func validate() throws {
      guard (0...1e6).contains(sizeLimit) else {
        throw ValidationError("--size-limit is \(sizeLimit); give 0 to 1000000")
      }
    }

    func run() throws {
      let library = try LibraryCommand.open(model, root)
      let removed = library.prune(to: Int(sizeLimit * 1e9))
      print(
        "removed \(removed) operators; \(short(Double(library.bytes) / 1e6)) MB are left in \(library.folder)"
      )
    }
  }

  fileprivate static func open(_ model: String, _ root: RootOptions) throws -> OperatorLibrary {
    OperatorLibrary(
      modelHash: try ModelFiles(model).contentHash(),
      root: root.library.map { URL(filePath: $0).path })
  }
}

/// A plan file, or a model of which an empty plan is made.
struct PlanOrModel {
  let plan: GraftPlan

  init(_ path: String, name: String) throws {
    if path.hasSuffix(".json"), FileManager.default.fileExists(atPath: path) {
      plan = try GraftPlan.load(path: path)
      try plan.check(against: try ModelFiles(plan.model.path), file: path)
    } else {
      plan = GraftPlan(named: name, model: try ModelFiles(path).reference())
    }
  }
}
