import Evaluation
import Foundation
import TensorCore
import TestSupport
import Testing

@MainActor @Suite("Precision, recall and Inception score")
struct FeatureManifoldTests {
  @Test func workedExample() throws {
    // Points on a line at 0, 1, 3, 7: the second nearest others are 3, 2, 3 and 6 away.
    let line = Tensor([0, 1, 3, 7], shape: [4, 1])
    let manifold = try FeatureManifold(line, neighbor: 2)
    #expect(manifold.radii == [3, 2, 3, 6])
    let points = Tensor([-3, -3.5, 13, 13.5, 5], shape: [5, 1])
    #expect(try manifold.share(of: points) == 0.6)
    #expect(try manifold.share(of: line) == 1)
  }

  @Test func equalPointsHaveNoExtent() throws {
    let same = Tensor([Float](repeating: 0.1, count: 20), shape: [5, 4])
    let manifold = try FeatureManifold(same)
    #expect(manifold.radii == [0, 0, 0, 0, 0])
    #expect(try manifold.share(of: same) == 1)
    #expect(try manifold.share(of: .full([2, 4], 0.2)) == 0)
  }

  @Test func radiiAgreeWithSortedDistances() throws {
    var random = RandomSequence(seed: 3)
    let features = random.normal([40, 7])
    let radii = try FeatureManifold(features, neighbor: 5).radii
    for index in 0..<40 {
      let distances = (0..<40).filter { $0 != index }.map { other in
        (0..<7).reduce(0.0) {
          let d = Double(features[index * 7 + $1]) - Double(features[other * 7 + $1])
          return $0 + d * d
        }.squareRoot()
      }
      #expect(abs(radii[index] - distances.sorted()[4]) < 1e-12)
    }
  }

  @Test func inceptionScoresOfKnownTables() throws {
    // Sure and balanced over four classes: 4; always the same answer: 1.
    var sure = [Float](repeating: 0, count: 32)
    for row in 0..<8 { sure[row * 4 + row % 4] = 1 }
    let four = try InceptionScore(probabilities: Tensor(sure, shape: [8, 4]))
    #expect(abs(four.mean - 4) < 1e-12 && four.standardDeviation == 0)
    let dull = try InceptionScore(probabilities: .full([8, 4], 0.25), splits: 3)
    #expect(abs(dull.mean - 1) < 1e-12 && dull.standardDeviation < 1e-12)
    // Two splits of which the first sees one class and the second two.
    let halves = Tensor([1, 0, 1, 0, 1, 0, 0, 1], shape: [4, 2])
    let split = try InceptionScore(probabilities: halves, splits: 2)
    #expect(abs(split.mean - 1.5) < 1e-12 && abs(split.standardDeviation - 0.5) < 1e-12)
  }

  @Test func misfitsAreRefused() throws {
    #expect(throws: FeatureMetricError.self) { try FeatureManifold(.zeros([3, 2])) }
    #expect(throws: FeatureMetricError.self) { try FeatureManifold(.full([5, 2], .nan)) }
    let manifold = try FeatureManifold(.zeros([5, 2]))
    #expect(throws: FeatureMetricError.self) { try manifold.share(of: .zeros([5, 3])) }
    #expect(throws: FeatureMetricError.self) { try manifold.share(of: .full([5, 2], .infinity)) }
    #expect(throws: FeatureMetricError.self) {
      try InceptionScore(probabilities: .zeros([2, 2]), splits: 3)
    }
    #expect(throws: FeatureMetricError.self) {
      try InceptionScore(probabilities: .full([2, 2], 1.5))
    }
  }
}
