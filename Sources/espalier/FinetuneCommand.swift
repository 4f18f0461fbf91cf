import ArgumentParser
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

      A run provides the weights of a slot if it trained the same model, by content, and its recorded plan \
      has the same operator with the same settings there. Before anything starts, standard error says how \
      many replaced slots have weights, and which start fresh.
      """)

  @Argument(help: "The plan file.") var plan: String
  @Option(
    help: .init(
      "Take the weights of a run (id, unique beginning or path) or file; may be repeated, the last one"
        + " that trained a slot wins; \(WeightSource.matching): of the runs that trained the same operators"
        + " (default: fresh operators).", valueName: "run|file"))
  var from: [String] = []
  @OptionGroup var mixture: MixtureOptions
  @Option(help: "\(DataSettings.help) (default: the plan's).") var data: String?
  @OptionGroup var launch: LaunchOptions
  @OptionGroup var runs: RunsOptions
  @OptionGroup var output: OutputOptions

  func run() throws {
    var loaded = try GraftPlan.load(path: plan)
    if let data { try loaded.train(on: data) }
    try loaded.check(against: try ModelFiles(loaded.model.path), file: plan)
    let before = try launch.runsBefore(root: runs.root)
    var sources = try from.filter { $0 != WeightSource.matching }.map {
      try WeightSource($0, option: "--from", root: runs.root)
    }
    if from.isEmpty { sources = before.map(WeightSource.run) }
    var known: PlanWeights?
    if from.contains(WeightSource.matching) {
      guard from.count == 1 else {
        throw ValidationError("--from \(WeightSource.matching) excludes other values of --from")
      }
      let matching = PlanWeights(matching: loaded, root: runs.root)
      sources = try matching.runs.map { .run(try RunSelection.find($0, root: runs.root)) }
      known = matching
    } else {
      known = try PlanWeights.of(loaded, sources, expecting: !before.isEmpty)
    }
    if let known { try mixture.requireConsent(to: known, plan: plan) }
    if sources.isEmpty { tellOfUnused(PlanWeights(matching: loaded, root: runs.root)) }
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
      output: output, origins: known?.origins)
  }

  /// Says that there are weights which nobody asked for.
  private func tellOfUnused(_ weights: PlanWeights) {
    guard weights.count > 0, from.isEmpty else { return }
    printToStandardError(
      "espalier: note: runs have them: \(weights.summary()); '--from \(WeightSource.matching)' takes"
        + " them\n")
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
