import Evaluation
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Fréchet distance")
struct FrechetDistanceTests {
  @Test(.enabled(if: Goldens.areAvailable, "reference files are absent"))
  func matchesReference() throws {
    let goldens = try Goldens("fid_ref")
    let real = try FeatureStatistics(try goldens.tensor("in.real"))
    let fake = try FeatureStatistics(try goldens.tensor("in.fake"))
    let mean = real.mean.map { Float($0) }
    let covariance = fake.covariance.map { Float($0) }
    #expect(relativeError(mean, try goldens.tensor("out.mean_real").values) < 1e-6)
    #expect(relativeError(covariance, try goldens.tensor("out.cov_fake").values) < 1e-6)
    let distance = try FrechetDistance.squared(real, fake)
    #expect(abs(distance - 7.588827956092544) < 1e-9)
    #expect(abs(try FrechetDistance.squared(fake, real) - distance) < 1e-9)
    #expect(abs(try FrechetDistance.squared(real, real)) < 1e-9)
  }

  @Test func workedExample() throws {
    let first = try FeatureStatistics(Tensor([0, 0, 1, 0, 0, 2, 3, 1], shape: [4, 2]))
    let second = try FeatureStatistics(Tensor([1, 1, 2, 0, 4, 2, 0, 3, 2, 2], shape: [5, 2]))
    #expect(first.mean == [1, 0.75])
    #expect(abs(first.covariance[3] - 11.0 / 12) < 1e-12 && abs(first.covariance[1]) < 1e-12)
    #expect(abs(second.covariance[1] + 0.35) < 1e-7)
    #expect(abs(try FrechetDistance.squared(first, second) - 1.43182705701) < 1e-10)
  }

  @Test func knownGaussians() throws {
    let unit = FeatureStatistics(
      count: 10, mean: [0, 0, 0], covariance: [1, 0, 0, 0, 1, 0, 0, 0, 1])
    let wide = FeatureStatistics(
      count: 10, mean: [1, 1, 1], covariance: [4, 0, 0, 0, 4, 0, 0, 0, 4])
    #expect(abs(try FrechetDistance.squared(unit, wide) - 6) < 1e-12)
  }

  @Test func singularCovariancesAreFine() throws {
    // Three samples span two of five dimensions.
    var values = [Float](repeating: 0, count: 15)
    values[0] = 1
    values[6] = 2
    let few = try FeatureStatistics(Tensor(values, shape: [3, 5]))
    let shifted = FeatureStatistics(
      count: 3, mean: few.mean.map { $0 + 2 }, covariance: few.covariance)
    #expect(abs(try FrechetDistance.squared(few, shifted) - 20) < 1e-9)
  }

  @Test func misfitsAreRefused() throws {
    let two = try FeatureStatistics(Tensor([0, 0, 1, 0], shape: [2, 2]))
    let one = try FeatureStatistics(Tensor([0, 1], shape: [2, 1]))
    #expect(throws: FeatureMetricError.self) { try FrechetDistance.squared(two, one) }
    #expect(throws: FeatureMetricError.self) {
      try FeatureStatistics(Tensor([0, 0], shape: [1, 2]))
    }
    #expect(throws: FeatureMetricError.self) {
      try FeatureStatistics(Tensor([0, .nan], shape: [2, 1]))
    }
  }
}
