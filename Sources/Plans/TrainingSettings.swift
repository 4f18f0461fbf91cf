/// Settings common to both stages.
package protocol TrainingSchema: SettingsSchema {
  var checkpointEvery: Setting<Int> { get }
  var checkpointMinutes: Setting<Double> { get }
  var keepLast: Setting<Int> { get }
}

/// Settings that both stages have with the same meaning and default.
enum TrainingRows {
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
