import Models
import Sampling
import TensorCore

/// The teacher with step caching, a baseline of every graft: it also samples in less time, without any training.
package struct CachedTeacher {
  private let teacher: any DiffusionTransformer
  private let sampler: LatentSampler
  private let conditions: LatentSampler.Conditions
  /// Time of a reused evaluation, relative to one of all blocks.
  private let reusedTime: Double

  /// Prepares the choice of thresholds.
  ///
  /// - Parameters:
  ///   - teacher: The pretrained model.
  ///   - sampler: Sampler of the trajectories on which reuse is counted.
  ///   - conditions: What they are for, one each.
  ///   - reusedTime: Time of a reused evaluation, relative to one of all blocks.
  package init(
    _ teacher: any DiffusionTransformer, _ sampler: LatentSampler,
    for conditions: LatentSampler.Conditions, reusedTime: Double
  ) {
    (self.teacher, self.sampler) = (teacher, sampler)
    (self.conditions, self.reusedTime) = (conditions, reusedTime)
  }

  /// Share of evaluations that a cache saves.
  package func reuse(_ cache: StepCache) throws -> Double {
    var cached = sampler
    cached.cache = cache
    let reuse = StepReuse()
    _ = try cached.sample(teacher, for: conditions, reuse: reuse)
    return reuse.share
  }

  /// Measured seconds of an image, without and with a cache, in turns.
  package func seconds(
    _ cache: StepCache, _ timing: OperatorTiming
  ) throws -> (plain: Double, cached: Double) {
    try timing.seconds(sampler, cache, for: conditions.rows(0..<1))
  }

  /// The smallest threshold, to a hundredth of it, with which sampling takes at most a fraction of the teacher's time.
  ///
  /// - Parameters:
  ///   - fraction: The fraction.
  ///   - forecasts: Whether residuals are extrapolated.
  ///   - progress: Called before every trial; may throw to stop.
  /// - Returns: The cache with the share of evaluations that it saves; nil if none is fast enough.
  /// - Throws: `SamplingError`, and errors of `progress`.
  package func cache(
    reaching fraction: Double, forecasts: Bool, progress: () throws -> Void = {}
  ) throws -> (cache: StepCache, reused: Double)? {
    func trial(_ threshold: Double) throws -> (cache: StepCache, reused: Double)? {
      try progress()
      let cache = StepCache(threshold: threshold, forecasts: forecasts)
      let reused = try reuse(cache)
      return 1 - reused * (1 - reusedTime) <= fraction ? (cache, reused) : nil
    }
    var (low, high) = (1e-4, StepCache.thresholds.upperBound)
    guard var best = try trial(high) else { return nil }
    while high / low > 1.01 {
      let middle = (low * high).squareRoot()
      if let found = try trial(middle) {
        (high, best) = (middle, found)
      } else {
        low = middle
      }
    }
    return best
  }
}
