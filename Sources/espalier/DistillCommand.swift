import ArgumentParser
import Models
import Plans
import Runs

/// `espalier distill`: stage 1 of a plan in a worker process.
struct DistillCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "distill",
    abstract:
      "Distil the replaced operators and parallel blocks of a plan (stage 1) in a background worker.",
    discussion: """
      The worker goes on if this command dies. Ctrl-C asks it to save a checkpoint and stop; \
      --detach returns at once, --queue lets it wait for its turn.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(help: "\(DataSettings.help) (default: the plan's).") var data: String?
  @OptionGroup var launch: LaunchOptions
  @OptionGroup var runs: RunsOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    var loaded = try GraftPlan.load(path: plan)
    if let data { try loaded.train(on: data) }
    try naming(plan) { () throws(PlanError) in try loaded.requireChanges() }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    try launch.launch(
      .distill(planPath: "plan.json"), plan: loaded, root: runs.root, output: output)
  }
}
