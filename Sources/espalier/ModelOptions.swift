import ArgumentParser
import Checkpoints
import Files
import Foundation
import Jobs
import Models
import OfficialFormat
import Plans
import Runs

/// Model of the commands sample and evaluate.
struct ModelOptions: ParsableArguments {
  @Argument(help: .init(modelHelp)) var model = "demo"
  @OptionGroup var family: FamilyOption
  @OptionGroup var graft: GraftOptions

  /// Name of the model, with the family if one is given.
  var name: String { family.name(of: model) }
}

/// `--family` of commands that open a model.
struct FamilyOption: ParsableArguments {
  @Option(
    help: .init(
      "The model's family, if the file does not tell: dit, sit, lightningdit or pixart. The same as the name FAMILY:FILE."
    ))
  var family: ModelFamily?

  /// Name of a model of the family.
  func name(of model: String) -> String { family.map { "\($0.rawValue):\(model)" } ?? model }
}

extension ModelFamily: ExpressibleByArgument {}

/// A plan that is grafted onto the model before it is used.
struct GraftOptions: ParsableArguments {
  @Option(
    help: .init(
      "Graft this plan, or YAML of the official repository, onto the model, with fresh weights or those of"
        + " --weights. For a graft without a plan: the plan that it was made with."))
  var plan: String?

  @Option(
    help: .init(
      "Weights for --plan: a run, its operators, checkpoint or grafted model, or \(WeightSource.matching):"
        + " those of the runs that trained the same operators.", valueName: "run|file"))
  var weights: String?
  @OptionGroup var mixture: MixtureOptions
  @OptionGroup var runs: RunsOptions

  @Option(
    help: .init(
      "LoRA adapters to add to the weights, a file or a folder of peft, diffusers or OneTrainer; repeatable."
    ))
  var lora: [String] = []

  @Option(help: "Factor of the scale of every --lora.") var loraScale: Float = 1

  func validate() throws {
    guard loraScale.isFinite else { throw ValidationError("--lora-scale must be a finite number") }
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  /// Describes the model: for a pretrained one with a plan its graft; for a graft without a plan in its file the
  /// graft with the settings of the given plan.
  ///
  /// - Parameters:
  ///   - files: The model.
  ///   - tellsFresh: Whether a note says that all operators are fresh.
  /// - Returns: The model with the files of its weights.
  /// - Throws: `PlanError` for a plan of another model, `FileError` for weights of another plan.
  func model(_ files: ModelFiles, tellsFresh: Bool = true) throws -> SourceModel {
    var source = ModelSource(path: files.name)
    (source.adapters, source.adapterScale) = (
      lora.map { AtomicFile.absolute($0) }, Double(loraScale)
    )
    guard let path = plan else {
      files.printNotes()
      return SourceModel(files, source)
    }
    let file = files.model
    // A YAML file and a graft without a plan do not name the teacher.
    let unknown = ModelReference(
      path: file.shape.publishedName ?? "unknown", shape: file.shape, contentHash: "unknown")
    let isYAML = [".yaml", ".yml"].contains(where: path.hasSuffix)
    var plan =
      isYAML
      ? try OfficialGraft(path: path, shape: file.shape).plan(named: path, model: unknown)
      : try GraftPlan.load(path: path)
    source.planPath = "plan.json"
    if file.plan == nil, try isGraft(files, of: isYAML ? nil : plan) {
      guard weights == nil else {
        throw ValidationError("--weights belongs to a pretrained model; \(file.path) is a graft")
      }
      try file.requireAgreement(with: plan, path)
      source.isBareGraft = true
      return SourceModel(files, source, plan: plan)
    }
    files.printNotes()
    if isYAML { plan.model = try files.reference() }
    try plan.check(against: files, file: path)
    source.weights = try checkpoints(for: plan, path, tellsFresh: tellsFresh).map {
      AtomicFile.absolute($0)
    }
    source.allowsFresh = mixture.allowMixture || source.weights.isEmpty
    return SourceModel(files, source, plan: plan, checkpoints: source.weights)
  }

  /// The files that `weights` names, in order of loading; says what they provide.
  private func checkpoints(
    for plan: GraftPlan, _ path: String, tellsFresh: Bool
  ) throws -> [String] {
    guard let weights else {
      let fresh = PlanWeights(of: plan, named: [])
      if tellsFresh, !fresh.sites.isEmpty {
        printToStandardError(
          "espalier: note: \(fresh.sentence()), untrained; --weights takes those of a training\n")
      }
      return []
    }
    let sources: [WeightSource]
    if weights == WeightSource.matching {
      let matching = PlanWeights(matching: plan, root: runs.root)
      guard !matching.sources.isEmpty else {
        throw FileError(
          "--weights: no run in \(runs.root) trained an operator as \(path) has it; distil the plan, or"
            + " leave --weights out for fresh ones")
      }
      sources = try matching.runs.map { .run(try RunSelection.find($0, root: runs.root)) }
    } else {
      sources = [try WeightSource(weights, option: "--weights", root: runs.root)]
    }
    if sources.contains(where: { if case .run = $0 { true } else { false } }),
      let known = try PlanWeights.of(plan, sources)
    {
      try mixture.requireConsent(to: known, plan: path)
    }
    return try sources.map { source in
      switch source {
      case .file(let path): path
      case .run(let run): try run.trainedWeights()
      }
    }
  }

  /// Whether a file without a plan is a graft instead of a teacher.
  ///
  /// A self-graft has the tensors of its teacher; it is detected by the layout of the released
  /// grafts, a state dict under `ema` only, or because it is not the model of the plan.
  private func isGraft(_ files: ModelFiles, of plan: GraftPlan?) throws -> Bool {
    let tensors = files.model.tensors
    if files.model.isGraft || StateDict.topLevelKeys(of: tensors.file) == ["ema"] { return true }
    guard let plan, !plan.edits.isEmpty,
      plan.edits.allSatisfy({ files.model.has($0.value, at: $0.key) })
    else { return false }
    return plan.model.contentHash != (try files.contentHash())
  }
}

extension ModelFiles {
  /// Prints assumptions about a model to standard error.
  func printNotes() {
    for note in notes { printToStandardError("espalier: note: \(note)\n") }
  }
}
