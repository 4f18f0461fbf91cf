/// Settings common to both stages.
package protocol TrainingSchema: SettingsSchema {
  var checkpointEvery: Setting<Int> { get }
  var checkpointMinutes: Setting<Double> { get }
  var keepLast: Setting<Int> { get }
}

/// Settings that both stages have with the same meaning and default.
package enum TrainingRows {
  static let heldOutEvery = Setting(
    "held_out_every", 100, in: 1...1e7, "steps between two measurements of the held-out loss")
  static let heldOutSamples = Setting(
    "held_out_samples", 128, in: 1...1e6, "samples of the held-out loss")
  static let checkpointEvery = Setting(
    "checkpoint_every", 100, in: 1...1e7, "steps between two checkpoints", .resume)
  static let checkpointMinutes = Setting(
    "checkpoint_minutes", 10.0, in: 0...1e6,
    "minutes after which there is a checkpoint in any case; 0 counts steps alone", .resume)
  static let keepLast = Setting(
    "keep_last", 1, in: 1...1000, "checkpoints that are kept, the newest included", .resume)
  package static let timestepDensity = Setting(
    "timestep_density", [[Double]]?.none,
    "relative density of the training timesteps as knots [timestep, weight], linear in between;"
      + " without it uniform",
    refusing: { knots in
      guard let knots, TimestepDensity.weights(knots) == nil else { return nil }
      return
        "expected [timestep, weight] with rising timesteps from 0 to 999 and weights of at least"
        + " 0, one of them positive, found \(knots.json.prefix(60)); correct the list"
    })
}

/// Density of the timesteps of a training as knots [timestep, weight] with rising timesteps, linear in between,
/// and constant before the first and after the last.
package enum TimestepDensity {
  /// Number of timesteps of the training process.
  package static let timesteps = 1000

  /// Weights of all timesteps; nil if the knots are not of that form or have no positive, finite sum.
  package static func weights(_ knots: [[Double]]) -> [Double]? {
    guard !knots.isEmpty, knots.allSatisfy({ $0.count == 2 && $0[1] >= 0 && $0[1].isFinite }),
      zip(knots, knots.dropFirst()).allSatisfy({ $0[0] < $1[0] }),
      knots[0][0] >= 0, knots[knots.count - 1][0] <= Double(timesteps - 1)
    else { return nil }
    let weights = (0..<timesteps).map { step in
      let position = Double(step)
      let above = knots.firstIndex { $0[0] >= position } ?? knots.count
      if above == 0 { return knots[0][1] }
      if above == knots.count { return knots[above - 1][1] }
      let (low, high) = (knots[above - 1], knots[above])
      return low[1] + (high[1] - low[1]) * (position - low[0]) / (high[0] - low[0])
    }
    let total = weights.reduce(0, +)
    return total > 0 && total.isFinite ? weights : nil
  }
}

extension Settings where Schema: TrainingSchema {
  /// Checkpoint policy.
  package var checkpoints: CheckpointPolicy {
    CheckpointPolicy(
      every: self.checkpointEvery, minutes: self.checkpointMinutes, keepLast: self.keepLast)
  }
}

/// Optimizer of the weights.
package enum OptimizerName: String, SettingChoice {
  case adamw
  /// Muon for the matrices of attention and MLP, AdamW for everything else.
  case muon
}

/// Interval of checkpoints and number of kept ones.
package struct CheckpointPolicy: Sendable {
  /// Steps between checkpoints.
  package let every: Int
  /// Maximum minutes between checkpoints; 0 for no limit.
  package let minutes: Double
  /// Number of checkpoints kept, including the newest.
  package let keepLast: Int

  /// Makes a policy; `minutes` 0 disables the time limit.
  package init(every: Int, minutes: Double = 0, keepLast: Int = 1) {
    (self.every, self.minutes, self.keepLast) = (every, minutes, keepLast)
  }
}

/// Returns a reason if fractions of a training are not ascending.
@Sendable func refusalOfMilestones(_ values: [Double]) -> String? {
  values == values.sorted() ? nil : "expected ascending fractions, found \(values); sort them"
}
