import Foundation
import Plans

/// How a run ended.
package enum RunOutcome: String, Codable, Sendable {
  /// All steps were done.
  case done
  /// Somebody asked it to stop.
  case cancelled
  /// It met an error, which the text of the event says.
  case failed
}

/// What a sample image shows.
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
  /// The highest of all sites, or that of the whole model.
  package let highest: Double
  /// By site, where sites differ; else empty.
  package let sites: [GraftSite: Double]

  /// That of the whole model.
  package init(_ rate: Double) { (highest, sites) = (rate, [:]) }

  /// Those of sites.
  package init(sites: [GraftSite: Double]) {
    highest = sites.values.max() ?? 0
    self.sites = Set(sites.values).count > 1 ? sites : [:]
  }

  /// As it was recorded.
  init(highest: Double, sites: [GraftSite: Double]) {
    (self.highest, self.sites) = (highest, sites)
  }
}

/// Something that happened in a worker.
package enum EventKind: Equatable, Sendable {
  /// The worker began, or began again after a checkpoint.
  case started(pid: Int32, totalSteps: Int)
  /// The worker lives; sent about every second.
  case heartbeat(step: Int)
  /// A training step: mean loss, loss by site, steps a second, estimated seconds to the end, and the
  /// learning rate it was taken with.
  case step(
    step: Int, total: Int, loss: Double, losses: [GraftSite: Double], rate: Double,
    secondsLeft: Double, learningRate: LearningRate? = nil)
  /// Losses on samples that are never trained on: by site, and the whole, which is their mean unless
  /// it is given.
  case heldOut(step: Int, loss: Double? = nil, losses: [GraftSite: Double])
  /// A checkpoint is on disk; the path is relative to the run directory.
  case checkpointed(step: Int, path: String)
  /// The worker waits: because somebody asked, or for the reason given.
  case paused(step: Int, reason: String? = nil)
  /// The worker goes on.
  case resumed(step: Int)
  /// Progress of something that is no training.
  case progress(done: Int, total: Int, label: String)
  /// An image is on disk; the path is relative to the run directory.
  case sampled(role: SampleRole, path: String, classLabel: Int, seed: UInt64)
  /// A remark for people.
  case message(String)
  /// The worker's last event.
  case finished(outcome: RunOutcome, text: String)
}

/// One record of a run's event log: a line of JSON such as `{"kind":"heartbeat","step":3,"t":…,"v":1}`.
///
/// Numbers that JSON lacks are written as the texts `nan`, `inf` and `-inf`, so that a diverging
/// loss is logged like any other. `EventScanner` reads it.
package struct Event: Equatable, Sendable {
  /// The version of the record that this code writes and reads.
  package static let formatVersion = 1

  /// When it happened, in seconds since 1970.
  package var time: Double
  /// What happened.
  package var kind: EventKind

  /// Records an event, now unless `time` says otherwise.
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
    case learningRate = "learning_rate"
    case learningRates = "learning_rates"
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
      let step, let total, let loss, let losses, let rate, let secondsLeft, let learningRate):
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
    case .sampled(let role, let path, let classLabel, let seed):
      try container.encode(Name.sampled, forKey: .kind)
      try container.encode(role, forKey: .role)
      try container.encode(path, forKey: .path)
      try container.encode(classLabel, forKey: .classLabel)
      try container.encode(seed, forKey: .seed)
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
