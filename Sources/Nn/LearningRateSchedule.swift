import Foundation

/// A learning rate as a function of the step: linear warm-up, then a decay.
package struct LearningRateSchedule: Sendable, Equatable {
  /// Decay after the warm-up.
  package enum Decay: Sendable, Equatable {
    case constant
    /// Multiplied by gamma at every milestone, a step number.
    case multiStep(milestones: [Int], gamma: Double)
    /// Half a cosine period from the base rate to `final` times it at the last step.
    case cosine(totalSteps: Int, final: Double)
    /// Geometric decay from the base rate to `minimum` at the last step.
    case exponential(totalSteps: Int, minimum: Double)
  }

  package var base: Double
  package var warmupSteps: Int
  package var decay: Decay

  package init(base: Double, warmupSteps: Int = 0, decay: Decay = .constant) {
    self.base = base
    self.warmupSteps = warmupSteps
    self.decay = decay
  }

  /// Returns the rate of a step, counted from 0.
  package func rate(step: Int) -> Double {
    let warm = step < warmupSteps ? Double(step + 1) / Double(warmupSteps) : 1
    switch decay {
    case .constant: return base * warm
    case .multiStep(let milestones, let gamma):
      return base * warm * pow(gamma, Double(milestones.count { $0 <= step }))
    case .cosine(let total, let final):
      let span = Double(max(1, total - warmupSteps))
      let progress = min(1, max(0, Double(step - warmupSteps) / span))
      return base * warm * (final + (1 - final) * 0.5 * (1 + cos(.pi * progress)))
    case .exponential(let total, let minimum):
      let span = Double(max(1, total - 1 - warmupSteps))
      let progress = min(1, max(0, Double(step - warmupSteps) / span))
      return base * warm * pow(minimum / base, progress)
    }
  }
}

/// Learning-rate factor reduced on a loss plateau, as PyTorch's `ReduceLROnPlateau` with patience 1
/// and relative threshold 1e-4 (the released stage-1 trainer).
package struct PlateauReduction: Codable, Equatable, Sendable {
  /// The factor, 1 at first.
  package private(set) var factor = 1.0
  private var best: Double?
  private var failures = 0

  private static let patience = 1
  private static let threshold = 1e-4

  /// Starts with factor 1.
  package init() {}

  /// Records a loss; multiplies the factor by `gamma` on a plateau.
  package mutating func observe(_ loss: Double, gamma: Double) {
    if let best, loss >= best * (1 - Self.threshold) {
      failures += 1
    } else {
      (best, failures) = (loss, 0)
    }
    guard failures > Self.patience else { return }
    (factor, failures) = (factor * gamma, 0)
  }
}
