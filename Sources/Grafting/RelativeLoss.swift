import Autograd
import Models
import Plans
import TensorCore

extension Graft {
  /// Squared errors of the sites' outputs on the teacher's inputs, relative to the variance of the targets: 0 is
  /// perfect, 1 as good as their mean, so that sites compare.
  ///
  /// - Parameters:
  ///   - sites: Sites of the plan.
  ///   - activations: The teacher's activations.
  ///   - progress: Called with the numbers of samples done and of all; may throw to stop.
  /// - Returns: The ratio by site.
  /// - Throws: Errors of `progress`.
  package func relativeLosses(
    _ sites: [GraftSite], on activations: TeacherActivations,
    progress: (Int, Int) throws -> Void = { _, _ in }
  ) throws -> [GraftSite: Double] {
    var (errors, squares, sums, counts):
      (
        [GraftSite: Double], [GraftSite: Double], [GraftSite: [Double]], [GraftSite: Int]
      ) = ([:], [:], [:], [:])
    try activations(Set(sites), progress: progress) { [self] seen in
      let output = output(at: seen, on: Tape(recording: false)).tensor
      let dim = seen.target.shape[2]
      var (error, square) = (0.0, 0.0)
      var sum = sums[seen.site] ?? [Double](repeating: 0, count: dim)
      for index in 0..<output.count {
        let target = Double(seen.target[index])
        let difference = Double(output[index]) - target
        error += difference * difference
        square += target * target
        sum[index % dim] += target
      }
      errors[seen.site, default: 0] += error
      squares[seen.site, default: 0] += square
      counts[seen.site, default: 0] += output.count / dim
      sums[seen.site] = sum
    }
    return errors.reduce(into: [:]) { result, item in
      let count = Double(counts[item.key] ?? 1)
      let means = (sums[item.key] ?? []).reduce(0) { $0 + $1 * $1 } / count
      result[item.key] = item.value / max((squares[item.key] ?? 0) - means, .leastNormalMagnitude)
    }
  }
}
