import Foundation
import TestSupport
import Testing

import Sampling

@Suite("Noise schedule")
@MainActor struct NoiseScheduleTests {
  private func largestError(_ found: [Double], _ expected: [Double]) -> Double {
    found.count == expected.count
      ? zip(found, expected).map { abs($0 - $1) / max(abs($1), 1e-300) }.max() ?? 0 : .infinity
  }

  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func tablesMatchReferenceInDouble() throws {
    let goldens = try Goldens("diffusion_schedule")
    let schedule = NoiseSchedule.linear()
    #expect(largestError(schedule.betas, try goldens.doubles("out.f64.betas")) < 1e-12)
    #expect(
      largestError(schedule.alphasCumprod, try goldens.doubles("out.f64.alphas_cumprod")) < 1e-12)
    let variance = try goldens.doubles("out.f64.posterior_variance")
    #expect(schedule.posteriorVariance[0] == 0 && variance[0] == 0)
    #expect(
      largestError(
        Array(schedule.posteriorVariance.dropFirst()), Array(variance.dropFirst())) < 1e-9)
    #expect(
      largestError(
        schedule.posteriorLogVarianceClipped,
        try goldens.doubles("out.f64.posterior_log_variance_clipped")) < 1e-9)
  }

  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func tablesMatchReferenceInSingle() throws {
    let goldens = try Goldens("diffusion_schedule")
    let schedule = NoiseSchedule.linear()
    let tables: [(String, [Double])] = [
      ("betas", schedule.betas), ("alphas_cumprod", schedule.alphasCumprod),
      ("alphas_cumprod_prev", schedule.alphasCumprodPrevious),
      ("posterior_variance", schedule.posteriorVariance),
      ("posterior_log_variance_clipped", schedule.posteriorLogVarianceClipped),
      ("posterior_mean_coef1", schedule.posteriorMeanCoefficient1),
      ("posterior_mean_coef2", schedule.posteriorMeanCoefficient2),
      ("sqrt_recip_alphas_cumprod", schedule.sqrtRecipAlphasCumprod),
      ("sqrt_recipm1_alphas_cumprod", schedule.sqrtRecipMinusOneAlphasCumprod),
    ]
    for (name, table) in tables {
      let expected = try goldens.tensor("out." + name).values
      let worst = zip(table, expected).map { abs(Float($0) - $1) / max(abs($1), 1e-12) }.max()
      #expect(table.count == expected.count && (worst ?? 1) < 2e-7, "\(name)")
    }
  }

  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"),
    arguments: ["250", "50", "ddim25", "8", "ddim8", "10,15,20", "1"])
  func respacingMatchesReference(spacing: String) throws {
    let goldens = try Goldens("diffusion_schedule")
    let schedule = try NoiseSchedule.linear().respaced(spacing)
    #expect(schedule.timesteps == (try goldens.integers("out.respaced.\(spacing).timesteps")))
    let betas = try goldens.tensor("out.respaced.\(spacing).betas").values
    let variance = try goldens.tensor("out.respaced.\(spacing).posterior_variance").values
    #expect(relativeError(schedule.betas.map { Float($0) }, betas) < 2e-7)
    #expect(relativeError(schedule.posteriorVariance.map { Float($0) }, variance) < 2e-7)
  }

  @Test func knownNumbers() throws {
    let schedule = NoiseSchedule.linear()
    #expect(abs(schedule.alphasCumprod[250] - 0.52142303062) < 1e-11)
    #expect(abs(schedule.alphasCumprod[999] - 4.035829765e-5) < 1e-14)
    let short = try schedule.respaced("250")
    #expect(Array(short.timesteps.prefix(3)) == [0, 4, 8])
    #expect(Array(short.timesteps.suffix(6)) == [979, 983, 987, 991, 995, 999])
    #expect(abs(short.betas[1] - 5.990655644764e-4) < 1e-15)
    #expect(abs(short.betas[249] - 0.0775193449924) < 1e-12)
    #expect(abs(short.posteriorLogVarianceClipped[0] + 9.3646281598) < 1e-9)
    #expect(abs(short.posteriorLogVarianceClipped[249] + 2.5572311526) < 1e-9)
    #expect(abs(short.posteriorMeanCoefficient1[1] - 0.8569824920) < 1e-9)
    #expect(abs(short.posteriorMeanCoefficient2[249] - 0.96045531) < 1e-8)
  }

  @Test func halfStridesRoundToEven() throws {
    // Stride 2.5 over ten indices: 0, 2.5, 5, 7.5 become 0, 2, 5, 8.
    #expect(try NoiseSchedule.respacedIndices("5", count: 11) == [0, 2, 5, 8, 10])
    #expect(try NoiseSchedule.respacedIndices("2,1", count: 5) == [0, 2, 3])
  }

  @Test func singleStepStaysFinite() throws {
    let schedule = try NoiseSchedule.linear().respaced("1")
    #expect(schedule.timesteps == [0])
    #expect(schedule.posteriorLogVarianceClipped[0].isFinite)
  }

  @Test(arguments: [
    ("1001", "at most 1000"), ("ddim300", "whole-numbered stride"), ("fast", "cannot be read"),
    ("ddim", "cannot be read"), ("0", "cannot be read"), ("10,,20", "cannot be read"),
    ("400,400,400", "at most 334"), ("-5", "cannot be read"),
  ])
  func impossibleSpacingsAreRefused(spacing: String, reason: String) {
    let error = #expect(throws: SamplingError.self) {
      try NoiseSchedule.linear().respaced(spacing)
    }
    #expect(error?.description.contains(reason) == true)
    #expect(error?.description.contains("\"\(spacing)\"") == true)
  }
}
