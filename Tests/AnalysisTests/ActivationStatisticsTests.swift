import Analysis
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Activation statistics")
struct ActivationStatisticsTests {
  private func isClose(_ found: Double, _ expected: Float, _ tolerance: Double = 1e-6) -> Bool {
    abs(found - Double(expected)) <= tolerance * max(abs(Double(expected)), 1e-12)
  }

  @Test(
    .enabled(if: Goldens.areAvailable, "reference files are absent"),
    arguments: ["gauss", "heavy", "outlier", "gelu", "const_shift"], [1, 2, 7, 1536])
  func matchesReference(name: String, parts: Int) throws {
    let goldens = try Goldens("analysis_ref")
    let values = try goldens.tensor("in.act.\(name)").values
    var found = ActivationStatistics()
    for part in 0..<parts {
      let range = (values.count * part / parts)..<(values.count * (part + 1) / parts)
      var one = ActivationStatistics()
      Array(values[range]).withUnsafeBufferPointer { one.add($0) }
      found.merge(one)
    }
    func expected(_ statistic: String) throws -> Float {
      try goldens.tensor("out.stat.\(name).\(statistic)")[0]
    }
    #expect(found.count == values.count && found.nonFinite == 0)
    #expect(abs(found.mean - Double(try expected("mean"))) <= 1e-6 * found.maximumMagnitude)
    #expect(isClose(found.variance, try expected("variance")))
    #expect(isClose(found.standardDeviation, try expected("std")))
    #expect(isClose(found.minimum, try expected("min")))
    #expect(isClose(found.maximum, try expected("max")))
    #expect(isClose(found.maximumMagnitude, try expected("max_abs")))
    #expect(isClose(found.kurtosis, try expected("kurtosis")))
  }

  @Test func largeMeanDoesNotDrownTheSpread() {
    // Values 4096 +- 1/4 and +- 1/2: exact in float32; m2 = 5/32, m4 = 17/512.
    let pattern: [Float] = [4095.5, 4095.75, 4096.25, 4096.5]
    let values = (0..<400_000).map { pattern[$0 % 4] }
    let found = ActivationStatistics(Tensor(values, shape: [400_000]))
    #expect(found.count == 400_000 && abs(found.mean - 4096) < 1e-9)
    #expect(abs(found.variance - 5.0 / 32) < 1e-9)
    #expect(abs(found.kurtosis - (17.0 / 512) / (25.0 / 1024)) < 1e-8)
  }

  @Test func brokenNumbersAreCountedApart() {
    let values: [Float] = [1, .nan, 3, .infinity, -.infinity]
    let found = ActivationStatistics(Tensor(values, shape: [5]))
    #expect(found.count == 2 && found.nonFinite == 3)
    #expect(found.mean == 2 && found.variance == 1 && found.maximum == 3)
  }

  @Test func emptyAndConstantInputs() {
    var empty = ActivationStatistics()
    empty.merge(ActivationStatistics())
    #expect(empty == ActivationStatistics() && empty.kurtosis == 0 && empty.maximumMagnitude == 0)
    let constant = ActivationStatistics(Tensor.full([3], -2))
    #expect(constant.mean == -2 && constant.variance == 0 && constant.kurtosis == 0)
    #expect(constant.maximumMagnitude == 2)
  }
}
