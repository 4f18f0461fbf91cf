import CKernels
import TensorCore
import TestSupport
import Testing

/// Ridge regression from streamed sums against its definition.
@Suite("Normal equations", .serialized)
struct NormalEquationsTests {
  private struct Problem {
    let features, targets: Tensor
    let weights: [Double]

    init(rows: Int, inputs: Int, outputs: Int) {
      var random = RandomSequence(seed: UInt64(rows + 31 * inputs + 7 * outputs))
      features = random.normal([rows, inputs])
      targets = random.normal([rows, outputs])
      // Features with means far from zero and of unlike scales.
      for row in 0..<rows {
        for i in 0..<inputs {
          features[row * inputs + i] = features[row * inputs + i] * Float(1 + i % 5) + Float(i % 3)
        }
        for o in 0..<outputs {
          targets[row * outputs + o] += 2 * features[row * inputs + o % inputs] - Float(o)
        }
      }
      weights = (0..<rows).map { Double($0 % 4) + 0.25 }
    }

    /// The sums, added in batches of some rows.
    func equations(batch: Int, weighted: Bool = true) -> NormalEquations {
      let (rows, inputs, outputs) = (features.shape[0], features.shape[1], targets.shape[1])
      let sums = NormalEquations(inputs: inputs, outputs: outputs)
      for start in stride(from: 0, to: rows, by: batch) {
        let range = start..<min(rows, start + batch)
        sums.add(
          features.rows(range), targets.rows(range), weights: weighted ? Array(weights[range]) : nil
        )
      }
      return sums
    }
  }

  private func distance(_ found: [Float], _ wanted: [Double]) -> Double {
    guard found.count == wanted.count else { return .infinity }
    let scale = wanted.map(abs).max() ?? 1
    return (zip(found, wanted).map { abs(Double($0) - $1) }.max() ?? 0) / max(scale, 1e-9)
  }

  @Test(arguments: [(40, 3, 2), (60, 1, 4), (700, 21, 5), (300, 200, 3)], [true, false])
  func equalTheDefinition(size: (rows: Int, inputs: Int, outputs: Int), hasBias: Bool) throws {
    let problem = Problem(rows: size.rows, inputs: size.inputs, outputs: size.outputs)
    for (lambda, weighted) in [(1e-6, true), (0.1, false)] {
      let found = try #require(
        problem.equations(batch: 64, weighted: weighted).solve(lambda: lambda, hasBias: hasBias))
      let wanted = RidgeDefinition.solve(
        problem.features.doubleRows, problem.targets.doubleRows,
        weights: weighted ? problem.weights : [Double](repeating: 1, count: size.rows),
        lambda: lambda, hasBias: hasBias)
      #expect(distance(found.weight?.values ?? [], wanted.weight.flatMap(\.self)) < 1e-6)
      #expect((found.bias != nil) == hasBias)
      if hasBias { #expect(distance(found.bias?.values ?? [], wanted.bias) < 1e-6) }
    }
  }

  /// The reported share is the residual's of the returned weights.
  @Test func theUnexplainedShareIsTheResiduals() throws {
    let problem = Problem(rows: 500, inputs: 12, outputs: 4)
    let solution = try #require(problem.equations(batch: 100).solve(lambda: 1e-2, hasBias: true))
    let (weight, bias) = (try #require(solution.weight).doubleRows, try #require(solution.bias))
    let (features, targets) = (problem.features.doubleRows, problem.targets.doubleRows)
    let total = problem.weights.reduce(0, +)
    let means = (0..<4).map { o in
      zip(targets, problem.weights).reduce(0) { $0 + $1.0[o] * $1.1 } / total
    }
    var (residual, variance) = (0.0, 0.0)
    for (row, factor) in problem.weights.enumerated() {
      for o in 0..<4 {
        let predicted = zip(weight[o], features[row]).reduce(Double(bias[o])) { $0 + $1.0 * $1.1 }
        residual += factor * (targets[row][o] - predicted) * (targets[row][o] - predicted)
        variance += factor * (targets[row][o] - means[o]) * (targets[row][o] - means[o])
      }
    }
    #expect(abs(solution.unexplained - residual / variance) < 1e-6)
    #expect(solution.unexplained > 0.01 && solution.unexplained < 0.9)
  }

  @Test func withoutFeaturesTheBiasIsTheMean() throws {
    let sums = NormalEquations(inputs: 0, outputs: 2)
    sums.add(nil, Tensor([1, 10, 3, 20], shape: [2, 2]), weights: [3, 1])
    let solution = try #require(sums.solve(lambda: 1, hasBias: true))
    #expect(solution.weight == nil)
    #expect(solution.bias?.values == [1.5, 12.5])
    #expect(abs(solution.unexplained - 1) < 1e-12)
  }

  @Test func featuresThatNeverVaryExplainNothing() throws {
    let sums = NormalEquations(inputs: 2, outputs: 1)
    sums.add(.full([5, 2], 3), Tensor([1, 2, 3, 4, 5], shape: [5, 1]))
    let solution = try #require(sums.solve(lambda: 1e-4, hasBias: true))
    #expect(solution.weight?.values == [0, 0])
    #expect(solution.bias?.values == [3])
  }

  @Test func sumsThatAreNotFiniteHaveNoSolution() {
    for value in [Float.nan, .infinity] {
      let sums = NormalEquations(inputs: 1, outputs: 1)
      sums.add(Tensor([1, value, 2], shape: [3, 1]), Tensor([1, 2, 3], shape: [3, 1]))
      #expect(sums.solve(lambda: 1e-4, hasBias: true) == nil)
    }
  }

  @Test func theSameBytesWithAnyNumberOfThreads() throws {
    let problem = Problem(rows: 900, inputs: 250, outputs: 210)
    let former = Parallel.threads
    defer { ck_pool_set_threads(Int32(former)) }
    let found = try [1, 2, 3].map { threads in
      ck_pool_set_threads(Int32(threads))
      let solution = try #require(problem.equations(batch: 300).solve(lambda: 1e-5, hasBias: true))
      return [solution.weight?.values ?? [], solution.bias?.values ?? []].map {
        $0.map(\.bitPattern)
      }
    }
    #expect(found[0] == found[1] && found[0] == found[2])
  }
}
