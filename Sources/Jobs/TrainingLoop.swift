import Dispatch
import Files
import Foundation
import Plans
import Runs

/// A training that a job takes step by step and goes on with after a checkpoint.
package protocol Training {
  /// Steps taken.
  var step: Int { get }

  /// Takes one step and returns the losses before it.
  func takeStep() -> TrainingLoss

  /// The learning rate of the last step that was taken.
  var learningRate: LearningRate { get }

  /// The losses on samples that are never trained on.
  func heldOut() -> TrainingLoss

  /// The same, and takes them into account: for rates that wait for plateaus, and the best weights,
  /// which may be written into a folder.
  func validate(in folder: String) throws -> TrainingLoss

  /// Where the last step's loss stopped being finite, if that can be told.
  func placeOfFailure() -> String?

  /// What is wrong with the samples of the last step, with what to do about it; nil if nothing is.
  func faultInData() -> String?

  /// Whether losses and gradients of a few samples are finite; a checkpoint of weights that give
  /// others would be of no use.
  func isSound() -> Bool

  /// Writes the checkpoint that `resume` reads, and beside it what else the training leaves.
  func save(to path: String) throws

  /// Goes on from a checkpoint.
  func resume(from path: String) throws
}

extension Training {
  /// Measures alone.
  package func validate(in folder: String) throws -> TrainingLoss { heldOut() }
}

extension CheckpointPolicy {
  /// Whether a checkpoint is due after a step, some seconds after the last one.
  func isDue(after step: Int, seconds elapsed: Double) -> Bool {
    step % every == 0 || minutes > 0 && elapsed >= minutes * 60
  }

  /// Keeps the newest checkpoint under the name of its step, `step-N.safetensors`, and removes those
  /// that are one too many once there is a newer one.
  ///
  /// - Throws: `FileError` when the second name cannot be given.
  func makePlace(after step: Int, in run: RunDirectory) throws {
    if keepLast > 1 {
      try AtomicFile.link(run.latestPath, as: run.checkpointPath(ofStep: step))
    }
    let kept = run.keptSteps
    // Later ones belong to steps that the run has gone back behind.
    let surplus = kept.filter { $0 > step } + kept.filter { $0 <= step }.dropLast(keepLast - 1)
    for step in surplus {
      try? FileManager.default.removeItem(atPath: run.checkpointPath(ofStep: step))
    }
  }
}

/// A loss and, where the sites of a plan have losses of their own, those.
package struct TrainingLoss {
  /// Of the whole model, or the mean over the sites.
  package private(set) var whole: Double
  /// By site.
  package private(set) var sites: [GraftSite: Double] = [:]

  /// A loss of the whole model.
  package init(_ whole: Double) { self.whole = whole }

  /// The losses of sites, and their mean.
  package init(sites: [GraftSite: Double]) {
    self.sites = sites
    let sum = sites.sorted { $0.key < $1.key }.reduce(0) { $0 + $1.value }
    whole = sites.isEmpty ? 0 : sum / Double(sites.count)
  }
}

/// Takes a training to its last step in a run directory: events, checkpoints, pause and cancellation.
package struct TrainingLoop {
  private let context: JobContext
  private let steps, heldOutEvery: Int
  private let checkpoints: CheckpointPolicy
  private let rate: (key: String, value: Double)
  private let clock: () -> Double

  /// The last checkpoint: the step after which it was written, and when.
  private struct Saved {
    var step: Int?
    var time: Double
  }

  /// Makes a loop.
  ///
  /// - Parameters:
  ///   - context: The run.
  ///   - steps: Steps in all.
  ///   - heldOutEvery: Steps between two measurements of the held-out loss.
  ///   - checkpoints: When checkpoints are written, and which are kept.
  ///   - rate: The plan's highest learning rate with its key, for advice.
  ///   - clock: Seconds that only grow.
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
  /// - Throws: `JobInterruption`, after a checkpoint if there is room for it; `RunError` when a loss is
  ///   not finite, without one.
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
    var throttle = Throttle(clock: clock)
    var speed = StepRate(clock: clock)
    while training.step < steps {
      try context.checkpoint(step: training.step)
      speed.begin()
      let loss = training.takeStep()
      speed.end()
      let step = training.step
      guard loss.whole.isFinite else { throw failure(training, saved: saved.step) }
      if throttle.isDue() || step == steps {
        let perSecond = speed.perSecond
        try context.emit(
          .step(
            step: step, total: steps, loss: loss.whole, losses: loss.sites, rate: perSecond,
            secondsLeft: Double(steps - step) / max(perSecond, 1e-9),
            learningRate: training.learningRate))
      }
      if step % heldOutEvery == 0 || step == steps {
        let folder = context.run.checkpointsPath
        try announceMeasuring(step)
        try report(try context.whenRoom { try training.validate(in: folder) }, step: step)
      }
      if checkpoints.isDue(after: step, seconds: clock() - saved.time) {
        try save(training, &saved)
      }
    }
  }

  /// Emits the held-out losses as they are now.
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

  private func save(_ training: some Training, _ saved: inout Saved) throws {
    let (step, before) = (training.step, saved.step)
    guard training.isSound() else {
      throw failure(training, saved: before, "what the model makes of held-out samples")
    }
    try context.whenRoom {
      if let before, before < step { try checkpoints.makePlace(after: before, in: context.run) }
      try training.save(to: context.run.latestPath)
    }
    saved = Saved(step: step, time: clock())
    try context.emit(.checkpointed(step: step, path: RunDirectory.latest))
  }

  /// Says at which step and where the loss stopped being finite, and what is left of the run.
  private func failure(
    _ training: some Training, saved: Int?, _ what: String = "the loss"
  ) -> RunError {
    let begin = "\(context.run.path): step \(training.step): \(what) is not finite"
    if let fault = training.faultInData() { return RunError("\(begin): \(fault)") }
    let place = training.placeOfFailure().map { ", first in \($0)" } ?? ""
    let retry = "'espalier runs retry \(context.run.id) --rate-factor 0.5"
    let rate = "half the \(rate.key) of \(numberText(rate.value))"
    guard let saved else {
      return RunError(
        "\(begin)\(place); there is no checkpoint yet; begin again with \(rate) by \(retry)'")
    }
    let older = context.run.keptSteps.last { $0 < saved }
      .map { ", or from an earlier one by adding '--step \($0)'" }
    return RunError(
      "\(begin)\(place); the last good checkpoint is \(RunDirectory.latest) of step \(saved); go on"
        + " from there with \(rate) by \(retry)'\(older ?? "")")
  }
}

/// Steps per second, smoothed, pauses left out.
private struct StepRate {
  private let clock: () -> Double
  private var (start, seconds, steps) = (0.0, 0.0, 0.0)

  init(clock: @escaping () -> Double) { self.clock = clock }

  mutating func begin() { start = clock() }

  mutating func end() {
    seconds = 0.9 * seconds + clock() - start
    steps = 0.9 * steps + 1
  }

  var perSecond: Double { seconds > 0 ? steps / seconds : 0 }
}
