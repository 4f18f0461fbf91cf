import Files
import Foundation
import Grafting
import Models
import Plans
import Runs

/// Stage 2 of a plan in a run directory.
///
/// Writes `checkpoints/latest.safetensors` (for resuming) and, at every checkpoint,
/// `checkpoints/model.safetensors`: the grafted model with averaged weights and the plan embedded;
/// if the plan keeps the best, also `checkpoints/best.safetensors`, the model with the lowest
/// held-out loss.
struct FinetuneJob {
  let context: JobContext
  let planPath: String
  let weights: [String]

  func perform() throws -> String {
    let (plan, files) = try context.plan(at: planPath)
    let settings = plan.stage2
    try context.emit(.started(pid: getpid(), totalSteps: settings.steps))
    let file = files.model
    let teacher = try file.network()
    let data = try context.trainingData(
      plan.data, for: files, teacher: teacher, samples: settings.steps * settings.batchSize,
      heldOut: settings.heldOutSamples)
    for note in files.notes { try context.emit(.message(note)) }
    let precision = try context.precision()
    let graft = try graft(plan, teacher: teacher)
    graft.use(precision)
    if !context.run.hasBegun { try context.fitInitially(graft, graft.untrained, data.training) }
    let finetuning = try Finetuning(
      graft: graft, dataset: data.training, heldOut: data.heldOut)
    let loop = TrainingLoop(
      context: context, steps: settings.steps, heldOutEvery: settings.heldOutEvery,
      checkpoints: settings.checkpoints,
      rate: ("stage2.learning_rate", settings.learningRate))
    try loop.run(
      FinetuneTraining(
        finetuning: finetuning, batchSize: settings.batchSize,
        teacherMetadata: try file.metadata()))
    let best = finetuning.lowestHeldOutLoss.map {
      " (the best, with held-out loss \(String(format: "%.4g", $0)), in checkpoints/best.safetensors)"
    }
    return "\(settings.steps) steps; finetuned model in checkpoints/model.safetensors\(best ?? "")"
  }

  /// Builds the graft with the initial weights of the run; a resumed run loads its checkpoint.
  private func graft(_ plan: GraftPlan, teacher: any DiffusionTransformer) throws -> Graft {
    if context.run.hasBegun { return try Graft(fresh: plan, teacher: teacher) }
    let weights = try weights.map(context.run.weightsPath)
    let graft = try Graft(plan: plan, teacher: teacher, checkpoints: weights)
    guard weights.isEmpty || plan.isEmpty || graft.untrained.count < plan.sites.count else {
      throw FileError(
        "\(weights.joined(separator: ", ")): no operator in it was trained as the plan has it; give the"
          + " checkpoint of a run of this plan")
    }
    try context.report(untrained: graft.untrained)
    return graft
  }
}

/// Adapter of stage 2 to `Training`.
private final class FinetuneTraining: Training {
  private let finetuning: Finetuning
  private let teacherMetadata: [String: String]
  let samplesInStep: Int?
  private(set) var gradientNorm: Double?

  init(finetuning: Finetuning, batchSize: Int, teacherMetadata: [String: String]) {
    (self.finetuning, samplesInStep) = (finetuning, batchSize)
    self.teacherMetadata = teacherMetadata
  }

  var step: Int { finetuning.step }

  func takeStep() -> TrainingLoss {
    let report = finetuning.trainStep()
    gradientNorm = report.gradientNorm
    // A step with a non-finite gradient was skipped too.
    return TrainingLoss(report.gradientNorm.isFinite ? report.loss : .nan)
  }

  var learningRate: LearningRate { LearningRate(finetuning.learningRate) }

  func heldOut() -> TrainingLoss { TrainingLoss(finetuning.heldOutLoss()) }

  func validate(in folder: String) throws -> TrainingLoss {
    let loss = finetuning.heldOutLoss()
    try finetuning.keepBest(
      loss, at: "\(folder)/best.safetensors", teacherMetadata: teacherMetadata)
    return TrainingLoss(loss)
  }

  func placeOfFailure() -> String? { finetuning.firstNonFinitePlace() }

  func isSound() -> Bool { finetuning.isSound() }

  func faultInData() -> String? { finetuning.faultInData() }

  func saveResults(in folder: String) throws {
    try finetuning.saveModel(to: "\(folder)/model.safetensors", teacherMetadata: teacherMetadata)
  }

  func saveCheckpoint(to path: String) throws { try finetuning.saveCheckpoint(to: path) }

  func resume(from path: String) throws { try finetuning.resume(from: path) }
}
