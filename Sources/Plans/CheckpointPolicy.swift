/// When a training writes checkpoints, and which are kept; both stages have one.
package struct CheckpointPolicy: Codable, Equatable, Sendable {
  /// Steps between two checkpoints.
  package var every: Int
  /// Minutes after which there is a checkpoint in any case; 0 counts steps alone.
  package var minutes: Double
  /// Checkpoints that are kept, the newest with those before it.
  package var keepLast: Int

  /// States a policy; `minutes` 0 counts steps alone.
  package init(every: Int, minutes: Double = 0, keepLast: Int = 1) {
    (self.every, self.minutes, self.keepLast) = (every, minutes, keepLast)
  }

  /// Its entries in a plan file: keys in order and values as JSON.
  var members: [(String, String)] {
    [
      ("checkpoint_every", "\(every)"), ("checkpoint_minutes", numberText(minutes)),
      ("keep_last", "\(keepLast)"),
    ]
  }
}
