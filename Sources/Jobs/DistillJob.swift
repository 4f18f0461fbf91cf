import Checkpoints
import Foundation
import Grafting
import Models
import Plans
import Runs
import TensorCore

/// Stage 1 of a plan in a run directory.
///
/// Leaves `checkpoints/latest.safetensors` (from which it resumes), `checkpoints/operators.safetensors`
/// and `checkpoints/model.safetensors`, the grafted model with the plan embedded.
struct DistillJob {
  let context: JobContext
  let planPath: String

  func perform() throws -> String {
    let path = planPath.hasPrefix("/") ? planPath : "\(context.run.path)/\(planPath)"
    let plan = try GraftPlan.load(path: path)
    let files = try ModelFiles(plan.model.path)
    try plan.check(against: try files.reference())
    let settings = plan.stage1
    try context.emit(.started(pid: getpid(), totalSteps: settings.totalSteps))

    let data = try trainingData(plan, files)
    let file = try files.open()
    let graft = try Graft(fresh: plan, teacher: try file.load())
    let distillation = try ActivationDistillation(
      graft: graft, dataset: data.training, heldOut: data.heldOut,
      cache: try activations(of: graft, data.training))
    let checkpoint = "\(context.run.checkpointsPath)/latest.safetensors"
    if FileManager.default.fileExists(atPath: checkpoint) {
      try distillation.resume(from: checkpoint)
      try context.emit(.message("resumed at step \(distillation.step) from its last checkpoint"))
    } else {
      try context.emit(.heldOut(step: 0, losses: distillation.heldOutLosses()))
    }

    do {
      try train(distillation, settings, checkpoint: checkpoint)
    } catch JobInterruption.cancelled {
      try save(distillation, checkpoint)
      throw JobInterruption.cancelled
    }
    try save(distillation, checkpoint)
    if settings.keepsBest {
      let best = distillation.restoreBest()
      try context.emit(.heldOut(step: distillation.step, losses: distillation.heldOutLosses()))
      try context.emit(
        .message("kept the best weights of \(best.count) slots by their held-out losses"))
    }
    try graft.saveOperators(to: "\(context.run.checkpointsPath)/operators.safetensors")
    try graft.saveModel(
      to: "\(context.run.checkpointsPath)/model.safetensors", teacherMetadata: try file.metadata())
    return "\(settings.totalSteps) steps; grafted model in checkpoints/model.safetensors"
  }

  private func train(
    _ distillation: ActivationDistillation, _ settings: Stage1Settings, checkpoint: String
  ) throws {
    var throttle = Throttle()
    var rate = StepRate()
    while distillation.step < settings.totalSteps {
      try context.checkpoint(step: distillation.step)
      rate.begin()
      let losses = distillation.trainStep()
      rate.end()
      let step = distillation.step
      let mean = losses.isEmpty ? 0 : losses.values.reduce(0, +) / Double(losses.count)
      guard mean.isFinite else {
        let slot = losses.filter { !$0.value.isFinite }.keys.sorted().first
        throw PretrainingError(
          "step \(step): the loss of slot \(slot?.description ?? "?") is not a number; "
            + "start again with a lower learning rate than \(settings.learningRate)")
      }
      if throttle.isDue() || step == settings.totalSteps {
        let perSecond = rate.perSecond
        try context.emit(
          .step(
            step: step, total: settings.totalSteps, loss: mean, losses: losses, rate: perSecond,
            secondsLeft: Double(settings.totalSteps - step) / max(perSecond, 1e-9)))
      }
      if step % settings.heldOutEvery == 0 || step == settings.totalSteps {
        try context.emit(.heldOut(step: step, losses: distillation.validate()))
      }
      if step % settings.checkpointEvery == 0 { try save(distillation, checkpoint) }
    }
  }

  private func save(_ distillation: ActivationDistillation, _ path: String) throws {
    try distillation.saveCheckpoint(to: path)
    try context.emit(
      .checkpointed(step: distillation.step, path: "checkpoints/latest.safetensors"))
  }

  /// Opens the plan's data and tells of images that are left out.
  private func trainingData(_ plan: GraftPlan, _ files: ModelFiles) throws -> TrainingData {
    var throttle = Throttle()
    let data = try TrainingData(
      plan.data, for: files, samples: plan.stage1.drawnSamples,
      heldOut: plan.stage1.heldOutSamples
    ) { done, total, label in
      try context.checkpoint(step: 0)
      if throttle.isDue() {
        try context.emit(.progress(done: done, total: total, label: label))
      }
    }
    if !data.skipped.isEmpty {
      let list = data.skipped.joined(separator: "\n") + "\n"
      try AtomicFile.write(Data(list.utf8), to: "\(context.run.path)/skipped.txt")
      try context.emit(
        .message("\(data.skipped.count) images cannot be read and are left out, see skipped.txt"))
    }
    return data
  }

  /// The recorded activations of the cached mode, made now unless an earlier run has.
  private func activations(of graft: Graft, _ dataset: LatentDataset) throws -> ActivationCache? {
    guard graft.plan.stage1.mode == .cached else { return nil }
    var throttle = Throttle()
    return try ActivationCache(
      graft: graft, dataset: dataset, folder: try ModelFiles.cacheDirectory()
    ) { done, total in
      try context.checkpoint(step: 0)
      if throttle.isDue() {
        try context.emit(.progress(done: done, total: total, label: "recording activations"))
      }
    }
  }
}

/// Steps per second, smoothed, pauses left out.
private struct StepRate {
  private var start = Date()
  private var seconds = 0.0
  private var steps = 0.0

  mutating func begin() { start = Date() }

  mutating func end() {
    let elapsed = Date().timeIntervalSince(start)
    seconds = 0.9 * seconds + elapsed
    steps = 0.9 * steps + 1
  }

  var perSecond: Double { seconds > 0 ? steps / seconds : 0 }
}
