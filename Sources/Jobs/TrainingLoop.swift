import Dispatch
import Files
import Foundation
import Plans
import Runs

/// Resumable training, run step by step by a job.
package protocol Training {
  /// Number of steps taken.
  var step: Int { get }

  /// Takes one step and returns the losses before it.
  func takeStep() -> TrainingLoss

  /// Learning rate of the last step.
  var learningRate: LearningRate { get }

  /// Norm of the whole gradient of the last step, before clipping; nil if it is not known.
  var gradientNorm: Double? { get }

  /// Number of samples of the last step; nil if it is not known.
  var samplesInStep: Int? { get }

  /// Measures the held-out losses.
  func heldOut() -> TrainingLoss

  /// Measures the held-out losses, and updates plateau schedules and the best weights, which may be
  /// written to a folder.
  func validate(in folder: String) throws -> TrainingLoss

  /// Location of the first non-finite value of the last step, if known.
  func placeOfFailure() -> String?

  /// Returns a sentence about non-finite samples of the last step; nil if there are none.
  func faultInData() -> String?

  /// Whether losses and gradients of a few samples are finite; checked before a checkpoint is
  /// written.
  func isSound() -> Bool

  /// Writes the results of the current step, other than the checkpoint, to a folder.
  func saveResults(in folder: String) throws

  /// Writes the checkpoint that `resume` reads.
  func saveCheckpoint(to path: String) throws

  /// Resumes from a checkpoint.
  func resume(from path: String) throws
}

extension Training {
  /// Unknown.
  package var gradientNorm: Double? { nil }

  /// Unknown.
  package var samplesInStep: Int? { nil }

  /// Measures the held-out losses only.
  package func validate(in folder: String) throws -> TrainingLoss { heldOut() }

  /// Writes nothing.
  package func saveResults(in folder: String) throws {}
}

extension CheckpointPolicy {
  /// Whether a checkpoint is due after a step, `elapsed` seconds after the last one.
  func isDue(after step: Int, seconds elapsed: Double) -> Bool {
    step % every == 0 || minutes > 0 && elapsed >= minutes * 60
  }

  /// Removes kept checkpoints beyond the limit, to make room for a new one.
  func removeSurplus(before step: Int, in run: RunDirectory) {
    let kept = run.keptSteps
    // Checkpoints of later steps are obsolete after a retry from an earlier step.
    let surplus = kept.filter { $0 >= step } + kept.filter { $0 < step }.dropLast(keepLast - 1)
    for step in surplus {
      try? FileManager.default.removeItem(atPath: run.checkpointPath(ofStep: step))
    }
  }
}

/// Loss of a training and, in stage 1, the losses by site.
package struct TrainingLoss {
  /// Loss of the whole model, or the mean over the sites.
  package private(set) var whole: Double
  /// Losses by site.
  package private(set) var sites: [GraftSite: Double] = [:]

  /// Makes a loss of the whole model.
  package init(_ whole: Double) { self.whole = whole }

  /// Makes losses of sites and computes their mean.
  package init(sites: [GraftSite: Double]) {
    self.sites = sites
    let sum = sites.sorted { $0.key < $1.key }.reduce(0) { $0 + $1.value }
    whole = sites.isEmpty ? 0 : sum / Double(sites.count)
  }
}

/// Runs a training in a run directory with events, checkpoints, pausing and cancellation.
package struct TrainingLoop {
  private let context: JobContext
  private let steps, heldOutEvery: Int
  private let checkpoints: CheckpointPolicy
  private let rate: (key: String, value: Double)
  private let clock: () -> Double

  /// Step and time of the last checkpoint.
  private struct Saved {
    var step: Int?
    var time: Double
  }

  /// Makes a loop.
  ///
  /// - Parameters:
  ///   - context: The run.
  ///   - steps: Total number of steps.
  ///   - heldOutEvery: Steps between measurements of the held-out loss.
  ///   - checkpoints: Checkpoint policy.
  ///   - rate: The plan's highest learning rate with its key, for error messages.
  ///   - clock: Monotonic time in seconds.
  package init(
    context: JobContext, steps: Int, heldOutEvery: Int, checkpoints: CheckpointPolicy,
    rate: (key: String, value: Double),
    clock: @escaping () -> Double = { Throttle.uptime() }
  ) {
    self.context = context
    (self.steps, self.heldOutEvery, self.checkpoints) = (steps, heldOutEvery, checkpoints)
    self.rate = rate
    self.clock = clock
  }

  /// Trains from the last checkpoint, or from the start, to the end, and saves.
  ///
  /// - Throws: `JobInterruption`, after a checkpoint if the disk has space; `FileError` for a
  ///   non-finite loss, without a checkpoint.
  package func run(_ training: some Training) throws {
    let path = context.run.latestPath
    var saved = Saved(step: nil, time: clock())
    if FileManager.default.fileExists(atPath: path) {
      try training.resume(from: path)
      saved.step = training.step
      try context.emit(.message("resumed at step \(training.step) from its last checkpoint"))
    } else {
      try measure(training)
    }
    do {
      try advance(training, &saved)
    } catch let interruption as JobInterruption {
      try save(training, &saved)
      throw interruption
    }
    try save(training, &saved)
  }

  private func advance(_ training: some Training, _ saved: inout Saved) throws {
    var (throttle, announcing) = (Throttle(clock: clock), Throttle(clock: clock))
    var speed = StepRate(clock: clock)
    while training.step < steps {
      try context.checkpoint(step: training.step)
      speed.begin()
      let loss = training.takeStep()
      speed.end(samples: training.samplesInStep ?? 0)
      let step = training.step
      guard loss.whole.isFinite else { throw failure(training, saved: saved.step) }
      if throttle.isDue() || step == steps {
        let perSecond = speed.perSecond
        try context.emit(
          .step(
            step: step, total: steps, loss: loss.whole, losses: loss.sites, rate: perSecond,
            secondsLeft: Double(steps - step) / max(perSecond, 1e-9),
            learningRate: training.learningRate, measures: measures(training, speed)))
      }
      if step % heldOutEvery == 0 || step == steps {
        let folder = context.run.checkpointsPath
        if announcing.isDue() { try announceMeasuring(step) }
        try report(try context.whenRoom { try training.validate(in: folder) }, step: step)
      }
      if checkpoints.isDue(after: step, seconds: clock() - saved.time) {
        try save(training, &saved)
      }
    }
  }

  /// Measures of the last step other than its losses.
  private func measures(_ training: some Training, _ speed: StepRate) -> [StepMeasure: Double] {
    var measures: [StepMeasure: Double] = [:]
    measures[.gradientNorm] = training.gradientNorm
    measures[.samplesPerSecond] = training.samplesInStep.map { _ in speed.samplesPerSecond }
    measures[.residentMemory] = StepMeasure.ownResidentMemory()
    return measures
  }

  /// Measures and emits the held-out losses.
  package func measure(_ training: some Training) throws {
    try announceMeasuring(training.step)
    try report(training.heldOut(), step: training.step)
  }

  private func announceMeasuring(_ step: Int) throws {
    try context.emit(
      .progress(done: step, total: steps, label: "measuring at step"))
  }

  private func report(_ loss: TrainingLoss, step: Int) throws {
    try context.emit(
      .heldOut(step: step, loss: loss.sites.isEmpty ? loss.whole : nil, losses: loss.sites))
  }

  /// Writes a checkpoint of the current step unless there is one.
  ///
  /// The checkpoint is written last: after an earlier failure the run resumes from the previous
  /// one, which was linked under the name of its step while it was the latest.
  private func save(_ training: some Training, _ saved: inout Saved) throws {
    let (step, before, run) = (training.step, saved.step, context.run)
    guard before != step else { return }
    guard training.isSound() else {
      throw failure(training, saved: before, "what the model makes of held-out samples")
    }
    try context.whenRoom {
      try MappedFile.requireUnchanged()
      try training.saveResults(in: run.checkpointsPath)
    }
    try context.whenRoom {
      if let before, before < step, checkpoints.keepLast > 1 {
        try AtomicFile.link(run.latestPath, as: run.checkpointPath(ofStep: before))
      }
    }
    try context.whenRoom { try training.saveCheckpoint(to: run.latestPath) }
    checkpoints.removeSurplus(before: step, in: run)
    saved = Saved(step: step, time: clock())
    try context.emit(.checkpointed(step: step, path: RunDirectory.latest))
  }

  /// Makes the error for a non-finite loss: step, location and remaining checkpoints.
  private func failure(
    _ training: some Training, saved: Int?, _ what: String = "the loss"
  ) -> FileError {
    let begin = "\(context.run.path): step \(training.step): \(what) is not finite"
    if let fault = training.faultInData() { return FileError("\(begin): \(fault)") }
    let place = training.placeOfFailure().map { ", first in \($0)" } ?? ""
    let retry = "'espalier runs retry \(context.run.id) --rate-factor 0.5"
    let rate = "half the \(rate.key) of \(numberText(rate.value))"
    guard let saved else {
      return FileError(
        "\(begin)\(place); there is no checkpoint yet; begin again with \(rate) by \(retry)'")
    }
    let older = context.run.keptSteps.last { $0 < saved }
      .map { ", or from an earlier one by adding '--step \($0)'" }
    return FileError(
      "\(begin)\(place); the last good checkpoint is \(RunDirectory.latest) of step \(saved); go on"
        + " from there with \(rate) by \(retry)'\(older ?? "")")
  }
}

/// Smoothed steps and samples per second, excluding pauses.
private struct StepRate {
  private let clock: () -> Double
  private var (start, seconds, steps, samples) = (0.0, 0.0, 0.0, 0.0)

  init(clock: @escaping () -> Double) { self.clock = clock }

  mutating func begin() { start = clock() }

  mutating func end(samples count: Int) {
    seconds = 0.9 * seconds + clock() - start
    steps = 0.9 * steps + 1
    samples = 0.9 * samples + Double(count)
  }

  var perSecond: Double { seconds > 0 ? steps / seconds : 0 }
  var samplesPerSecond: Double { seconds > 0 ? samples / seconds : 0 }
}
