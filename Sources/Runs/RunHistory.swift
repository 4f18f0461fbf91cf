import Plans

/// A value at a training step.
package struct LossPoint: Equatable, Sendable {
  /// The step.
  package let step: Int
  /// The value, perhaps not finite when training diverged.
  package let value: Double

  /// Makes a point.
  package init(step: Int, value: Double) {
    self.step = step
    self.value = value
  }
}

/// An image that a worker has written.
package struct SampleImage: Equatable, Sendable {
  /// What it shows.
  package let role: SampleRole
  /// Its path relative to the run directory.
  package let path: String
  /// The class that was drawn.
  package let classLabel: Int
  /// The seed of the noise.
  package let seed: UInt64
}

/// A checkpoint that a worker has written.
package struct SavedCheckpoint: Equatable, Sendable {
  /// The step after which it was written.
  package let step: Int
  /// Its path relative to the run directory.
  package let path: String
}

/// How a run ended, in the worker's own words.
package struct RunEnd: Equatable, Sendable {
  /// The kind of end.
  package let outcome: RunOutcome
  /// The worker's words, for people.
  package let text: String
}

/// Everything that a run's events tell, built up event by event.
package struct RunHistory: Equatable, Sendable {
  /// Training loss by site.
  package private(set) var losses: [GraftSite: [LossPoint]] = [:]
  /// Mean training loss over the sites.
  package private(set) var meanLoss: [LossPoint] = []
  /// Held-out loss by site.
  package private(set) var heldOut: [GraftSite: [LossPoint]] = [:]
  /// Held-out loss of the whole, which is the mean over the sites where they have losses of their own.
  package private(set) var meanHeldOut: [LossPoint] = []
  /// Images in the order they were written.
  package private(set) var samples: [SampleImage] = []
  /// Remarks for people.
  package private(set) var messages: [String] = []
  /// Checkpoints in the order of their steps.
  package private(set) var checkpoints: [SavedCheckpoint] = []
  /// The last step or other unit of progress that was reported.
  package private(set) var step = 0
  /// Steps or other units in all; 0 while unknown.
  package private(set) var total = 0
  /// Steps of the whole job, as the worker's first event says; preparations count otherwise.
  private var totalSteps = 0
  /// What is being done, while it is no training.
  package private(set) var label: String?
  /// Steps a second, as last reported.
  package private(set) var rate: Double?
  /// Estimated seconds to the end, as last reported.
  package private(set) var secondsLeft: Double?
  /// When the last event was written, in seconds since 1970.
  package private(set) var lastEventTime: Double?
  /// Whether a worker has begun.
  package private(set) var isStarted = false
  /// Whether the last worker has taken a step.
  private(set) var hasStepped = false
  /// When the last worker began, in seconds since 1970.
  package private(set) var startedAt: Double?
  /// Whether the worker waits.
  package private(set) var isPaused = false
  /// Why it waits, when nobody asked it to.
  package private(set) var pauseReason: String?
  /// How the run ended, with the worker's words; `nil` while it has not.
  package private(set) var end: RunEnd?

  /// An empty history.
  package init() {}

  /// Takes the next event.
  ///
  /// A step at or before the last one means that a worker went back to a checkpoint; what was
  /// recorded from there on is replaced.
  package mutating func apply(_ event: Event) {
    lastEventTime = event.time
    switch event.kind {
    case .started(_, let totalSteps):
      isStarted = true
      startedAt = event.time
      (isPaused, pauseReason) = (false, nil)
      end = nil
      total = totalSteps
      self.totalSteps = totalSteps
      label = nil
      (step, rate, secondsLeft) = (checkpoints.last?.step ?? 0, nil, nil)
      hasStepped = false
    case .heartbeat(let step): self.step = max(self.step, step)
    case .step(let step, let total, let loss, let losses, let rate, let secondsLeft, _):
      (self.step, self.total, self.rate, self.secondsLeft) = (step, total, rate, secondsLeft)
      label = nil
      hasStepped = true
      Self.add(LossPoint(step: step, value: loss), to: &meanLoss)
      for (site, value) in losses {
        Self.add(LossPoint(step: step, value: value), to: &self.losses[site, default: []])
      }
    case .heldOut(let step, let loss, let losses):
      (self.step, label) = (step, nil)
      if totalSteps > 0 { total = totalSteps }
      dropLosses(after: step)
      for (site, value) in losses {
        Self.add(LossPoint(step: step, value: value), to: &heldOut[site, default: []])
      }
      let mean = losses.isEmpty ? nil : losses.values.reduce(0, +) / Double(losses.count)
      if let value = loss ?? mean {
        Self.add(LossPoint(step: step, value: value), to: &meanHeldOut)
      }
    case .checkpointed(let step, let path):
      self.step = step
      checkpoints.removeAll { $0.step >= step }
      checkpoints.append(SavedCheckpoint(step: step, path: path))
    case .paused(let step, let reason):
      (isPaused, pauseReason) = (true, reason)
      // What is counted in a preparation is no step.
      if label == nil { self.step = step }
    case .resumed(let step):
      (isPaused, pauseReason, end) = (false, nil, nil)
      if label == nil { self.step = step }
    case .progress(let done, let total, let label):
      (step, self.total, self.label) = (done, total, label)
    case .sampled(let role, let path, let classLabel, let seed):
      samples.append(SampleImage(role: role, path: path, classLabel: classLabel, seed: seed))
    case .message(let text): messages.append(text)
    case .finished(let outcome, let text):
      end = RunEnd(outcome: outcome, text: text)
      label = nil
      // Ended amid preparations, such as encoding, whose units are no steps.
      if outcome != .done, totalSteps > 0, total != totalSteps {
        (step, total) = (checkpoints.last?.step ?? 0, totalSteps)
      }
    }
  }

  /// Forgets training losses of a worker that was further than the present one, which began before that.
  private mutating func dropLosses(after step: Int) {
    guard let last = meanLoss.last, last.step > step else { return }
    meanLoss.removeAll { $0.step > step }
    losses = losses.mapValues { $0.filter { $0.step <= step } }.filter { !$0.value.isEmpty }
  }

  private static func add(_ point: LossPoint, to series: inout [LossPoint]) {
    while let last = series.last, last.step >= point.step { series.removeLast() }
    series.append(point)
  }
}

extension [LossPoint] {
  /// At most about `limit` stretches of points, each by its lowest and highest value, so that a long
  /// run draws as fast as a short one and no spike is lost.
  package func thinned(limit: Int) -> [LossPoint] {
    guard limit > 0, count > 4 * limit else { return self }
    var result: [LossPoint] = []
    result.reserveCapacity(2 * limit)
    for stretch in 0..<limit {
      let bounds = (stretch * count / limit)..<((stretch + 1) * count / limit)
      guard var low = bounds.first else { continue }
      var high = low
      for index in bounds {
        if self[index].value < self[low].value { low = index }
        if self[index].value > self[high].value { high = index }
      }
      result.append(self[Swift.min(low, high)])
      if low != high { result.append(self[Swift.max(low, high)]) }
    }
    return result
  }
}
