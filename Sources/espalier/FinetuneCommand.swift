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
      --detach returns at once.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(
    help: .init(
      "Take the weights of a run (id, unique beginning or path) or file; may be repeated, the last one"
        + " that trained a slot wins (default: fresh operators).", valueName: "run|file"))
  var from: [String] = []
  @OptionGroup var runs: RunsOptions
  @Flag(help: "Start the worker and return; follow it with 'espalier runs'.") var detach = false
  @OptionGroup var output: OutputOptions

  func run() throws {
    let loaded = try GraftPlan.load(path: plan)
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    let weights = try from.map { try Self.weights(of: $0, root: runs.root) }
    try RunReport.launch(
      .finetune(planPath: "plan.json", weights: weights), plan: loaded, root: runs.root,
      detach: detach, output: output)
  }

  /// The absolute path of a file, or of the newest weights of a run.
  private static func weights(of name: String, root: String) throws -> String {
    var isDirectory: ObjCBool = false
    if FileManager.default.fileExists(atPath: name, isDirectory: &isDirectory),
      !isDirectory.boolValue
    {
      return URL(fileURLWithPath: name).standardizedFileURL.path
    }
    return try RunSelection.find(name, root: root).trainedWeights()
  }
}
