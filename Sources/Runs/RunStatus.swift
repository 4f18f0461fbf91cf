import Foundation
import Plans

/// What has become of a run.
package enum RunState: Equatable, Sendable {
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
  /// The worker gave up, for the reason that the text says.
  case failed(String)
  /// The worker is gone without a last word.
  case lost

  /// One word for people and files.
  package var name: String {
    switch self {
    case .queued: "queued"
    case .running: "running"
    case .paused: "paused"
    case .frozen: "frozen"
    case .done: "done"
    case .cancelled: "cancelled"
    case .failed: "failed"
    case .lost: "lost"
    }
  }

  /// Whether nothing more will happen unless somebody takes the run up again.
  package var isEnded: Bool {
    switch self {
    case .queued, .running, .paused, .frozen: false
    case .done, .cancelled, .failed, .lost: true
    }
  }
}

/// A run at a glance.
package struct RunStatus: Equatable, Sendable {
  /// What has become of it.
  package var state: RunState
  /// Why it is paused, when nobody asked for it.
  package var pauseReason: String?
  /// Steps, or other units of progress, that are done.
  package var step: Int
  /// Steps in all; 0 while unknown.
  package var total: Int
  /// What is counted instead of steps, such as `encoding images`; `nil` for steps.
  package var label: String?
  /// Steps a second; `nil` unless the run is running and has said so.
  package var rate: Double?
  /// Estimated seconds to the end; `nil` unless the run is running and has said so.
  package var secondsLeft: Double?
  /// When the last event was written, in seconds since 1970.
  package var lastEventTime: Double?
  /// Whether a living worker has been silent for more than `silenceLimit`; it may be stopped.
  package var isSilent: Bool
  /// Mean training loss of the last step.
  package var loss: Double?
  /// Training loss of the last step by site.
  package var losses: [GraftSite: Double]
  /// First and last held-out loss by site.
  package var heldOut: [GraftSite: HeldOutChange]
  /// First and last held-out loss of the whole; `nil` before the first.
  package var meanHeldOut: HeldOutChange?

  /// First and last of some held-out losses.
  package struct HeldOutChange: Equatable, Sendable {
    /// The first measurement, before or early in training.
    package let first: Double
    /// The last measurement.
    package let last: Double
  }

  /// Seconds without an event after which a worker, which sends one a second, counts as silent.
  package static let silenceLimit = 5.0

  /// Derives the status.
  ///
  /// - Parameters:
  ///   - history: All events of the run.
  ///   - isWorkerAlive: Whether its worker lives; `nil` when none was ever noted.
  ///   - isWorkerStopped: Whether the living worker's process is stopped (SIGSTOP).
  ///   - now: The present, for silence.
  package init(
    history: RunHistory, isWorkerAlive: Bool?, isWorkerStopped: Bool = false, now: Date
  ) {
    state = Self.state(history, isWorkerAlive, isWorkerStopped)
    pauseReason = state == .paused ? history.pauseReason : nil
    let isRunning = state == .running
    step = history.step
    total = history.total
    label = history.label
    rate = isRunning ? history.rate : nil
    secondsLeft = isRunning ? history.secondsLeft : nil
    lastEventTime = history.lastEventTime
    let age = history.lastEventTime.map { now.timeIntervalSince1970 - $0 } ?? 0
    // One that waits for room on the disk writes nothing.
    isSilent =
      (isRunning || state == .paused && pauseReason == nil) && age > Self.silenceLimit
    // Until the worker has taken a step, the last loss is that of an earlier one.
    loss = history.hasStepped ? history.meanLoss.last?.value : nil
    losses = history.losses.compactMapValues { $0.last?.value }
    heldOut = history.heldOut.compactMapValues(Self.change)
    meanHeldOut = Self.change(history.meanHeldOut)
  }

  private static func change(_ series: [LossPoint]) -> HeldOutChange? {
    guard let first = series.first, let last = series.last else { return nil }
    return HeldOutChange(first: first.value, last: last.value)
  }

  /// How far it is: `step 5 of 60`, `encoding images 64 of 480`.
  package var progressText: String { "\(label ?? "step") \(step) of \(total)" }

  /// The state in one word, with the reason of a pause that nobody asked for.
  package var stateText: String {
    pauseReason.map { "\(state.name): \($0)" } ?? state.name
  }

  private static func state(
    _ history: RunHistory, _ isWorkerAlive: Bool?, _ isWorkerStopped: Bool
  ) -> RunState {
    switch history.end?.outcome {
    case .done: return .done
    case .cancelled: return .cancelled
    case .failed: return .failed(history.end?.text ?? "")
    case nil: break
    }
    guard let isWorkerAlive else { return history.isStarted ? .lost : .queued }
    guard isWorkerAlive else { return .lost }
    if isWorkerStopped { return .frozen }
    return history.isPaused ? .paused : .running
  }
}

/// Follows a run's log without reading any event twice.
package struct RunFollower: Sendable {
  /// The run.
  package let run: RunDirectory
  /// What its events told up to the last poll.
  package private(set) var history = RunHistory()
  private var offset: UInt64 = 0

  /// Follows a run from its beginning.
  package init(_ run: RunDirectory) {
    self.run = run
  }

  /// Takes the events since the last poll and gives the run's status.
  package mutating func poll(now: Date = Date()) -> RunStatus {
    // The worker first: one that ends in between has by then written its last event.
    let worker = run.worker()
    let presence = worker?.presence
    let isAlive = presence.map { $0 == .running || $0 == .stopped || $0 == .unseen }
    let isStopped = presence == .stopped
    for event in run.readEvents(after: &offset) { history.apply(event) }
    var status = RunStatus(
      history: history, isWorkerAlive: isAlive, isWorkerStopped: isStopped, now: now)
    // One that is being killed is not lost.
    if status.state == .lost, run.hasRequest(.kill) { status.state = .cancelled }
    return status
  }
}

extension RunDirectory {
  /// What all of the run's events tell.
  package func history() -> RunHistory {
    var follower = RunFollower(self)
    _ = follower.poll()
    return follower.history
  }

  /// The run's status from its whole log; a reader that polls uses a `RunFollower` instead.
  package func status(now: Date = Date()) -> RunStatus {
    var follower = RunFollower(self)
    return follower.poll(now: now)
  }
}
