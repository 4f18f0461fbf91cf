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

  /// Subsets of a set that is smaller than they are asked to be are halves, which differ.
  @Test func kernelDistanceOfFewSamplesHasAnError() throws {
    func set(_ name: String, _ count: Int) -> Tensor {
      RandomStream(seed: 3, name).normal([count, 4])
    }
    let (a, b) = (set("a", 60), set("b", 60))
    let found = try KernelDistances.kernelInceptionDistance(a, b, subsets: 100, size: 1000, seed: 1)
    let halves = try KernelDistances.kernelInceptionDistance(a, b, subsets: 100, size: 30, seed: 1)
    #expect(found.mean == halves.mean && found.standardDeviation == halves.standardDeviation)
    // The standard error over independent sets of this size.
    let values = try (0..<200).map {
      try KernelDistances.kernelInceptionDistance(set("a\($0)", 60), set("b\($0)", 60))
    }
    let mean = values.reduce(0, +) / 200
    let error = (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / 199).squareRoot()
    let deviation = try #require(found.standardDeviation)
    #expect(deviation > error / 3 && deviation < error * 3, "\(deviation), \(error)")
    let pair = try KernelDistances.kernelInceptionDistance(
      set("a", 2), set("b", 2), subsets: 100, size: 1000, seed: 1)
    #expect(pair.standardDeviation == nil)
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
    #expect(report.frechetDistance > 2 && report.notes.allSatisfy { $0.contains("CLIP") })
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

@MainActor @Suite("Weights and reference files")
struct ReferenceFileTests {
  /// Nodes of the frozen graph, of which every branch of every kind of block is stated here by hand.
  @Test func nodesOfTheFrozenGraph() {
    let aliases = InceptionV3.graphAliases
    let nodes = Set(aliases.values.map(\.node))
    // 94 convolutions with five tensors each, and the last layer.
    #expect(aliases.count == 94 * 5 + 1 && nodes.count == aliases.count)
    for (unit, node) in [
      ("Conv2d_1a_3x3", "conv"), ("Conv2d_2a_3x3", "conv_1"), ("Conv2d_2b_3x3", "conv_2"),
      ("Conv2d_3b_1x1", "conv_3"), ("Conv2d_4a_3x3", "conv_4"),
      ("Mixed_5b.branch1x1", "mixed/conv"), ("Mixed_5b.branch5x5_2", "mixed/tower/conv_1"),
      ("Mixed_5c.branch3x3dbl_3", "mixed_1/tower_1/conv_2"),
      ("Mixed_5d.branch_pool", "mixed_2/tower_2/conv"), ("Mixed_6a.branch3x3", "mixed_3/conv"),
      ("Mixed_6a.branch3x3dbl_1", "mixed_3/tower/conv"),
      ("Mixed_6a.branch3x3dbl_3", "mixed_3/tower/conv_2"),
      ("Mixed_6b.branch7x7_3", "mixed_4/tower/conv_2"),
      ("Mixed_6c.branch7x7dbl_5", "mixed_5/tower_1/conv_4"),
      ("Mixed_6d.branch1x1", "mixed_6/conv"), ("Mixed_6e.branch_pool", "mixed_7/tower_2/conv"),
      ("Mixed_7a.branch3x3_2", "mixed_8/tower/conv_1"),
      ("Mixed_7a.branch7x7x3_4", "mixed_8/tower_1/conv_3"),
      ("Mixed_7b.branch3x3_1", "mixed_9/tower/conv"),
      ("Mixed_7b.branch3x3_2a", "mixed_9/tower/mixed/conv"),
      ("Mixed_7b.branch3x3_2b", "mixed_9/tower/mixed/conv_1"),
      ("Mixed_7c.branch3x3dbl_2", "mixed_10/tower_1/conv_1"),
      ("Mixed_7c.branch3x3dbl_3b", "mixed_10/tower_1/mixed/conv_1"),
    ] {
      #expect(aliases["\(unit).conv.weight"]?.node == "\(node)/conv2d_params")
      #expect(aliases["\(unit).bn.running_var"]?.node == "\(node)/batchnorm/moving_variance")
    }
    #expect(aliases["fc.weight"]?.node == "softmax/weights")
  }

  @Test func statisticsAreWrittenAsReferenceFiles() throws {
    let scratch = try Scratch()
    try AtomicFile.makeDirectory("\(scratch.path)/set")
    for index in 0..<5 {
      try RGBImage(width: 4, height: 3, grey: UInt8(40 * index)).write(
        to: "\(scratch.path)/set/\(index).png")
    }
    let images = try ImageSet(path: "\(scratch.path)/set")
    func features(_ width: Int) -> Tensor { RandomStream(seed: 3, "w\(width)").normal([5, width]) }
    let set = FeatureSet(features: features(6), spatial: features(4), logits: features(2))
    let path = "\(scratch.path)/reference.npz"
    try ReferenceSet.write(set, of: images, to: path)
    let written = try ReferenceSet(path: path)
    let pool = try FeatureStatistics(set.features)
    #expect(written.pool?.mean == pool.mean && written.pool?.covariance == pool.covariance)
    #expect(written.spatial?.dimension == 4)
    #expect(try ImageSet(path: path).image(3) == RGBImage(width: 4, height: 3, grey: 120))
    // Images of several sizes are left out.
    try RGBImage(width: 7, height: 3, grey: 9).write(to: "\(scratch.path)/set/5.png")
    let mixed = try ImageSet(path: "\(scratch.path)/set")
    try ReferenceSet.write(set, of: mixed, to: path)
    #expect(try ReferenceSet(path: path).images == nil)
  }

  /// Parts that are there are not computed again, and damaged ones are.
  @Test func partsAreKept() throws {
    let scratch = try Scratch()
    let parts = try TensorParts(keptIn: "\(scratch.path)/parts")
    var computed = 0
    func part() throws -> [Tensor] {
      try parts.part("a", rows: 2, ["x"]) {
        computed += 1
        return [Tensor([1, 2, 3, 4], shape: [2, 2])]
      }
    }
    #expect(try part()[0].values == [1, 2, 3, 4])
    #expect(try part()[0].values == [1, 2, 3, 4] && computed == 1)
    try Data("damage".utf8).write(to: URL(filePath: "\(scratch.path)/parts/a.safetensors"))
    #expect(try part()[0].shape == [2, 2] && computed == 2)
  }
}
