import Foundation
import Plans

/// What has become of a run.
package enum RunState: String, Codable, Sendable {
  /// No worker has begun.
  case queued
  /// The worker lives and works.
  case running
  /// The worker lives and waits to be resumed.
  case paused
  /// The worker's process was stopped in the middle of its work.
  case frozen
  /// All was done.
  case done
  /// Somebody stopped it.
  case cancelled
  /// The worker gave up, for the reason that the run's end tells.
  case failed
  /// The worker is gone without a last word.
  case lost

  /// One word for people and files.
  package var name: String { rawValue }

  /// Whether nothing more will happen unless somebody takes the run up again.
  package var isEnded: Bool {
    switch self {
    case .queued, .running, .paused, .frozen: false
    case .done, .cancelled, .failed, .lost: true
    }
  }
}

/// An image that a worker has written.
package struct SampleImage: Codable, Equatable, Sendable {
  /// What it shows.
  package let role: SampleRole
  /// Its path relative to the run directory.
  package let path: String
}

/// A checkpoint that a worker has written.
package struct SavedCheckpoint: Codable, Equatable, Sendable {
  /// The step after which it was written.
  package let step: Int
  /// Its path relative to the run directory.
  package let path: String

  /// Names a checkpoint.
  package init(step: Int, path: String) { (self.step, self.path) = (step, path) }
}

/// How a run ended, in the worker's own words.
package struct RunEnd: Codable, Equatable, Sendable {
  /// The kind of end.
  package let outcome: RunOutcome
  /// The worker's words, for people.
  package let text: String

  /// States an end.
  package init(outcome: RunOutcome, text: String) { (self.outcome, self.text) = (outcome, text) }
}

/// First and last of some losses.
package struct LossChange: Codable, Equatable, Sendable {
  /// The first measurement, before or early in training.
  package private(set) var first: LossPoint
  /// The last measurement.
  package private(set) var last: LossPoint

  /// The change over a series; nil for an empty one.
  package init?(_ series: LossSeries) {
    guard let first = series.first, let last = series.last else { return nil }
    (self.first, self.last) = (first, last)
  }

  /// The change so far.
  init(first: LossPoint, last: LossPoint) { (self.first, self.last) = (first, last) }
}

/// A run as it is seen from outside: what was asked for, how far it is, and what became of it.
///
/// The one picture of a run that the explorer, the queue, the commands and the reports share. Its size
/// does not depend on the run's length; `RunHistory` has the curves.
package struct RunSummary: Codable, Equatable, Sendable {
  // What was asked for; see `JobRequest`.

  /// The run directory's name.
  package var id = ""
  /// What the person called it; the identifier where the request cannot be read.
  package var name = ""
  /// What the job does; nil where the request cannot be read.
  package var kind: Job.Kind?
  /// The SHA-256 digest of the model's weights.
  package var modelHash = ""
  /// When it was asked for, in seconds since 1970.
  package var createdAt: Double?
  /// Its place in the queue; nil for one that was started at once.
  package var place: QueuePlace?

  // What the log tells.

  /// Whether a worker has begun.
  package var isStarted = false
  /// When the last worker began, in seconds since 1970.
  package var startedAt: Double?
  /// When the last event was written, in seconds since 1970.
  package var lastEventTime: Double?
  /// Steps, or other units of progress, that are done.
  package var step = 0
  /// Steps in all; 0 while unknown.
  package var total = 0
  /// What is counted instead of steps, such as `encoding images`; nil for steps.
  package var label: String?
  /// Steps a second; nil unless the run is running and has said so.
  package var rate: Double?
  /// Estimated seconds to the end; nil unless the run is running and has said so.
  package var secondsLeft: Double?
  /// Mean training loss of the last step; nil until the present worker has taken one.
  package var loss: Double?
  /// Held-out loss of the whole, which is the mean over the sites where they have losses of their own.
  package var meanHeldOut: LossChange?
  /// The newest checkpoint.
  package var checkpoint: SavedCheckpoint?
  /// The newest images, in the order they were written.
  package var images: [SampleImage] = []
  /// How many images were written.
  package var imageCount = 0
  /// Why the run is paused, when nobody asked for it.
  package var pauseReason: String?
  /// How the run ended; nil while it has not.
  package var end: RunEnd?
  /// Lines of the log that could not be understood.
  package var damagedLines = 0

  // What is true at the moment of looking.

  /// What has become of it.
  package var state = RunState.queued
  /// Whether a living worker has been silent for more than `silenceLimit`; it may be stopped.
  package var isSilent = false
  /// What of the run's files cannot be used, in a sentence.
  package var damage: String?
  /// Its turn in the queue; nil for a run that does not wait there.
  package var turn: QueueTurn?
  /// What its plan changes in the model, where somebody wants to know.
  package var changes: GraftPlan.Changes?

  /// Steps of the whole job, as the worker's first event says; preparations count otherwise.
  private var totalSteps = 0
  /// Whether the worker waits.
  private var isPaused = false

  /// Seconds without an event after which a worker, which writes one about every second, counts as silent.
  package static let silenceLimit = 5.0
  /// Seconds for which an event proves that a worker lives which cannot be asked.
  package static let freshness = 120.0
  /// Images that are kept.
  private static let imageLimit = 16

  /// A run whose log tells nothing yet.
  package init(
    id: String = "", name: String = "", kind: Job.Kind? = nil, modelHash: String = "",
    createdAt: Double? = nil, state: RunState = .queued
  ) {
    (self.id, self.name, self.kind, self.modelHash) = (id, name, kind, modelHash)
    (self.createdAt, self.state) = (createdAt, state)
  }

  /// All but the plan's changes.
  private enum CodingKeys: CodingKey {
    case id, name, kind, modelHash, createdAt, place, isStarted, startedAt, lastEventTime, step,
      total
    case label, rate, secondsLeft, loss, meanHeldOut, checkpoint, images, imageCount, pauseReason,
      end
    case damagedLines, state, isSilent, damage, turn, totalSteps, isPaused
  }

  /// How far it is: `step 5 of 60`, `encoding images 64 of 480`.
  package var progressText: String { "\(label ?? "step") \(step) of \(total)" }

  /// Whether it trains a plan, and so has losses and checkpoints.
  package var isTraining: Bool { kind?.isTraining ?? false }

  /// Whether a worker is expected to go on with it.
  package var isAlive: Bool { !state.isEnded }

  /// The state in one word, with the reason of a pause that nobody asked for.
  package var stateText: String { pauseReason.map { "\(state.name): \($0)" } ?? state.name }

  // MARK: - From the log

  /// Takes the next event.
  mutating func apply(_ event: Event) {
    lastEventTime = event.time
    switch event.kind {
    case .started(_, let totalSteps):
      (isStarted, startedAt) = (true, event.time)
      (isPaused, pauseReason, end) = (false, nil, nil)
      (total, self.totalSteps, label) = (totalSteps, totalSteps, nil)
      (step, rate, secondsLeft, loss) = (checkpoint?.step ?? 0, nil, nil, nil)
    case .heartbeat(let step): self.step = max(self.step, step)
    case .step(let step, let total, let loss, _, let rate, let secondsLeft, _):
      (self.step, self.total, self.rate, self.secondsLeft) = (step, total, rate, secondsLeft)
      (self.loss, label) = (loss, nil)
    case .heldOut(let step, let loss, let losses):
      (self.step, label) = (step, nil)
      if totalSteps > 0 { total = totalSteps }
      if let value = loss ?? losses.mean {
        let point = LossPoint(step: step, value: value)
        let first = meanHeldOut.map(\.first).flatMap { $0.step < step ? $0 : nil }
        meanHeldOut = LossChange(first: first ?? point, last: point)
      }
    case .checkpointed(let step, let path):
      self.step = step
      checkpoint = SavedCheckpoint(step: step, path: path)
    case .paused(let step, let reason):
      (isPaused, pauseReason) = (true, reason)
      // What is counted in a preparation is no step.
      if label == nil { self.step = step }
    case .resumed(let step):
      (isPaused, pauseReason, end) = (false, nil, nil)
      if label == nil { self.step = step }
    case .progress(let done, let total, let label):
      (step, self.total, self.label) = (done, total, label)
    case .sampled(let role, let path, _, _):
      images.append(SampleImage(role: role, path: path))
      imageCount += 1
      if images.count > Self.imageLimit { images.removeFirst() }
    case .message: break
    case .finished(let outcome, let text):
      end = RunEnd(outcome: outcome, text: text)
      label = nil
      // Ended amid preparations, such as encoding, whose units are no steps.
      if outcome != .done, totalSteps > 0, total != totalSteps {
        (step, total) = (checkpoint?.step ?? 0, totalSteps)
      }
    }
  }

  // MARK: - At the moment of looking

  /// The run as it is now.
  ///
  /// - Parameters:
  ///   - worker: What has become of its worker; nil when none was ever noted.
  ///   - now: The present.
  ///   - quiet: Seconds since the log was last seen to grow, by clocks other than the worker's.
  /// - Returns: The summary with its state.
  package func seen(worker: ProcessIdentity.Presence?, now: Date, quiet: Double = .infinity)
    -> RunSummary
  {
    // Negative after a clock was set back.
    let age = lastEventTime.map { now.timeIntervalSince1970 - $0 } ?? .infinity
    var seen = self
    seen.state = state(worker, isFresh: min(abs(age), quiet) <= Self.freshness)
    if seen.state != .paused { seen.pauseReason = nil }
    if seen.state != .running { (seen.rate, seen.secondsLeft) = (nil, nil) }
    // One that waits for room on the disk writes nothing.
    let speaks = seen.state == .running || seen.state == .paused && pauseReason == nil
    seen.isSilent = speaks && isStarted && min(age, quiet) > Self.silenceLimit
    return seen
  }

  private func state(_ worker: ProcessIdentity.Presence?, isFresh: Bool) -> RunState {
    switch end?.outcome {
    case .done: return .done
    case .cancelled: return .cancelled
    case .failed: return .failed
    case nil: break
    }
    switch worker {
    case nil: return isStarted ? .lost : .queued
    case .gone: return .lost
    case .stopped: return .frozen
    case .unseen where !isFresh: return .lost
    case .running, .unseen: return isPaused ? .paused : .running
    }
  }

  /// Whether the numbers are such as the readers of run directories let through.
  var isPlausible: Bool {
    let counts = [step, total, totalSteps, damagedLines, imageCount, checkpoint?.step ?? 0]
    let times = [createdAt, startedAt, lastEventTime].compactMap(\.self)
    return counts.allSatisfy(FileNumber.counts.contains)
      && times.allSatisfy(FileNumber.times.contains)
      && rate.map(FileNumber.rates.contains) ?? true
      && secondsLeft.map(FileNumber.spans.contains) ?? true && images.count <= Self.imageLimit
  }
}

extension [GraftSite: Double] {
  /// The mean over the sites, which does not depend on the order of a dictionary; nil without any.
  var mean: Double? {
    isEmpty ? nil : sorted { $0.key < $1.key }.reduce(0) { $0 + $1.value } / Double(count)
  }
}

extension RunDirectory {
  /// What can be told of the run's worker; nil when none was ever noted.
  func workerPresence() -> ProcessIdentity.Presence? {
    if let worker = worker() { return worker.presence }
    return access(workerPath, F_OK) == 0 ? .unseen : nil
  }
}
