import Evaluation
import Files
import Foundation
import Pictures
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Metrics of image sets")
struct SetEvaluationTests {
  /// Standard normal features (count, width), moved by `shift` in every column.
  private func features(_ count: Int, _ width: Int, seed: UInt64, shift: Float = 0) -> Tensor {
    let result = RandomStream(seed: seed, "features").normal([count, width])
    for index in 0..<result.count { result[index] += shift }
    return result
  }

  @Test func slicedWassersteinOfAShiftIsItsMeanProjection() throws {
    let (count, width, shift) = (400, 8, Float(0.5))
    let set = features(count, width, seed: 1)
    let moved = features(count, width, seed: 1, shift: shift)
    #expect(try SlicedWasserstein.squared(set, set).value == 0)
    // A direction a moves by (a . s), whose square has the mean |s|² / d.
    let expected = Double(shift * shift)
    let found = try SlicedWasserstein.squared(set, moved, directions: 4096).value
    #expect(abs(found - expected) < 0.05 * expected)
    // Every sample twice is the same distribution.
    let doubled = Tensor([2 * count, width])
    doubled.rows(0..<count).assign(set)
    doubled.rows(count..<(2 * count)).assign(set)
    #expect(try SlicedWasserstein.squared(set, doubled).value < 1e-9)
  }

  @Test func kernelDistanceByHand() throws {
    // One feature: kernel (x y + 1)³; means over pairs of different rows, and over all pairs across sets.
    let (a, b) = (Tensor([0, 1], shape: [2, 1]), Tensor([1, 2], shape: [2, 1]))
    let within = 1.0 + 27.0
    let across = (1.0 + 1.0 + 8.0 + 27.0) / 4
    #expect(
      abs(try KernelDistances.kernelInceptionDistance(a, b) - (within - 2 * across)) < 1e-12)
    #expect(try KernelDistances.clipDiscrepancy(a, a, normalizes: false) == 0)
    let far = try KernelDistances.clipDiscrepancy(
      Tensor([0], shape: [1, 1]), Tensor([10], shape: [1, 1]), normalizes: false)
    #expect(abs(far - 1000 * (2 - 2 * exp(-0.5))) < 1e-9)
  }

  @Test func scoresOfBlocksIncludeAShortOne() throws {
    // Rows that are certain of one of two classes.
    let logits = Tensor([100, 0, 0, 100, 100, 0, 0, 100, 100, 0], shape: [5, 2])
    let score = try InceptionScore(logits: logits, block: 2)
    #expect(score.scores.count == 3)
    #expect(abs(score.scores[0] - 2) < 1e-9 && abs(score.scores[2] - 1) < 1e-9)
    #expect(abs(score.mean - 5.0 / 3) < 1e-9)
  }

  @Test func setsOfPicturesOpenFromFoldersAndArchives() throws {
    let scratch = try Scratch()
    let folder = scratch.path
    try AtomicFile.makeDirectory("\(folder)/set/cats")
    for (index, grey) in [UInt8(10), 200].enumerated() {
      try RGBImage(width: 5, height: 4, grey: grey).write(to: "\(folder)/set/cats/\(index).png")
    }
    let set = try ImageSet(path: "\(folder)/set")
    #expect(set.count == 2 && ImageSet.isSet("\(folder)/set"))
    #expect(try set.image(1) == RGBImage(width: 5, height: 4, grey: 200))
    let digest = try set.digest(cache: nil)
    try RGBImage(width: 5, height: 4, grey: 11).write(to: "\(folder)/set/cats/0.png")
    #expect(try ImageSet(path: "\(folder)/set").digest(cache: nil) != digest)
    #expect(throws: FileError.self) { try ImageSet(path: folder + "/nothing") }
  }

  @Test func aFeatureReportNamesWhatIsMissing() throws {
    let scratch = try Scratch()
    let folder = scratch.path
    let paths = ["a", "b"].map { "\(folder)/\($0).npy" }
    for (index, path) in paths.enumerated() {
      let values = features(64, 4, seed: UInt64(index), shift: Float(index)).values
      try writeArray(values, shape: [64, 4], to: path)
    }
    let sets = try paths.map { try FeatureSet(path: $0) }
    let report = try SetEvaluation(
      samples: sets[0], reference: sets[1], statistics: nil, spatialStatistics: nil, resamplings: 5)
    let interval = try #require(report.frechetInterval)
    #expect(interval[0] <= interval[1] && report.inceptionScore == nil && report.precision != nil)
    #expect(report.frechetDistance > 2 && report.notes.isEmpty)
    let statistics = try SetEvaluation(
      samples: sets[0], reference: nil, statistics: try FeatureStatistics(sets[1].features),
      spatialStatistics: nil)
    #expect(abs(statistics.frechetDistance - report.frechetDistance) < 1e-9)
    #expect(statistics.notes.contains { $0.contains("statistics alone") })
  }

  private func writeArray(_ values: [Float], shape: [Int], to path: String) throws {
    var header =
      "{'descr': '<f4', 'fortran_order': False, 'shape': (\(shape[0]), \(shape[1])), }"
    header += String(repeating: " ", count: 63 - (10 + header.utf8.count) % 64) + "\n"
    var bytes: [UInt8] = [0x93] + Array("NUMPY".utf8) + [1, 0, UInt8(header.utf8.count), 0]
    bytes += Array(header.utf8)
    values.withUnsafeBytes { bytes += $0 }
    try Data(bytes).write(to: URL(filePath: path))
  }
}
