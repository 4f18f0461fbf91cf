import ArgumentParser
import Checkpoints
import Grafting
import Models
import Plans

/// Which model commands sample and evaluate draw from.
struct ModelOptions: ParsableArguments {
  @Argument(help: .init(modelHelp + " Also a PixArt model."))
  var model = "demo"

  @Option(help: "Graft this plan onto the model, with fresh weights or those of --weights.")
  var plan: String?

  @Option(help: "Operators or checkpoint of a run for --plan.") var weights: String?

  func validate() throws {
    if weights != nil, plan == nil { throw ValidationError("--weights needs --plan") }
  }

  /// The model of a file; with a plan, that plan's graft of it.
  func load(_ files: ModelFiles) throws -> DiT {
    let teacher = try files.open().load()
    guard let plan else { return teacher }
    let loaded = try GraftPlan.load(path: plan, for: files)
    let graft = try Graft(plan: loaded, teacher: teacher, checkpoints: weights.map { [$0] } ?? [])
    if let weights, let slot = graft.freshSlots.first {
      throw CheckpointError(
        "\(weights): holds no trained operator of slot \(slot) as \(plan) has it; "
          + "give the checkpoint of a run of this plan, or leave out --weights for fresh ones")
    }
    return graft.model
  }
}
