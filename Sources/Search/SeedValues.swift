import Foundation

/// Mean of values measured with several seeds, with its uncertainty.
package struct SeedValues: Codable, Equatable, Sendable {
  package let values: [Double]

  /// Wraps values, at least one.
  package init(_ values: [Double]) {
    precondition(!values.isEmpty, "SeedValues: no values")
    self.values = values
  }

  package var mean: Double { values.reduce(0, +) / Double(values.count) }

  /// Standard error of the mean; nil for a single value.
  package var standardError: Double? {
    guard values.count > 1 else { return nil }
    let (count, mean) = (Double(values.count), mean)
    let squares = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) }
    return (squares / (count - 1) / count).squareRoot()
  }

  /// Half the width of the 95 % interval of the mean, by Student's distribution; nil for a single value.
  package var halfWidth: Double? {
    standardError.map { $0 * Self.quantile(freedom: values.count - 1) }
  }

  /// Differences to values of the same seeds.
  package func minus(_ other: SeedValues) -> SeedValues {
    precondition(values.count == other.values.count, "SeedValues: numbers of seeds differ")
    return SeedValues(zip(values, other.values).map { $0 - $1 })
  }

  /// 97.5 % quantile of Student's distribution.
  static func quantile(freedom: Int) -> Double {
    let table = [
      12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.306, 2.26216, 2.22814,
    ]
    if freedom <= table.count { return table[max(1, freedom) - 1] }
    // Two terms of the expansion about the normal quantile, right to two thousandths from 11 on.
    let (z, n) = (1.959964, Double(freedom))
    return z + (pow(z, 3) + z) / (4 * n) + (5 * pow(z, 5) + 16 * pow(z, 3) + 3 * z) / (96 * n * n)
  }
}
