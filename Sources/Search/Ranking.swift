import Foundation

/// Agreement of two orders.
package enum Ranking {
  /// Spearman's rank correlation, in which equal values share their mean rank.
  ///
  /// It is NaN for fewer than two values or equal ones.
  package static func spearman(_ a: [Double], _ b: [Double]) -> Double {
    precondition(a.count == b.count, "Ranking: \(a.count) and \(b.count) values")
    return correlation(ranks(a), ranks(b))
  }

  /// Pearson's correlation.
  package static func correlation(_ a: [Double], _ b: [Double]) -> Double {
    let count = Double(a.count)
    let (meanA, meanB) = (a.reduce(0, +) / count, b.reduce(0, +) / count)
    let products = zip(a, b).reduce(0) { $0 + ($1.0 - meanA) * ($1.1 - meanB) }
    let squares = a.reduce(0) { $0 + ($1 - meanA) * ($1 - meanA) }
    let others = b.reduce(0) { $0 + ($1 - meanB) * ($1 - meanB) }
    return products / (squares * others).squareRoot()
  }

  private static func ranks(_ values: [Double]) -> [Double] {
    let order = values.indices.sorted { values[$0] < values[$1] }
    var ranks = [Double](repeating: 0, count: values.count)
    var start = 0
    while start < order.count {
      var end = start + 1
      while end < order.count, values[order[end]] == values[order[start]] { end += 1 }
      for place in start..<end { ranks[order[place]] = Double(start + end - 1) / 2 }
      start = end
    }
    return ranks
  }
}
