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
  /// Small pictures of a set that is being drawn.
  case sheet
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
  /// Progress of work other than training, with the estimated remaining seconds of all of it.
  case progress(done: Int, total: Int, label: String, secondsLeft: Double? = nil)
  /// An image was written; the path is relative to the run directory.
  ///
  /// With a sampler step it is the clean image that was predicted after that step.
  case sampled(
    role: SampleRole, path: String, classLabel: Int, seed: UInt64, samplerStep: Int? = nil)
  /// A message for the user.
  case message(String)
  /// The processes that share the run, after they have found each other.
  case ranks(RankReport)
  /// What the ranks use.
  case resources(step: Int, RankResources)
  /// The final event of the worker.
  case finished(outcome: RunOutcome, text: String)
}

/// The processes that share a run of an engine other than the native one.
package struct RankReport: Codable, Equatable, Sendable {
  /// Number of processes.
  package let count: Int
  /// Device of rank 0, such as `NVIDIA H200` or `cpu`.
  package let device: String
  /// Engine with its version, such as `torch 2.13.0`.
  package let engine: String
  /// How often all have been started again since the launcher began.
  package let restarts: Int

  /// Makes a report.
  package init(count: Int, device: String, engine: String, restarts: Int) {
    (self.count, self.device, self.engine, self.restarts) = (count, device, engine, restarts)
  }

  /// One line, such as `2 ranks, cpu, torch 2.13.0`.
  package var text: String {
    let again = restarts == 0 ? "" : ", restarted \(restarts) times"
    return "\(count) \(count == 1 ? "rank" : "ranks"), \(device), \(engine)\(again)"
  }
}

/// What the processes of a run use and wait for.
package struct RankResources: Codable, Equatable, Sendable {
  /// Highest memory in bytes of any rank so far, on its device.
  package var memory: Int
  /// Highest memory in bytes of each rank; empty while unknown.
  package var memoryByRank: [Int]
  /// Share of the time since the last report in which each rank has waited for others, 0 to 1.
  package var waitingByRank: [Double]
  /// Ranks that have said nothing for a while.
  package var silent: [Int]

  /// Makes a report.
  package init(
    memory: Int, memoryByRank: [Int] = [], waitingByRank: [Double] = [], silent: [Int] = []
  ) {
    (self.memory, self.memoryByRank) = (memory, memoryByRank)
    (self.waitingByRank, self.silent) = (waitingByRank, silent)
  }
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
  /// Writes one record; fields without a value are omitted.
  package func encode(to encoder: any Encoder) throws {
    var container = encoder.container(keyedBy: FieldKey.self)
    let (name, fields) = record
    try container.encode(Self.formatVersion, forKey: FieldKey("v"))
    try container.encode(time, forKey: FieldKey("t"))
    try container.encode(name, forKey: FieldKey("kind"))
    for case (let key, let value?) in fields {
      try container.encode(value, forKey: FieldKey(key))
    }
  }

  /// Name and fields of the record, as `EventScanner` reads them.
  private var record: (name: String, fields: KeyValuePairs<String, (any Encodable)?>) {
    switch kind {
    case .started(let pid, let totalSteps):
      return ("started", ["pid": pid, "total_steps": totalSteps])
    case .heartbeat(let step): return ("heartbeat", ["step": step])
    case .step(
      let step, let total, let loss, let losses, let rate, let secondsLeft, let learningRate,
      let measures):
      let sites = learningRate.flatMap { $0.sites.isEmpty ? nil : $0.sites }
      return (
        "step",
        [
          "step": step, "total": total, "loss": loss, "losses": losses, "rate": rate,
          "seconds_left": secondsLeft, "learning_rate": learningRate?.highest,
          "learning_rates": sites, "gradient_norm": measures[.gradientNorm],
          "samples_per_second": measures[.samplesPerSecond],
          "resident_memory": measures[.residentMemory],
        ]
      )
    case .heldOut(let step, let loss, let losses):
      return ("held_out", ["step": step, "loss": loss, "losses": losses])
    case .checkpointed(let step, let path): return ("checkpointed", ["step": step, "path": path])
    case .paused(let step, let reason): return ("paused", ["step": step, "reason": reason])
    case .resumed(let step): return ("resumed", ["step": step])
    case .progress(let done, let total, let label, let secondsLeft):
      return (
        "progress", ["done": done, "total": total, "label": label, "seconds_left": secondsLeft]
      )
    case .sampled(let role, let path, let classLabel, let seed, let samplerStep):
      return (
        "sampled",
        [
          "role": role, "path": path, "class_label": classLabel, "seed": seed,
          "sampler_step": samplerStep,
        ]
      )
    case .message(let text): return ("message", ["text": text])
    case .ranks(let report):
      return (
        "ranks",
        [
          "count": report.count, "device": report.device, "engine": report.engine,
          "restarts": report.restarts,
        ]
      )
    case .resources(let step, let resources):
      return (
        "resources",
        [
          "step": step, "memory": resources.memory,
          "memory_by_rank": resources.memoryByRank.isEmpty ? nil : resources.memoryByRank,
          "waiting_by_rank": resources.waitingByRank.isEmpty ? nil : resources.waitingByRank,
          "silent": resources.silent.isEmpty ? nil : resources.silent,
        ]
      )
    case .finished(let outcome, let text):
      return ("finished", ["outcome": outcome, "text": text])
    }
  }
}
