/// The rows that both stages have.
package protocol TrainingSchema: SettingsSchema {
  var checkpointEvery: Setting<Int> { get }
  var checkpointMinutes: Setting<Double> { get }
  var keepLast: Setting<Int> { get }
}

extension Settings where Schema: TrainingSchema {
  /// When checkpoints are written, and which are kept.
  package var checkpoints: CheckpointPolicy {
    CheckpointPolicy(
      every: self.checkpointEvery, minutes: self.checkpointMinutes, keepLast: self.keepLast)
  }
}

/// When a training writes checkpoints, and which are kept.
package struct CheckpointPolicy: Sendable {
  /// Steps between two checkpoints.
  package let every: Int
  /// Minutes after which there is a checkpoint in any case; 0 counts steps alone.
  package let minutes: Double
  /// Checkpoints that are kept, the newest with those before it.
  package let keepLast: Int

  /// States a policy; `minutes` 0 counts steps alone.
  package init(every: Int, minutes: Double = 0, keepLast: Int = 1) {
    (self.every, self.minutes, self.keepLast) = (every, minutes, keepLast)
  }
}

/// Refuses fractions of a training that do not ascend.
@Sendable func refusalOfMilestones(_ values: [Double]) -> String? {
  values == values.sorted() ? nil : "expected ascending fractions, found \(values); sort them"
}
