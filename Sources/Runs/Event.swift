import Foundation
import Plans

/// Outcome of a run.
package enum RunOutcome: String, Codable, Sendable {
  /// All steps were done.
  case done
  /// Stopped by a request.
  case cancelled
  /// Stopped by an error, given in the text of the event.
  case failed
}

/// Content of a sample image.
package enum SampleRole: String, Codable, CaseIterable, Sendable {
  /// The pretrained model.
  case teacher
  /// The grafted model, from the same noise.
  case graft
  /// The absolute difference of both.
  case difference
}

/// The learning rate of a training step.
package struct LearningRate: Equatable, Sendable {
  /// Maximum over the sites, or the rate of the whole model.
  package let highest: Double
  /// Rates by site; empty if all are equal.
  package let sites: [GraftSite: Double]

  /// Makes the rate of the whole model.
  package init(_ rate: Double) { (highest, sites) = (rate, [:]) }

  /// Makes rates of sites.
  package init(sites: [GraftSite: Double]) {
    highest = sites.values.max() ?? 0
    self.sites = Set(sites.values).count > 1 ? sites : [:]
  }

  /// Makes a rate as recorded in a log.
  init(highest: Double, sites: [GraftSite: Double]) {
    (self.highest, self.sites) = (highest, sites)
  }
}

/// Content of an event of a worker.
package enum EventKind: Equatable, Sendable {
  /// The worker started, or resumed from a checkpoint.
  case started(pid: Int32, totalSteps: Int)
  /// The worker is alive; sent about every second.
  case heartbeat(step: Int)
  /// A training step: mean loss, loss by site, steps per second, estimated remaining seconds,
  /// learning rate, and other measures than the learning rate.
  case step(
    step: Int, total: Int, loss: Double, losses: [GraftSite: Double], rate: Double,
    secondsLeft: Double, learningRate: LearningRate? = nil,
    measures: [StepMeasure: Double] = [:])
  /// Held-out losses by site, and in total, by default their mean.
  case heldOut(step: Int, loss: Double? = nil, losses: [GraftSite: Double])
  /// A checkpoint was written; the path is relative to the run directory.
  case checkpointed(step: Int, path: String)
  /// The worker paused by a request, or for the reason given.
  case paused(step: Int, reason: String? = nil)
  /// The worker resumed.
  case resumed(step: Int)
  /// Progress of work other than training.
  case progress(done: Int, total: Int, label: String)
  /// An image was written; the path is relative to the run directory.
  ///
  /// With a sampler step it is the clean image that was predicted after that step.
  case sampled(
    role: SampleRole, path: String, classLabel: Int, seed: UInt64, samplerStep: Int? = nil)
  /// A message for the user.
  case message(String)
  /// The final event of the worker.
  case finished(outcome: RunOutcome, text: String)
}

/// Record of a run's event log: a line of JSON such as `{"kind":"heartbeat","step":3,"t":…,"v":1}`.
///
/// Non-finite numbers are written as the strings `nan`, `inf` and `-inf`. `EventScanner` reads it.
package struct Event: Equatable, Sendable {
  /// Version of the record format.
  package static let formatVersion = 1

  /// Time in seconds since 1970.
  package var time: Double
  /// Content.
  package var kind: EventKind

  /// Makes an event, by default at the current time.
  package init(_ kind: EventKind, time: Double = Date().timeIntervalSince1970) {
    self.time = time
    self.kind = kind
  }
}

extension Event: Encodable {
  private enum CodingKeys: String, CodingKey {
    case version = "v"
    case time = "t"
    case kind, pid, step, total, loss, losses, rate, path, done, label, role, seed, text, outcome
    case reason
    case totalSteps = "total_steps"
    case secondsLeft = "seconds_left"
    case classLabel = "class_label"
    case samplerStep = "sampler_step"
    case learningRate = "learning_rate"
    case learningRates = "learning_rates"
    case gradientNorm = "gradient_norm"
    case samplesPerSecond = "samples_per_second"
    case residentMemory = "resident_memory"
  }

  private enum Name: String, Encodable {
    case started, heartbeat, step
    case heldOut = "held_out"
    case checkpointed, paused, resumed, progress, sampled, message, finished
  }

  /// Writes one record.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: CodingKeys.self)
    try container.encode(Self.formatVersion, forKey: .version)
    try container.encode(time, forKey: .time)
    switch kind {
    case .started(let pid, let totalSteps):
      try container.encode(Name.started, forKey: .kind)
      try container.encode(pid, forKey: .pid)
      try container.encode(totalSteps, forKey: .totalSteps)
    case .heartbeat(let step):
      try container.encode(Name.heartbeat, forKey: .kind)
      try container.encode(step, forKey: .step)
    case .step(
      let step, let total, let loss, let losses, let rate, let secondsLeft, let learningRate,
      let measures):
      try container.encode(Name.step, forKey: .kind)
      try container.encode(step, forKey: .step)
      try container.encode(total, forKey: .total)
      try container.encode(loss, forKey: .loss)
      try container.encode(losses, forKey: .losses)
      try container.encode(rate, forKey: .rate)
      try container.encode(secondsLeft, forKey: .secondsLeft)
      try container.encodeIfPresent(learningRate?.highest, forKey: .learningRate)
      if let sites = learningRate?.sites, !sites.isEmpty {
        try container.encode(sites, forKey: .learningRates)
      }
      for measure in StepMeasure.members {
        guard let key = CodingKeys(stringValue: measure.rawValue) else { continue }
        try container.encodeIfPresent(measures[measure], forKey: key)
      }
    case .heldOut(let step, let loss, let losses):
      try container.encode(Name.heldOut, forKey: .kind)
      try container.encode(step, forKey: .step)
      try container.encodeIfPresent(loss, forKey: .loss)
      try container.encode(losses, forKey: .losses)
    case .checkpointed(let step, let path):
      try container.encode(Name.checkpointed, forKey: .kind)
      try container.encode(step, forKey: .step)
      try container.encode(path, forKey: .path)
    case .paused(let step, let reason):
      try container.encode(Name.paused, forKey: .kind)
      try container.encode(step, forKey: .step)
      try container.encodeIfPresent(reason, forKey: .reason)
    case .resumed(let step):
      try container.encode(Name.resumed, forKey: .kind)
      try container.encode(step, forKey: .step)
    case .progress(let done, let total, let label):
      try container.encode(Name.progress, forKey: .kind)
      try container.encode(done, forKey: .done)
      try container.encode(total, forKey: .total)
      try container.encode(label, forKey: .label)
    case .sampled(let role, let path, let classLabel, let seed, let samplerStep):
      try container.encode(Name.sampled, forKey: .kind)
      try container.encode(role, forKey: .role)
      try container.encode(path, forKey: .path)
      try container.encode(classLabel, forKey: .classLabel)
      try container.encode(seed, forKey: .seed)
      try container.encodeIfPresent(samplerStep, forKey: .samplerStep)
    case .message(let text):
      try container.encode(Name.message, forKey: .kind)
      try container.encode(text, forKey: .text)
    case .finished(let outcome, let text):
      try container.encode(Name.finished, forKey: .kind)
      try container.encode(outcome, forKey: .outcome)
      try container.encode(text, forKey: .text)
    }
  }
}
