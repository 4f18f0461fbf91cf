import ArgumentParser
import Files
import Foundation
import Models
import Plans
import Runs

/// `espalier finetune`: stage 2 of a plan in a worker process.
struct FinetuneCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "finetune",
    abstract: "Finetune the grafted model of a plan end to end (stage 2) in a background worker.",
    discussion: """
      Settings are the plan's section stage2. The result is checkpoints/model.safetensors in the run. \
      The worker goes on if this command dies. Ctrl-C asks it to save a checkpoint and stop; \
      --detach returns at once, --queue lets it wait for its turn. With --after and without --from it \
      takes the weights that the runs before it have left when it begins, so that both stages can be \
      queued in one go.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(
    help: .init(
      "Take the weights of a run (id, unique beginning or path) or file; may be repeated, the last one"
        + " that trained a slot wins (default: fresh operators).", valueName: "run|file"))
  var from: [String] = []
  @Option(help: "\(DataSettings.help) (default: the plan's).") var data: String?
  @OptionGroup var launch: LaunchOptions
  @OptionGroup var runs: RunsOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    var loaded = try GraftPlan.load(path: plan)
    if let data { try loaded.train(on: data) }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    let before = try launch.runsBefore(root: runs.root)
    let sources = from.isEmpty ? before.map(Source.run) : try from.map(source)
    let weights = try sources.map { source in
      switch source {
      case .file(let path): path
      // The weights of a run that must be done first are resolved when this run starts.
      case .run(let run): before.contains(run) ? run.id : try run.trainedWeights()
      }
    }
    for case .run(let run) in sources { warnOfOtherData(run, than: loaded) }
    try launch.launch(
      .finetune(planPath: "plan.json", weights: weights), plan: loaded, root: runs.root,
      output: output)
  }

  /// Source of weights.
  private enum Source {
    /// The absolute path of a file.
    case file(String)
    case run(RunDirectory)
  }

  /// Parses a value of `--from`.
  private func source(_ name: String) throws -> Source {
    var isDirectory: ObjCBool = false
    let exists = FileManager.default.fileExists(atPath: name, isDirectory: &isDirectory)
    if exists, !isDirectory.boolValue {
      return .file(AtomicFile.absolute(name))
    }
    let isRun = !name.contains("/") && !RunSelection.matches(of: name, root: runs.root).isEmpty
    guard exists || isRun else {
      throw FileError(
        "--from: '\(name)' is neither a file nor a run in \(runs.root); give the path of a checkpoint,"
          + " or a run that 'espalier runs' lists")
    }
    return .run(try RunSelection.find(name, root: runs.root))
  }

  /// Warns if operators were trained on other data than those of the plan.
  private func warnOfOtherData(_ run: RunDirectory, than plan: GraftPlan) {
    guard let trained = try? GraftPlan.load(path: run.planPath),
      trained.data?.path != plan.data?.path
    else { return }
    func name(_ data: DataSettings?) -> String { data?.path ?? "the procedural images" }
    printToStandardError(
      "espalier: warning: \(run.path) was trained on \(name(trained.data)), this run takes"
        + " \(name(plan.data)); --data \(trained.data?.path ?? "shapes") takes the same\n")
  }
}
