import Foundation
import Plans

/// State of a run.
package enum RunState: String, Codable, Sendable {
  /// No worker has started.
  case queued
  /// The engine of another program is being started.
  case starting
  /// Waits in the queue of a cluster.
  case pending
  /// The worker is running.
  case running
  /// The worker is paused.
  case paused
  /// The process of the worker is stopped (SIGSTOP).
  case frozen
  /// The host of the engine does not answer.
  case unreachable
  /// The engine is elsewhere, and no worker here follows it.
  case detached
  /// Completed.
  case done
  /// Stopped by a request.
  case cancelled
  /// Stopped by an error, given in the end of the run.
  case failed
  /// The worker ended without a final event.
  case lost

  /// Name in texts and files.
  package var name: String { rawValue }

  /// Whether the run has ended.
  package var isEnded: Bool {
    switch self {
    case .queued, .starting, .pending, .running, .paused, .frozen, .unreachable, .detached: false
    case .done, .cancelled, .failed, .lost: true
    }
  }

  /// Whether a worker has it, here or elsewhere.
  package var isUnderWay: Bool { self != .queued && !isEnded }
}

/// Image written by a worker.
package struct SampleImage: Codable, Equatable, Sendable {
  /// Content of the image.
  package let role: SampleRole
  /// Path relative to the run directory.
  package let path: String
  /// The sampler step after which it was predicted; nil for a result.
  package let samplerStep: Int?
}

/// Checkpoint written by a worker.
package struct SavedCheckpoint: Codable, Equatable, Sendable {
  /// Number of steps completed.
  package let step: Int
  /// Path relative to the run directory.
  package let path: String

  /// Makes a reference to a checkpoint.
  package init(step: Int, path: String) { (self.step, self.path) = (step, path) }
}

/// Outcome and text of the final event.
package struct RunEnd: Codable, Equatable, Sendable {
  /// Outcome of the run.
  package let outcome: RunOutcome
  /// Text for the user.
  package let text: String

  /// Makes an end.
  package init(outcome: RunOutcome, text: String) { (self.outcome, self.text) = (outcome, text) }
}

/// First and last value of a series of losses.
package struct LossChange: Codable, Equatable, Sendable {
  /// The first measurement, before or early in training.
  package private(set) var first: StepValue
  /// The last measurement.
  package private(set) var last: StepValue

  /// Makes the change over a series; nil for an empty one.
  package init?(_ series: StepSeries) {
    guard let first = series.first, let last = series.last else { return nil }
    (self.first, self.last) = (first, last)
  }

  /// Makes a change from two points.
  init(first: StepValue, last: StepValue) { (self.first, self.last) = (first, last) }
}

/// Summary of a run: request, progress and state.
///
/// Shared by explorer, queue, commands and reports. Its size is independent of the length of the
/// run; `RunHistory` has the curves.
package struct RunSummary: Codable, Equatable, Sendable {
  // From the request; see `JobRequest`.

  /// Name of the run directory.
  package var id = ""
  /// Display name; the identifier if the request cannot be read.
  package var name = ""
  /// Kind of the job; nil if the request cannot be read.
  package var kind: Job.Kind?
  /// The SHA-256 digest of the model's weights.
  package var modelHash = ""
  /// Creation time in seconds since 1970.
  package var createdAt: Double?
  /// Place in the queue; nil for a run that was started directly.
  package var place: QueuePlace?

  // From the log.

  /// Whether a worker has started.
  package var isStarted = false
  /// Start time of the last worker in seconds since 1970.
  package var startedAt: Double?
  /// Time of the last event in seconds since 1970.
  package var lastEventTime: Double?
  /// Completed steps, or other units of progress.
  package var step = 0
  /// Total number of steps; 0 while unknown.
  package var total = 0
  /// Activity whose units are counted, such as `encoding images`; nil for steps.
  package var label: String?
  /// Steps per second; nil unless the run is running and has reported it.
  package var rate: Double?
  /// Estimated remaining seconds; nil unless the run is running and has reported it.
  package var secondsLeft: Double?
  /// Mean training loss of the last step; nil until the current worker has taken one.
  package var loss: Double?
  /// Total held-out loss; the mean over the sites if there are losses by site.
  package var meanHeldOut: LossChange?
  /// The newest checkpoint.
  package var checkpoint: SavedCheckpoint?
  /// Latest images in order of writing.
  package var images: [SampleImage] = []
  /// Total number of images written.
  package var imageCount = 0
  /// Reason of a pause without request.
  package var pauseReason: String?
  /// End of the run; nil before it.
  package var end: RunEnd?
  /// The processes that share the run; nil for the native engine.
  package private(set) var ranks: RankReport?
  /// What they use; nil while unknown.
  package private(set) var resources: RankResources?
  /// Number of invalid lines of the log.
  package var damagedLines = 0

  // From the current state of worker and files.

  /// State of the run.
  package var state = RunState.queued
  /// Whether a live worker has written no event for more than `silenceLimit`.
  package var isSilent = false
  /// Sentence about unusable files of the run.
  package var damage: String?
  /// Turn in the queue; nil unless it is waiting.
  package var turn: QueueTurn?
  /// Changes of its plan to the model, if requested.
  package var changes: GraftPlan.Changes?
  /// Number of samples that its plan trains on, if requested.
  package var work: Double?
  /// Place in a chain; nil for a run that was made by itself.
  package var chain: ChainPlace?
  /// Note and tags.
  package var annotation = RunAnnotation()
  /// Name of an engine other than the native one.
  package var engine: String?
  /// Link to an engine elsewhere; nil for a run of this directory alone.
  package var link: RunLink?

  /// Total number of steps of the job from the first event of the worker; preparations count other
  /// units.
  private var totalSteps = 0
  /// Whether the worker is paused.
  private var isPaused = false

  /// Seconds without an event after which a worker is silent; it writes one about every second.
  package static let silenceLimit = 5.0
  /// Seconds for which an event shows that a worker on another host is alive.
  package static let freshness = 120.0
  /// Maximum number of stored images.
  private static let imageLimit = 160

  /// Makes the summary of a run before its first event.
  package init(
    id: String = "", name: String = "", kind: Job.Kind? = nil, modelHash: String = "",
    createdAt: Double? = nil, state: RunState = .queued
  ) {
    (self.id, self.name, self.kind, self.modelHash) = (id, name, kind, modelHash)
    (self.createdAt, self.state) = (createdAt, state)
  }

  /// All properties except those of the plan, the notes, and the request's chain and engine.
  private enum CodingKeys: CodingKey {
    case id, name, kind, modelHash, createdAt, place, isStarted, startedAt, lastEventTime, step,
      total
    case label, rate, secondsLeft, loss, meanHeldOut, checkpoint, images, imageCount, pauseReason,
      end
    case ranks, resources, damagedLines, state, isSilent, damage, turn, totalSteps, isPaused
  }

  /// Progress text: `step 5 of 60`, `encoding images 64 of 480`.
  package var progressText: String { "\(label ?? "step") \(step) of \(total)" }

  /// Whether it trains a plan, and so has losses and checkpoints.
  package var isTraining: Bool { kind?.isTraining ?? false }

  /// Whether it is worth a place in lists and in the queue, which runs a limited number at once.
  package var isQueueable: Bool { kind.map { $0 != .preview && $0 != .analyze } ?? false }

  /// Seconds from the start of the last worker to the last event; nil before its first event.
  package var duration: Double? {
    guard let startedAt, let lastEventTime else { return nil }
    return lastEventTime - startedAt
  }

  /// Whether the run has not ended.
  package var isAlive: Bool { !state.isEnded }

  /// Name of the state, with the reason of a pause without request or of the link's state.
  package var stateText: String { stateReason.map { "\(state.name): \($0)" } ?? state.name }

  /// Why it is in its state, where that was not asked for; nil where there is nothing to say.
  package var stateReason: String? {
    switch state {
    case .paused: pauseReason
    case .pending, .unreachable: link?.reason
    case .detached:
      link.map {
        $0.reason ?? "it may go on at \($0.host); 'espalier runs resume' follows it again"
      }
    default: nil
    }
  }

  // MARK: - From the log

  /// Applies the next event.
  mutating func apply(_ event: Event) {
    lastEventTime = event.time
    switch event.kind {
    case .started(_, let totalSteps):
      (isStarted, startedAt) = (true, event.time)
      (isPaused, pauseReason, end) = (false, nil, nil)
      (total, self.totalSteps, label) = (totalSteps, totalSteps, nil)
      (step, rate, secondsLeft, loss) = (checkpoint?.step ?? 0, nil, nil, nil)
    case .heartbeat(let step): self.step = max(self.step, step)
    case .step(let step, let total, let loss, _, let rate, let secondsLeft, _, _):
      (self.step, self.total, self.rate, self.secondsLeft) = (step, total, rate, secondsLeft)
      (self.loss, label) = (loss, nil)
    case .heldOut(let step, let loss, let losses):
      (self.step, label) = (step, nil)
      if totalSteps > 0 { total = totalSteps }
      if let value = loss ?? losses.mean {
        let point = StepValue(step: step, value: value)
        let first = meanHeldOut.map(\.first).flatMap { $0.step < step ? $0 : nil }
        meanHeldOut = LossChange(first: first ?? point, last: point)
      }
    case .checkpointed(let step, let path):
      self.step = step
      checkpoint = SavedCheckpoint(step: step, path: path)
    case .paused(let step, let reason):
      (isPaused, pauseReason) = (true, reason)
      // Units of a preparation are not steps.
      if label == nil { self.step = step }
    case .resumed(let step):
      (isPaused, pauseReason, end) = (false, nil, nil)
      if label == nil { self.step = step }
    case .progress(let done, let total, let label, let secondsLeft):
      (step, self.total, self.label) = (done, total, label)
      if let secondsLeft { self.secondsLeft = secondsLeft }
    case .sampled(let role, let path, _, _, let samplerStep):
      images.append(SampleImage(role: role, path: path, samplerStep: samplerStep))
      imageCount += 1
      if images.count > Self.imageLimit { images.removeFirst() }
    case .message: break
    case .ranks(let report): ranks = report
    case .resources(_, let resources): self.resources = resources
    case .finished(let outcome, let text):
      end = RunEnd(outcome: outcome, text: text)
      if outcome == .done, label != nil {
        // The last units of work other than steps need not have been reported.
        if totalSteps > 0 { total = totalSteps }
        step = total
      }
      label = nil
      // The run ended during a preparation, whose units are not steps.
      if outcome != .done, totalSteps > 0, total != totalSteps {
        (step, total) = (checkpoint?.step ?? 0, totalSteps)
      }
    }
  }

  // MARK: - Current state

  /// Returns the summary with its current state.
  ///
  /// - Parameters:
  ///   - worker: State of its worker; nil if none was recorded.
  ///   - now: Current time.
  ///   - quiet: Seconds since the log last grew, by clocks other than the worker's.
  ///   - link: Link to an engine elsewhere.
  /// - Returns: The summary with its state.
  package func seen(
    worker: ProcessIdentity.Presence?, now: Date, quiet: Double = .infinity, link: RunLink? = nil
  ) -> RunSummary {
    // May be negative after a clock change.
    let age = lastEventTime.map { now.timeIntervalSince1970 - $0 } ?? .infinity
    var seen = self
    let isFresh = min(abs(age), quiet) <= Self.freshness
    seen.link = link
    seen.state =
      if let link, link.isOpen {
        state(worker, isFresh: isFresh, link)
      } else {
        state(worker, isFresh: isFresh)
      }
    if seen.state != .paused { seen.pauseReason = nil }
    if seen.state != .running { (seen.rate, seen.secondsLeft) = (nil, nil) }
    // A worker that waits for disk space writes no events.
    let speaks = seen.state == .running || seen.state == .paused && pauseReason == nil
    seen.isSilent = speaks && isStarted && min(age, quiet) > Self.silenceLimit
    return seen
  }

  /// State of a run whose engine is elsewhere: that of the link while its worker is here.
  private func state(_ worker: ProcessIdentity.Presence?, isFresh: Bool, _ link: RunLink)
    -> RunState
  {
    switch worker {
    case nil, .gone: return .detached
    case .stopped: return .frozen
    case .unseen where !isFresh: return .detached
    case .running, .unseen: break
    }
    return switch link.state {
    case .starting: .starting
    case .pending: .pending
    case .unreachable: .unreachable
    // An ended run is at work until its results are here.
    case .connected, .closed: isPaused && end == nil ? .paused : .running
    }
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

  /// Whether all numbers are in their ranges.
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
  /// Mean over the sites in a fixed order of summation; nil if empty.
  var mean: Double? {
    isEmpty ? nil : sorted { $0.key < $1.key }.reduce(0) { $0 + $1.value } / Double(count)
  }
}

extension RunDirectory {
  /// State of the run's worker; nil if none was recorded.
  func workerPresence() -> ProcessIdentity.Presence? {
    if let worker = worker() { return worker.presence }
    return access(workerPath, F_OK) == 0 ? .unseen : nil
  }
}
