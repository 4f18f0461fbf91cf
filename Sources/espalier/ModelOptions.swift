import ArgumentParser
import Autograd
import Files
import Foundation
import Grafting
import Models
import OfficialFormat
import Plans
import TensorCore

/// Which model commands sample and evaluate draw from.
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

  @Option(help: "Operators, checkpoint or grafted model of a run for --plan.") var weights: String?

  func validate() throws {
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  /// The model for inference in a precision, as `load` gives it; the weights of a plan's graft stay in
  /// float32 beside those that are multiplied.
  func load(_ files: ModelFiles, forInference precision: Precision) throws -> DiT {
    files.printNotes()
    guard plan != nil else { return try files.model.load(forInference: precision) }
    let model = try load(files).model
    model.parameters.use(precision)
    return model
  }

  /// The model and its metadata: of a pretrained model with a plan, that plan's graft of it; of a graft
  /// without a plan of its own, the graft with the settings of the plan.
  ///
  /// - Throws: `PlanError` for a plan of another model, `FileError` for weights of another plan.
  func load(_ files: ModelFiles) throws -> (model: DiT, metadata: [String: String]) {
    let metadata = try files.model.metadata()
    guard let plan else { return (try files.model.load(), metadata) }
    if files.model.isGraft, files.model.plan == nil {
      guard weights == nil else {
        throw ValidationError(
          "--weights belongs to a pretrained model; \(files.modelPath) is a graft")
      }
      let described = try describedPlan(plan, of: files.model)
      return (
        try files.model.load(changes: described.changes),
        try metadata.merging(DiTFile.metadata(of: described)) { $1 }
      )
    }
    let loaded =
      Self.isYAML(plan)
      ? try OfficialGraft(path: plan, shape: files.model.config)
        .plan(named: plan, model: try files.reference())
      : try GraftPlan.load(path: plan, for: files)
    let graft = try Graft(
      plan: loaded, teacher: try files.model.load(), checkpoints: weights.map { [$0] } ?? [])
    if let weights, let site = graft.untrained.first {
      throw FileError(
        "\(weights): holds no trained weights of \(site.phrase) as \(plan) has it; "
          + "give the checkpoint of a run of this plan, or leave out --weights for fresh ones")
    }
    return (graft.model, try graft.metadata(teacher: metadata))
  }

  private static func isYAML(_ path: String) -> Bool {
    [".yaml", ".yml"].contains(where: path.hasSuffix)
  }

  /// The plan that a graft was made with, held against what its weights show.
  private func describedPlan(_ path: String, of file: DiTFile) throws -> GraftPlan {
    // Nothing in the file tells its teacher.
    let teacher = ModelReference(
      path: file.config.publishedName ?? "unknown", shape: file.config, contentHash: "unknown")
    let plan =
      Self.isYAML(path)
      ? try OfficialGraft(path: path, shape: file.config).plan(named: path, model: teacher)
      : try GraftPlan.load(path: path)
    let found = Set(file.changes.edits.keys)
    let wrong = found.symmetricDifference(plan.edits.keys)
      .union(plan.edits.filter { !file.has($0.value, at: $0.key) }.keys).min()
    guard wrong == nil, Set(plan.parallel.keys) == Set(file.changes.parallel.keys) else {
      let place = wrong.map { "in \($0)" } ?? "in its parallel blocks"
      throw PlanError(
        key: wrong.map { "\($0)" },
        "\(file.path) differs from the plan \(path) \(place), where its weights show"
          + " \(wrong.flatMap { file.changes.edits[$0]?.name } ?? "the pretrained operator");"
          + " give the plan that the graft was made with")
    }
    return plan
  }
}

extension ModelFiles {
  /// Tells on standard error what had to be assumed of a model.
  func printNotes() {
    for note in notes { printToStandardError("espalier: note: \(note)\n") }
  }
}
