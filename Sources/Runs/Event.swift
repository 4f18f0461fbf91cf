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
  fileprivate init(highest: Double, sites: [GraftSite: Double]) {
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
/// loss is logged like any other.
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

extension Event: Codable {
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

  private enum Name: String, Codable {
    case started, heartbeat, step
    case heldOut = "held_out"
    case checkpointed, paused, resumed, progress, sampled, message, finished
  }

  /// Reads one record.
  ///
  /// - Throws: `DecodingError` for another version, an unknown kind or a missing value.
  package init(from decoder: any Decoder) throws {
    let container = try decoder.container(keyedBy: CodingKeys.self)
    let version = try container.decode(Int.self, forKey: .version)
    guard version == Self.formatVersion else {
      throw DecodingError.dataCorruptedError(
        forKey: .version, in: container, debugDescription: "unknown version \(version)")
    }
    time = try container.decode(Double.self, forKey: .time)
    kind = try Self.kind(in: container)
  }

  private static func kind(
    in container: KeyedDecodingContainer<CodingKeys>
  ) throws -> EventKind {
    func integer(_ key: CodingKeys) throws -> Int { try container.decode(Int.self, forKey: key) }
    func real(_ key: CodingKeys) throws -> Double { try container.decode(Double.self, forKey: key) }
    func text(_ key: CodingKeys) throws -> String { try container.decode(String.self, forKey: key) }
    func losses() throws -> [GraftSite: Double] {
      try container.decode([GraftSite: Double].self, forKey: .losses)
    }
    switch try container.decode(Name.self, forKey: .kind) {
    case .started:
      let pid = try container.decode(Int32.self, forKey: .pid)
      return .started(pid: pid, totalSteps: try integer(.totalSteps))
    case .heartbeat: return .heartbeat(step: try integer(.step))
    case .step:
      return .step(
        step: try integer(.step), total: try integer(.total), loss: try real(.loss),
        losses: try losses(), rate: try real(.rate), secondsLeft: try real(.secondsLeft),
        learningRate: try learningRate(in: container))
    case .heldOut:
      return .heldOut(
        step: try integer(.step), loss: try container.decodeIfPresent(Double.self, forKey: .loss),
        losses: try losses())
    case .checkpointed: return .checkpointed(step: try integer(.step), path: try text(.path))
    case .paused:
      return .paused(
        step: try integer(.step),
        reason: try container.decodeIfPresent(String.self, forKey: .reason))
    case .resumed: return .resumed(step: try integer(.step))
    case .progress:
      return .progress(
        done: try integer(.done), total: try integer(.total), label: try text(.label))
    case .sampled:
      return .sampled(
        role: try container.decode(SampleRole.self, forKey: .role), path: try text(.path),
        classLabel: try integer(.classLabel),
        seed: try container.decode(UInt64.self, forKey: .seed))
    case .message: return .message(try text(.text))
    case .finished:
      let outcome = try container.decode(RunOutcome.self, forKey: .outcome)
      return .finished(outcome: outcome, text: try text(.text))
    }
  }

  private static func learningRate(
    in container: KeyedDecodingContainer<CodingKeys>
  ) throws -> LearningRate? {
    guard let highest = try container.decodeIfPresent(Double.self, forKey: .learningRate) else {
      return nil
    }
    let sites = try container.decodeIfPresent([GraftSite: Double].self, forKey: .learningRates)
    return LearningRate(highest: highest, sites: sites ?? [:])
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
