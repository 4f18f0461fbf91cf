import Foundation
import Plans
import Runs

/// A training that a job takes step by step and goes on with after a checkpoint.
package protocol Training {
  /// Steps taken.
  var step: Int { get }

  /// Takes one step and returns the losses before it.
  func takeStep() -> TrainingLoss

  /// The losses on samples that are never trained on.
  func heldOut() -> TrainingLoss

  /// The same, and takes them into account: for rates that wait for plateaus, and the best weights.
  func validate() -> TrainingLoss

  /// Where the last step's loss stopped being finite, if that can be told.
  func placeOfFailure() -> String?

  /// Writes the checkpoint that `resume` reads, and what belongs beside it, into a folder.
  func save(in folder: String) throws

  /// Goes on from a checkpoint.
  func resume(from path: String) throws
}

extension Training {
  /// Measures alone.
  package func validate() -> TrainingLoss { heldOut() }
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
  private let steps, heldOutEvery, checkpointEvery: Int
  private let rate: (key: String, value: Double)

  /// The checkpoint, relative to the run directory.
  private static let checkpoint = "checkpoints/latest.safetensors"

  /// Makes a loop.
  ///
  /// - Parameters:
  ///   - context: The run.
  ///   - steps: Steps in all.
  ///   - heldOutEvery: Steps between two measurements of the held-out loss.
  ///   - checkpointEvery: Steps between two checkpoints.
  ///   - rate: The plan's highest learning rate with its key, for advice.
  package init(
    context: JobContext, steps: Int, heldOutEvery: Int, checkpointEvery: Int,
    rate: (key: String, value: Double)
  ) {
    self.context = context
    (self.steps, self.heldOutEvery, self.checkpointEvery) = (steps, heldOutEvery, checkpointEvery)
    self.rate = rate
  }

  /// Trains from the last checkpoint, or from the start, to the end, and saves.
  ///
  /// - Throws: `JobInterruption.cancelled`, after a checkpoint; `RunError` when a loss is not finite,
  ///   without one.
  package func run(_ training: some Training) throws {
    let path = "\(context.run.path)/\(Self.checkpoint)"
    var saved: Int?
    if FileManager.default.fileExists(atPath: path) {
      try training.resume(from: path)
      saved = training.step
      try context.emit(.message("resumed at step \(training.step) from its last checkpoint"))
    } else {
      try measure(training)
    }
    do {
      try advance(training, &saved)
    } catch JobInterruption.cancelled {
      try save(training, &saved)
      throw JobInterruption.cancelled
    }
    try save(training, &saved)
  }

  private func advance(_ training: some Training, _ saved: inout Int?) throws {
    var throttle = Throttle()
    var speed = StepRate()
    while training.step < steps {
      try context.checkpoint(step: training.step)
      speed.begin()
      let loss = training.takeStep()
      speed.end()
      let step = training.step
      guard loss.whole.isFinite else { throw failure(training, saved: saved) }
      if throttle.isDue() || step == steps {
        let perSecond = speed.perSecond
        try context.emit(
          .step(
            step: step, total: steps, loss: loss.whole, losses: loss.sites, rate: perSecond,
            secondsLeft: Double(steps - step) / max(perSecond, 1e-9)))
      }
      if step % heldOutEvery == 0 || step == steps {
        try report(training.validate(), step: step)
      }
      if step % checkpointEvery == 0 { try save(training, &saved) }
    }
  }

  /// Emits the held-out losses as they are now.
  package func measure(_ training: some Training) throws {
    try report(training.heldOut(), step: training.step)
  }

  private func report(_ loss: TrainingLoss, step: Int) throws {
    try context.emit(
      .heldOut(step: step, loss: loss.sites.isEmpty ? loss.whole : nil, losses: loss.sites))
  }

  private func save(_ training: some Training, _ saved: inout Int?) throws {
    try training.save(in: context.run.checkpointsPath)
    saved = training.step
    try context.emit(.checkpointed(step: training.step, path: Self.checkpoint))
  }

  /// Says at which step and where the loss stopped being finite, and what is left of the run.
  private func failure(_ training: some Training, saved: Int?) -> RunError {
    let place = training.placeOfFailure().map { ", first in \($0)" } ?? ""
    let kept =
      saved.map { "the last good checkpoint is \(Self.checkpoint) of step \($0)" }
      ?? "there is no checkpoint yet"
    return RunError(
      "\(context.run.path): step \(training.step): the loss is not finite\(place); \(kept); start a"
        + " run with a lower \(rate.key) than \(numberText(rate.value))")
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
