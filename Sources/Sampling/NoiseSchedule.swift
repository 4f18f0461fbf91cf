import Foundation
import Models

/// Invalid sampler settings; the text is one sentence for the user.
package struct SamplingError: Error, CustomStringConvertible, Equatable {
  /// The value found, the values allowed and what to change.
  package let description: String

  /// Makes an error from one sentence.
  package init(description: String) { self.description = description }
}

/// Variance schedule of a diffusion process with all derived tables, in double precision.
///
/// Follows `diffusion/gaussian_diffusion.py` and `diffusion/respace.py` of the DiT repository. A step
/// index counts the steps of *this* process; `timesteps` maps it to the timestep of the process
/// that the model was trained on.
package struct NoiseSchedule: Sendable, Equatable {
  /// Noise variance added by each step.
  package let betas: [Double]
  /// Timestep of the training process for each step, ascending; the input of the model.
  package let timesteps: [Int]
  /// Cumulative products of 1 - beta.
  package let alphasCumprod: [Double]
  /// Cumulative products up to the previous step; 1 for the first step.
  package let alphasCumprodPrevious: [Double]
  /// Variance of the posterior q(x_{t-1} | x_t, x_0).
  package let posteriorVariance: [Double]
  /// Logarithm of the posterior variance, whose first entry (log 0) is replaced by the second.
  ///
  /// A process of a single step has no second entry; it uses log beta there.
  package let posteriorLogVarianceClipped: [Double]
  /// Weight of x_0 in the posterior mean.
  package let posteriorMeanCoefficient1: [Double]
  /// Weight of x_t in the posterior mean.
  package let posteriorMeanCoefficient2: [Double]
  /// Square roots of the cumulative products.
  package let sqrtAlphasCumprod: [Double]
  /// Square roots of one minus the cumulative products.
  package let sqrtOneMinusAlphasCumprod: [Double]
  /// Square roots of 1 / cumulative product.
  package let sqrtRecipAlphasCumprod: [Double]
  /// Square roots of 1 / cumulative product - 1.
  package let sqrtRecipMinusOneAlphasCumprod: [Double]
  /// Logarithms of the betas, the upper end of the learned variance range.
  package let logBetas: [Double]

  /// Number of steps.
  package var count: Int { betas.count }

  /// Derives all tables from the betas.
  ///
  /// - Parameters:
  ///   - betas: Variances in (0, 1], one per step.
  ///   - timesteps: Original timestep of each step; as many as betas.
  package init(betas: [Double], timesteps: [Int]) {
    precondition(!betas.isEmpty && betas.count == timesteps.count, "NoiseSchedule: step counts")
    precondition(betas.allSatisfy { $0 > 0 && $0 <= 1 }, "NoiseSchedule: betas must be in (0, 1]")
    self.betas = betas
    self.timesteps = timesteps
    var product = 1.0
    let cumulative = betas.map { beta in
      product *= 1 - beta
      return product
    }
    let previous = [1.0] + cumulative.dropLast()
    let indices = betas.indices
    let variance = indices.map { betas[$0] * (1 - previous[$0]) / (1 - cumulative[$0]) }
    alphasCumprod = cumulative
    alphasCumprodPrevious = previous
    posteriorVariance = variance
    posteriorLogVarianceClipped =
      variance.count > 1
      ? [log(variance[1])] + variance.dropFirst().map { log($0) } : [log(betas[0])]
    posteriorMeanCoefficient1 = indices.map {
      betas[$0] * previous[$0].squareRoot() / (1 - cumulative[$0])
    }
    posteriorMeanCoefficient2 = indices.map {
      (1 - previous[$0]) * (1 - betas[$0]).squareRoot() / (1 - cumulative[$0])
    }
    sqrtAlphasCumprod = cumulative.map { $0.squareRoot() }
    sqrtOneMinusAlphasCumprod = cumulative.map { (1 - $0).squareRoot() }
    sqrtRecipAlphasCumprod = cumulative.map { (1 / $0).squareRoot() }
    sqrtRecipMinusOneAlphasCumprod = cumulative.map { (1 / $0 - 1).squareRoot() }
    logBetas = betas.map { log($0) }
  }

  /// Linear schedule of DiT: betas from 1e-4 to 0.02 over 1000 steps.
  ///
  /// - Parameter steps: Number of steps; the end points scale with 1000 / steps as upstream.
  /// - Returns: The full schedule.
  package static func linear(steps: Int = 1000) -> NoiseSchedule {
    let scale = 1000 / Double(steps)
    return linear(steps: steps, from: scale * 1e-4, to: scale * 0.02)
  }

  /// Linear schedule with the given end points.
  ///
  /// - Parameters:
  ///   - steps: Number of steps.
  ///   - first: Beta of the first step, in (0, 1].
  ///   - last: Beta of the last step, in (0, 1].
  /// - Returns: The full schedule.
  package static func linear(steps: Int, from first: Double, to last: Double) -> NoiseSchedule {
    let stride = (last - first) / Double(max(1, steps - 1))
    var betas = (0..<steps).map { Double($0) * stride + first }
    if steps > 1 { betas[steps - 1] = last }
    return NoiseSchedule(betas: betas, timesteps: Array(0..<steps))
  }

  /// Restricts the process to a subset of its timesteps.
  ///
  /// - Parameter spacing: A number of steps ("250"), comma-separated numbers for equal sections
  ///   ("10,15,20"), "ddimN" for an integer stride, or "" for every step.
  /// - Returns: A schedule whose cumulative products are those of the kept steps.
  /// - Throws: `SamplingError` if the text is none of these or asks for more steps than there are.
  package func respaced(_ spacing: String) throws(SamplingError) -> NoiseSchedule {
    if spacing.isEmpty { return self }
    return keeping(try Self.respacedIndices(spacing, count: count))
  }

  /// Restricts the process to evenly spaced timesteps, including the last one but not the first.
  ///
  /// - Parameter steps: Number of steps, 1 ..< `count`.
  /// - Returns: A schedule whose cumulative products are those of the kept steps.
  /// - Throws: `SamplingError` if the process has fewer distinct timesteps.
  package func evenlySpread(_ steps: Int) throws(SamplingError) -> NoiseSchedule {
    guard (1..<count).contains(steps) else {
      throw SamplingError(
        description:
          "sampling steps \(steps): cannot spread \(steps) steps over \(count) timesteps;"
          + " ask for 1 to \(count - 1)")
    }
    let stride = Double(count - 1) / Double(steps)
    return keeping(
      (1...steps).map { Int((Double($0) * stride).rounded(.toNearestOrEven)) })
  }

  private func keeping(_ kept: [Int]) -> NoiseSchedule {
    var last = 1.0
    let newBetas = kept.map { index in
      let beta = 1 - alphasCumprod[index] / last
      last = alphasCumprod[index]
      return beta
    }
    return NoiseSchedule(betas: newBetas, timesteps: kept.map { timesteps[$0] })
  }

  /// Returns the step indices kept by a spacing, ascending (`space_timesteps` upstream).
  ///
  /// Fractional strides accumulate in double precision and are rounded half to even.
  /// - Parameters:
  ///   - spacing: As for `respaced`, not empty.
  ///   - count: Number of steps of the process.
  /// - Returns: Indices in 0..<count.
  /// - Throws: `SamplingError` if the spacing cannot be read or does not fit.
  package static func respacedIndices(
    _ spacing: String, count: Int
  ) throws(SamplingError) -> [Int] {
    if spacing.hasPrefix("ddim") {
      guard let wanted = Int(spacing.dropFirst(4)), wanted > 0 else { throw unreadable(spacing) }
      for stride in 1..<max(2, count) where (count + stride - 1) / stride == wanted {
        return Array(Swift.stride(from: 0, to: count, by: stride))
      }
      throw SamplingError(
        description: "sampling steps \"\(spacing)\": no whole-numbered stride over \(count) "
          + "timesteps gives exactly \(wanted) steps; ask for another number, or for \"\(wanted)\" "
          + "without \"ddim\"")
    }
    var sections: [Int] = []
    for part in spacing.split(separator: ",", omittingEmptySubsequences: false) {
      guard let number = Int(part.trimmingCharacters(in: .whitespaces)), number > 0 else {
        throw unreadable(spacing)
      }
      sections.append(number)
    }
    var kept: Set<Int> = []
    var start = 0
    for (position, wanted) in sections.enumerated() {
      let size = count / sections.count + (position < count % sections.count ? 1 : 0)
      guard wanted <= size else {
        throw SamplingError(
          description: "sampling steps \"\(spacing)\": cannot take \(wanted) steps out of a "
            + "section of \(size) timesteps; ask for at most \(size)")
      }
      let stride = wanted > 1 ? Double(size - 1) / Double(wanted - 1) : 1
      var position = 0.0
      for _ in 0..<wanted {
        kept.insert(start + Int(position.rounded(.toNearestOrEven)))
        position += stride
      }
      start += size
    }
    return kept.sorted()
  }

  private static func unreadable(_ spacing: String) -> SamplingError {
    SamplingError(
      description: "sampling steps \"\(spacing)\" cannot be read; write a number such as \"50\", "
        + "\"ddim50\", or a list of section sizes such as \"10,15,20\"")
  }
}
