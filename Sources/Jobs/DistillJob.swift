import Datasets
import Foundation
import Grafting
import Models
import Plans
import Runs

/// Stage 1 of a plan in a run directory.
///
/// Writes `checkpoints/latest.safetensors` (for resuming), `checkpoints/operators.safetensors` and
/// `checkpoints/model.safetensors`, the grafted model with the plan embedded.
struct DistillJob {
  let context: JobContext
  let planPath: String

  func perform() throws -> String {
    let (plan, files) = try context.plan(at: planPath)
    let settings = plan.stage1
    try context.emit(.started(pid: getpid(), totalSteps: settings.totalSteps))
    let file = files.model
    let teacher = try file.network()
    let data = try context.trainingData(
      plan.data, for: files, teacher: teacher, samples: settings.drawnSamples,
      heldOut: settings.heldOutSamples)
    for note in files.notes { try context.emit(.message(note)) }
    let precision = try context.precision()
    let graft = try Graft(fresh: plan, teacher: teacher)
    graft.use(precision)
    if !context.run.hasBegun { try context.fitInitially(graft, graft.plan.sites, data.training) }
    let distillation = try ActivationDistillation(
      graft: graft, dataset: data.training, heldOut: data.heldOut,
      cache: try activations(of: graft, data.training))
    let training = DistillTraining(distillation: distillation)
    let loop = TrainingLoop(
      context: context, steps: settings.totalSteps, heldOutEvery: settings.heldOutEvery,
      checkpoints: settings.checkpoints,
      rate: ("stage1.learning_rate", settings.learningRate))
    try loop.run(training)
    let best = distillation.restoreBest()
    if !best.isEmpty {
      try loop.measure(training)
      try context.emit(
        .message("kept the best weights of \(best.count) sites by their held-out losses"))
    }
    let finish = try distillation.ridgeFinish { done, total in
      try context.checkpoint(step: settings.totalSteps)
      try context.emit(.progress(done: done, total: total, label: "fitting output layers"))
    }
    if !finish.tried.isEmpty {
      try loop.measure(training)
      try context.emit(
        .message(
          "fitted the output layers of \(finish.tried.count) sites in closed form;"
            + " \(finish.improved.count) have a lower held-out loss so and keep them"))
    }
    let sweep = try distillation.sweep { site, sites, done, total in
      try context.checkpoint(step: settings.totalSteps)
      try context.emit(
        .progress(done: site * total + done, total: sites * total, label: "sweeping front to back"))
    }
    if let (sites, before, after) = sweep {
      try loop.measure(training)
      let change = String(format: "from %.4g to %.4g", before, after)
      try context.emit(
        .message(
          "fitted \(sites) sites from front to back on the graft's own activations; the relative error of its"
            + " output went \(change)\(after < before ? "" : ", so they stay as they were")"))
    }
    let metadata = try file.metadata()
    try context.whenRoom {
      try graft.saveOperators(to: "\(context.run.checkpointsPath)/operators.safetensors")
      try graft.saveModel(
        to: "\(context.run.checkpointsPath)/model.safetensors", teacherMetadata: metadata)
    }
    return "\(settings.totalSteps) steps; grafted model in checkpoints/model.safetensors"
  }

  /// Opens or records the activations of the cached mode; nil in streaming mode.
  private func activations(of graft: Graft, _ dataset: LatentDataset) throws -> ActivationCache? {
    guard graft.plan.stage1.mode == .cached else { return nil }
    var throttle = Throttle()
    return try context.whenRoom {
      try ActivationCache(
        graft: graft, dataset: dataset, folder: try ModelFiles.cacheDirectory()
      ) { done, total in
        try context.checkpoint(step: 0)
        if throttle.isDue() {
          try context.emit(.progress(done: done, total: total, label: "recording activations"))
        }
      }
    }
  }
}

/// Adapter of stage 1 to `Training`.
private final class DistillTraining: Training {
  private let distillation: ActivationDistillation
  private var losses: ActivationDistillation.Losses = [:]

  init(distillation: ActivationDistillation) { self.distillation = distillation }

  var step: Int { distillation.step }

  func takeStep() -> TrainingLoss {
    losses = distillation.trainStep()
    return TrainingLoss(sites: losses)
  }

  var learningRate: LearningRate { LearningRate(sites: distillation.learningRates) }

  var gradientNorm: Double? { distillation.gradientNorm }

  var samplesInStep: Int? { distillation.samplesInStep }

  func heldOut() -> TrainingLoss { TrainingLoss(sites: distillation.heldOutLosses()) }

  func validate(in folder: String) -> TrainingLoss {
    TrainingLoss(sites: distillation.validate())
  }

  func placeOfFailure() -> String? {
    losses.filter { !$0.value.isFinite }.keys.min().map(\.phrase)
  }

  func isSound() -> Bool { distillation.isSound() }

  func faultInData() -> String? { distillation.faultInData() }

  func saveCheckpoint(to path: String) throws { try distillation.saveCheckpoint(to: path) }

  func resume(from path: String) throws { try distillation.resume(from: path) }
}
