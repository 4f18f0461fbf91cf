import ArgumentParser
import Foundation
import Grafting
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
  @OptionGroup var launch: LaunchOptions
  @OptionGroup var runs: RunsOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    let loaded = try GraftPlan.load(path: plan)
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    let before = try launch.runsBefore(root: runs.root)
    let weights = try from.map { try Self.weights(of: $0, root: runs.root, later: before) }
    try launch.launch(
      .finetune(
        planPath: "plan.json", weights: from.isEmpty ? before.map(\.id) : weights),
      plan: loaded, root: runs.root, output: output)
  }

  /// The absolute path of a file, or of the newest weights of a run; the id of a run that must be done
  /// before, whose weights are found when the run begins.
  private static func weights(
    of name: String, root: String, later: [RunDirectory]
  ) throws -> String {
    var isDirectory: ObjCBool = false
    if FileManager.default.fileExists(atPath: name, isDirectory: &isDirectory),
      !isDirectory.boolValue
    {
      return URL(fileURLWithPath: name).standardizedFileURL.path
    }
    let run = try RunSelection.find(name, root: root)
    return later.contains(run) ? run.id : try run.trainedWeights()
  }
}
