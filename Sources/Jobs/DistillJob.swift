import Foundation
import Grafting
import Models
import Plans
import Runs

/// Stage 1 of a plan in a run directory.
///
/// Leaves `checkpoints/latest.safetensors` (from which it resumes), `checkpoints/operators.safetensors`
/// and `checkpoints/model.safetensors`, the grafted model with the plan embedded.
struct DistillJob {
  let context: JobContext
  let planPath: String

  func perform() throws -> String {
    let plan = try GraftPlan.load(path: context.run.resolve(planPath))
    let files = try ModelFiles(plan.model.path)
    try plan.check(against: try files.reference())
    let settings = plan.stage1
    try context.emit(.started(pid: getpid(), totalSteps: settings.steps))
    let data = try TrainingData(
      files, samples: settings.steps * settings.batchSize,
      heldOutSamples: settings.heldOutSamples, context: context)
    let file = try files.open()
    let graft = try Graft(fresh: plan, teacher: try file.load())
    let distillation = try ActivationDistillation(
      graft: graft, dataset: data.training, heldOut: data.heldOut)
    let loop = TrainingLoop(
      context: context, steps: settings.steps, heldOutEvery: settings.heldOutEvery,
      checkpointEvery: settings.checkpointEvery,
      rate: ("stage1.learning_rate", settings.learningRate))
    try loop.run(DistillTraining(distillation: distillation))
    try graft.saveOperators(to: "\(context.run.checkpointsPath)/operators.safetensors")
    try graft.saveModel(
      to: "\(context.run.checkpointsPath)/model.safetensors", teacherMetadata: try file.metadata())
    return "\(settings.steps) steps; grafted model in checkpoints/model.safetensors"
  }
}

/// Stage 1 as a job takes it.
private final class DistillTraining: Training {
  private let distillation: ActivationDistillation
  private var losses: ActivationDistillation.Losses = [:]

  init(distillation: ActivationDistillation) { self.distillation = distillation }

  var step: Int { distillation.step }

  func takeStep() -> TrainingLoss {
    losses = distillation.trainStep()
    return TrainingLoss(sites: losses)
  }

  func heldOut() -> TrainingLoss { TrainingLoss(sites: distillation.heldOutLosses()) }

  func placeOfFailure() -> String? {
    losses.filter { !$0.value.isFinite }.keys.min().map(\.phrase)
  }

  func save(in folder: String) throws {
    try distillation.saveCheckpoint(to: "\(folder)/latest.safetensors")
  }

  func resume(from path: String) throws { try distillation.resume(from: path) }
}
