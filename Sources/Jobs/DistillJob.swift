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

  /// Largest number of procedural images that stage 1 draws its samples from; a short training
  /// needs no more than it has samples.
  private static let trainingImages = 2048
  /// Seeds of the procedural source: what the model was trained on, and unseen images.
  static let (trainingStream, heldOutStream): (UInt64, UInt64) = (1, 2)

  func perform() throws -> String {
    let path = planPath.hasPrefix("/") ? planPath : "\(context.run.path)/\(planPath)"
    let plan = try GraftPlan.load(path: path)
    let files = try ModelFiles(plan.model.path)
    try plan.check(against: try files.reference())
    let settings = plan.stage1
    try context.emit(.started(pid: getpid(), totalSteps: settings.steps))

    let samples = settings.steps * settings.batchSize
    let dataset = try latents(
      files, Self.trainingStream, count: min(Self.trainingImages, samples), "images")
    let heldOut = try latents(
      files, Self.heldOutStream, count: settings.heldOutSamples, "held-out images")
    let file = try files.open()
    let graft = try Graft(fresh: plan, teacher: try file.load())
    let distillation = try ActivationDistillation(
      graft: graft, dataset: dataset, heldOut: heldOut)
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
    try graft.saveOperators(to: "\(context.run.checkpointsPath)/operators.safetensors")
    try graft.saveModel(
      to: "\(context.run.checkpointsPath)/model.safetensors", teacherMetadata: try file.metadata())
    return "\(settings.steps) steps; grafted model in checkpoints/model.safetensors"
  }

  private func train(
    _ distillation: ActivationDistillation, _ settings: Stage1Settings, checkpoint: String
  ) throws {
    var throttle = Throttle()
    var rate = StepRate()
    while distillation.step < settings.steps {
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
      if throttle.isDue() || step == settings.steps {
        let perSecond = rate.perSecond
        try context.emit(
          .step(
            step: step, total: settings.steps, loss: mean, losses: losses, rate: perSecond,
            secondsLeft: Double(settings.steps - step) / max(perSecond, 1e-9)))
      }
      if step % settings.heldOutEvery == 0 || step == settings.steps {
        try context.emit(.heldOut(step: step, losses: distillation.heldOutLosses()))
      }
      if step % settings.checkpointEvery == 0 { try save(distillation, checkpoint) }
    }
  }

  private func save(_ distillation: ActivationDistillation, _ path: String) throws {
    try distillation.saveCheckpoint(to: path)
    try context.emit(
      .checkpointed(step: distillation.step, path: "checkpoints/latest.safetensors"))
  }

  private func latents(_ files: ModelFiles, _ stream: UInt64, count: Int, _ label: String) throws
    -> LatentDataset
  {
    var throttle = Throttle()
    return try files.latents(stream: stream, count: count) { done in
      try context.checkpoint(step: 0)
      if throttle.isDue() {
        try context.emit(.progress(done: done, total: count, label: "encoding \(label)"))
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
