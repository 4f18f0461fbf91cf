import ArgumentParser
import Autograd
import Checkpoints
import Files
import Foundation
import Grafting
import Models
import OfficialFormat
import Plans
import Runs
import TensorCore

/// Model of the commands sample and evaluate.
struct ModelOptions: ParsableArguments {
  @Argument(help: .init(modelHelp + " Also a PixArt model."))
  var model = "demo"
  @OptionGroup var graft: GraftOptions
}

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

  func validate() throws {
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  /// Loads the model for inference in a precision; the weights of a plan's graft are also kept in
  /// float32.
  func load(_ files: ModelFiles, forInference precision: Precision) throws -> DiT {
    guard plan != nil else {
      files.printNotes()
      return try files.model.load(forInference: precision)
    }
    let model = try load(files).model
    model.parameters.use(precision)
    return model
  }

  /// Loads the model and its metadata: for a pretrained model with a plan, its graft; for a graft
  /// without a plan in its file, the graft with the settings of the given plan.
  ///
  /// - Throws: `PlanError` for a plan of another model, `FileError` for weights of another plan.
  func load(_ files: ModelFiles) throws -> (model: DiT, metadata: [String: String]) {
    let (file, metadata) = (files.model, try files.model.metadata())
    guard let path = plan else {
      files.printNotes()
      return (try file.load(), metadata)
    }
    // A YAML file and a graft without a plan do not name the teacher.
    let unknown = ModelReference(
      path: file.config.publishedName ?? "unknown", shape: file.config, contentHash: "unknown")
    let isYAML = [".yaml", ".yml"].contains(where: path.hasSuffix)
    var plan =
      isYAML
      ? try OfficialGraft(path: path, shape: file.config).plan(named: path, model: unknown)
      : try GraftPlan.load(path: path)
    if file.plan == nil, try isGraft(files, of: isYAML ? nil : plan) {
      guard weights == nil else {
        throw ValidationError("--weights belongs to a pretrained model; \(file.path) is a graft")
      }
      try file.requireAgreement(with: plan, path)
      return (
        try file.load(changes: plan.changes),
        try metadata.merging(DiTFile.metadata(of: plan)) { $1 }
      )
    }
    files.printNotes()
    if isYAML { plan.model = try files.reference() }
    try plan.check(against: files, file: path)
    let checkpoints = try checkpoints(for: plan, path)
    let graft = try Graft(plan: plan, teacher: try file.load(), checkpoints: checkpoints)
    if let weights, !mixture.allowMixture, let site = graft.untrained.first {
      throw FileError(
        "\(weights): holds no trained weights of \(site.phrase) as \(path) has it; "
          + "give the checkpoint of a run of this plan, leave out --weights for fresh ones, or mix them by"
          + " --allow-mixture")
    }
    return (graft.model, try graft.metadata(teacher: metadata))
  }

  /// The files that `weights` names, in order of loading; says what they provide.
  private func checkpoints(for plan: GraftPlan, _ path: String) throws -> [String] {
    guard let weights else { return [] }
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
