import ArgumentParser
import Autograd
import Files
import Grafting
import Models
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
  @Option(help: "Graft this plan onto the model, with fresh weights or those of --weights.")
  var plan: String?

  @Option(help: "Operators or checkpoint of a run for --plan.") var weights: String?

  func validate() throws {
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  /// The model of a file, for inference in a precision; with a plan, that plan's graft of it, whose
  /// weights stay in float32 beside those that are multiplied.
  func load(_ files: ModelFiles, forInference precision: Precision) throws -> DiT {
    guard plan != nil else { return try files.open().load(forInference: precision) }
    let model = try load(files.name, try files.open()).model
    model.parameters.use(precision)
    return model
  }

  /// The model of an open file and its metadata; with a plan, that plan's graft of it.
  ///
  /// - Parameters:
  ///   - name: The model's name, for the plan.
  ///   - file: Its file.
  /// - Returns: The network, and the metadata of a file of it.
  /// - Throws: `PlanError` for a plan of another model, `FileError` for weights of another plan.
  func load(_ name: String, _ file: DiTFile) throws -> (
    model: DiT, metadata: [String: String]
  ) {
    let (teacher, metadata) = (try file.load(), try file.metadata())
    guard let plan else { return (teacher, metadata) }
    let loaded = try GraftPlan.load(path: plan, for: try ModelFiles(name))
    let graft = try Graft(plan: loaded, teacher: teacher, checkpoints: weights.map { [$0] } ?? [])
    if let weights, let site = graft.untrained.first {
      throw FileError(
        "\(weights): holds no trained weights of \(site.phrase) as \(plan) has it; "
          + "give the checkpoint of a run of this plan, or leave out --weights for fresh ones")
    }
    return (graft.model, try graft.metadata(teacher: metadata))
  }
}
